"""Which generators does the app offer, and how is one exchanged for another?"""

import shutil
import threading
import time
import weakref

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from gendeg import checkpoints, jobs
from gendeg.checkpoints import PRESETS, available_models, load_pipeline, read_settings, with_preset
from gendeg.jobs import Models
from gendeg.request import Request, Result, degrade
from gendeg.tab import prepare_model


@pytest.fixture
def models_folder(tiny_pipeline_folder, tiny_paper_folder, tmp_path, monkeypatch):
    """models/ with one generator of either kind; the app starts with the one of the bridge."""
    folder = tmp_path / "models"
    for name, source in (("bridge", tiny_pipeline_folder), ("paper", tiny_paper_folder)):
        shutil.copytree(source, folder / name)
    monkeypatch.setattr(checkpoints, "MODELS", folder)
    monkeypatch.setenv("GENDEG_MODEL", str(folder / "bridge"))
    return folder


REQUEST = Request(Image.new("RGB", (64, 64), "gray"), "haze", 0.1, 0.1, steps=2)


def result_of(models: Models, model: str | None = None, request: Request = REQUEST) -> Result:
    *_, result = models.generate(request, model)
    return result


def test_models_to_choose_from(models_folder, monkeypatch):
    for name, index in (("other", '{"_class_name": "StableDiffusionPipeline"}'), ("broken", "{"), ("list", "[1]")):
        (models_folder / name).mkdir()
        (models_folder / name / "model_index.json").write_text(index)
    (models_folder / "empty").mkdir()
    (models_folder / "weights.pth").write_text("a restorer's")
    assert list(available_models()) == ["models/bridge", "compact", "models/paper"], "GENDEG_MODEL's comes first"
    monkeypatch.setenv("GENDEG_MODEL", "owner/name")
    assert next(iter(available_models().items())) == ("owner/name", "owner/name")
    monkeypatch.delenv("GENDEG_MODEL")
    assert list(available_models()) == ["compact", "models/bridge", "models/paper"]


def test_settings_are_those_of_the_loaded_pipeline(tiny_pipeline_folder, tiny_paper_folder):
    for folder, presets in ((tiny_pipeline_folder, ()), (tiny_paper_folder, ("fast", "paper"))):
        settings, config = read_settings(folder), load_pipeline(folder, device="cpu").config
        for name in ("num_inference_steps", "guidance_scale", "image_guidance_scale", "resolution"):
            assert getattr(settings, name) == config[name]
        assert settings.presets == presets and not settings.structure_correction
    assert read_settings("compact").structure_correction


def test_settings_of_what_is_no_generator(tmp_path):
    with pytest.raises(ValueError, match="No generator"):
        read_settings(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    for read in (read_settings, load_pipeline):
        with pytest.raises(ValueError, match="is not a GenDeg pipeline but a StableDiffusionPipeline"):
            read(tmp_path)


def test_one_model_at_a_time(models_folder, monkeypatch):
    """The old one is gone when the new one is loaded; each is loaded once as long as no other is asked for."""
    alive, loads = [], []

    def load(source):
        loads.append((source.name, [reference() is not None for reference in alive]))
        pipeline = load_pipeline(source, device="cpu")
        alive.append(weakref.ref(pipeline.unet))
        return pipeline

    monkeypatch.setattr(jobs, "load_pipeline", load)
    models = Models()
    for model in (None, "models/bridge", "models/paper", "models/paper", None):
        assert result_of(models, model).degraded.size == (64, 64)
    assert loads == [("bridge", []), ("paper", [False]), ("bridge", [False, False])]


def test_a_model_that_cannot_be_loaded_ends_nothing(models_folder):
    (models_folder / "paper" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    models = Models()
    first = result_of(models)
    for attempt in (models.prepare, lambda model: result_of(models, model)):
        with pytest.raises(ValueError, match=r"paper/unet/diffusion_pytorch_model.safetensors is missing or damaged"):
            attempt("models/paper")
    with pytest.raises(ValueError, match=r"There is no model '/etc'\. Choose one of: models/bridge, compact"):
        result_of(models, "/etc")
    assert result_of(models).mu == first.mu


def test_a_folder_that_lacks_files_is_a_sentence(models_folder):
    shutil.rmtree(models_folder / "paper" / "text_encoder")
    with pytest.raises(ValueError, match=r"paper/text_encoder/config.json is missing or damaged"):
        load_pipeline(models_folder / "paper", device="cpu")


def test_another_model_waits_for_the_running_job(models_folder):
    models = Models()
    models.prepare()
    events = models.generate(Request(REQUEST.photo, "haze", 0.1, 0.1, steps=50))
    next(event for event in events if event is not None)
    swap = threading.Thread(target=models.prepare, args=["models/paper"])
    swap.start()
    assert [event for event in events if isinstance(event, Result)], "the job ended well, with its own model"
    swap.join(120)
    assert models._pipeline.config.num_inference_steps == 100


def test_a_model_is_loaded_beside_other_work(models_folder):
    models = Models()
    with models._running:  # as a job does
        prepare_model(models, "models/paper")
        prepare_model(models, "models/bridge", unless_loaded=True)
        assert not models.loaded()
    deadline = time.monotonic() + 60
    while not models.loaded() and time.monotonic() < deadline:
        time.sleep(0.01)
    prepare_model(models, "models/none")  # its first job says what is wrong with it
    models.prepare("models/paper", unless_loaded=False)
    prepare_model(models, "models/bridge", unless_loaded=True)
    models.prepare("models/bridge", unless_loaded=True)
    assert models.loaded("models/paper") and not models.loaded("models/bridge")


def test_a_preset_holds_for_its_request(tiny_paper_folder):
    pipeline = load_pipeline(tiny_paper_folder, device="cpu")
    own, samplers = type(pipeline.scheduler), []

    def look(pipeline, *_):
        samplers.append((type(pipeline.scheduler), len(pipeline.scheduler.timesteps)))

    for preset in ("fast", None):
        degrade(pipeline, [Request(REQUEST.photo, "haze", 0.1, 0.1, preset=preset, steps=(preset and 3) or 2)], look)
    assert samplers == [(PRESETS["fast"].scheduler, 3)] * 3 + [(own, 2)] * 2
    sampled = with_preset(pipeline, "fast")
    assert (sampled.config.num_inference_steps, type(sampled.scheduler)) == (15, PRESETS["fast"].scheduler)
    assert (pipeline.config.num_inference_steps, type(pipeline.scheduler)) == (100, own)
    assert sampled.unet is pipeline.unet


def test_a_preset_that_the_model_has_no_use_for(models_folder):
    with pytest.raises(ValueError, match="for generators that start from noise"):
        result_of(Models(), None, Request(REQUEST.photo, "haze", 0.1, 0.1, preset="paper"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory: 9 bytes")])
def test_out_of_memory_is_a_sentence_and_not_the_end(models_folder, error, monkeypatch):
    def fail(*_, **__):
        raise error

    models = Models()
    models.prepare("models/paper")
    monkeypatch.setattr(AutoencoderKL, "decode", fail)
    with pytest.raises(ValueError, match=r"not enough memory for 64 × 64 pixels\. A smaller working size"):
        result_of(models, "models/paper")
    with pytest.raises(ValueError, match="not enough memory for 5 images of 64 × 64 pixels at once"):
        list(models.sweep(REQUEST, "models/paper"))
    monkeypatch.undo()
    monkeypatch.setattr(checkpoints, "MODELS", models_folder)
    assert result_of(models, "models/paper").degraded.size == (64, 64)
