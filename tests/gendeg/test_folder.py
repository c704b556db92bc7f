"""A folder of any origin is a generator that works, or a sentence that names the file and what is wrong in it."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gendeg import load_pipeline
from gendeg.checkpoints import read_settings
from runtime.errors import UserError

FILES = {
    "model_index.json": "",
    "scheduler_config.json": "scheduler",
    **{f"config.json of {part}": part for part in ("unet", "vae", "text_encoder", "intensity_projection")},
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 300) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
JSON_OF_A_SETTING = ANY_JSON | st.sampled_from([0, 1, 2, 7, 0.5, -1, 1e300, float("nan"), float("inf"), True, [], {}])


@pytest.fixture(params=["bridge", "paper"])
def folder(request, tiny_pipeline_folder, tiny_paper_folder, tmp_path):
    """A copy of a generator, whose weights are links."""
    source = tiny_pipeline_folder if request.param == "bridge" else tiny_paper_folder
    shutil.copytree(source, tmp_path / "mine", copy_function=os.link)
    for file in (tmp_path / "mine").rglob("*.json"):
        content = file.read_text()
        file.unlink()
        file.write_text(content)
    return tmp_path / "mine"


def config_file(folder, name):
    return folder / FILES[name] / name.partition(" ")[0]


def change(file, **settings):
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | settings))
    return before


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_of_any_setting_is_a_model_that_works_or_a_sentence(folder, data):
    file = config_file(folder, data.draw(st.sampled_from(sorted(FILES))))
    name = data.draw(st.sampled_from(sorted(json.loads(file.read_text()))))
    before = change(file, **{name: data.draw(JSON_OF_A_SETTING)})
    try:
        read_settings(folder)
        pipeline = load_pipeline(folder, device="cpu")
    except UserError as error:
        assert "mine" in str(error) and len(str(error)) < 600
    else:
        output = pipeline(torch.full((3, 40, 48), 0.4), "snow", 0.1, 0.1, resolution=40, output_type="pt",
                          num_inference_steps=1)  # fmt: skip
        assert output.images.isfinite().all()
    finally:
        file.write_text(before)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(content=ANY_JSON, name=st.sampled_from(sorted(FILES)), text=st.text(max_size=20) | st.none())
def test_any_content_of_any_file_is_a_sentence(folder, content, name, text):
    file = config_file(folder, name)
    before = file.read_text()
    file.write_text(json.dumps(content) if text is None else text, encoding="utf-8", errors="replace")
    try:
        with pytest.raises(UserError):
            load_pipeline(folder, device="cpu")
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("model_index.json", {"resolution": "large"}, "mine/model_index.json: the setting 'resolution' must be"),
        ("model_index.json", {"resolution": [64]}, "'resolution' must be a whole number, not .64."),
        ("model_index.json", {"resolution": True}, "'resolution' must be a whole number, not True"),
        ("model_index.json", {"guidance_scale": float("nan")}, "'guidance_scale' must be from 0 to .*, not nan"),
        ("model_index.json", {"num_inference_steps": -1}, "'num_inference_steps' must be from"),
        ("model_index.json", {"num_inference_steps": 10**9}, "'num_inference_steps' must be from"),
        ("model_index.json", {"num_inference_steps": {"haze": 3}}, "must have one value for each of haze, rain"),
        ("model_index.json", {"temperature": {"haze": [1.0]}}, "'temperature' must have two numbers"),
        ("model_index.json", {"resolutoin": 64}, "mine/model_index.json: there is no setting 'resolutoin'"),
        ("model_index.json", {"unet": ["os", "system"]}, "'unet' names no unet of a generator but"),
        ("model_index.json", {"scheduler": ["my_module", "MyScheduler"]}, "'scheduler' names no scheduler"),
        ("model_index.json", {"unet": None}, "'unet' names no unet"),
        ("config.json of unet", {"in_channels": 8.5}, "mine/unet/config.json: the setting 'in_channels'"),
        ("config.json of unet", {"layers_per_block": 10**6}, "'layers_per_block' must be from 0 to 512"),
        ("config.json of unet", {"quantization_config": {}}, "mine/unet/config.json: there is no setting"),
        ("config.json of text_encoder", {"hidden_size": "16"}, "text_encoder/config.json: the setting 'hidden_size'"),
        ("config.json of vae", {"scaling_factor": -1.0}, "mine/vae/config.json: the setting 'scaling_factor'"),
        ("scheduler_config.json", {"num_train_timesteps": None}, "mine/scheduler/scheduler_config.json: the setting"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named_before_weights_are_read(folder, name, wrong, sentence):
    change(config_file(folder, name), **wrong)
    for read in (read_settings, lambda folder: load_pipeline(folder, device="cpu")):
        with pytest.raises(UserError, match=sentence):
            read(folder)


def test_what_is_left_out_is_the_class_own_default(folder):
    file = folder / "model_index.json"
    config = json.loads(file.read_text())
    for name in ("guidance_scale", "num_inference_steps", "image_guidance_scale"):
        config.pop(name, None)
    file.write_text(json.dumps(config))
    found = read_settings(folder)
    assert (found.guidance_scale, found.num_inference_steps, found.image_guidance_scale) == (7.5, 100, 1.5)


PARTS = ["unet", "vae", "text_encoder", "intensity_projection"]


def change_weights(folder, part, wrong):
    """Do something to one tensor of a component; (its name, the file)."""
    file = next((folder / part).glob("*.safetensors"))
    state = load_file(file)
    name = sorted(state)[0]
    file.unlink()  # it is a link
    wrong(state, name)
    save_file(state, file, metadata={"format": "pt"})
    return name, f"mine/{part}/{file.name}"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers(folder, part, value):
    name, file = change_weights(folder, part, lambda state, name: state[name].view(-1)[0].fill_(value))
    with pytest.raises(UserError, match=f"^{file}: The tensor '{name}' holds values that are not numbers"):
        load_pipeline(folder, device="cpu")


@pytest.mark.parametrize("part", PARTS)
def test_weights_of_another_kind(folder, part):
    for wrong, sentence in (
        (lambda state, name: state.update({name: state[name].int()}), "{file}: The tensor '{name}' holds .* int32"),
        (
            lambda state, name: state.update({name: state[name][None]}),
            "{file}: the tensor '{name}' must have",
        ),
        (lambda state, name: state.update(surplus=torch.zeros(2)), "{file}: there is no tensor 'surplus'"),
        (lambda state, name: state.pop(name), "mine/{part} lacks 1 tensors .* such as '"),
    ):
        file = next((folder / part).glob("*.safetensors"))
        whole = file.read_bytes()
        name, shown = change_weights(folder, part, wrong)
        with pytest.raises(UserError, match=sentence.format(file=shown, name=name, part=part)):
            load_pipeline(folder, device="cpu")
        file.write_bytes(whole)


def test_weights_beyond_the_precision_they_are_loaded_in(folder):
    def large(state, name):
        state.update({name: torch.full_like(state[name], 1e5, dtype=torch.float32)})

    name, file = change_weights(folder, "intensity_projection", large)
    with pytest.raises(UserError, match=f"^{file}: The tensor '{name}' holds values up to 1e.05, more than float16"):
        load_pipeline(folder, device="cpu", dtype=torch.float16)
    assert load_pipeline(folder, device="cpu").intensity_projection.dtype == torch.float32


def test_an_index_of_weights_names_no_files_elsewhere(folder):
    file = next((folder / "unet").glob("*.safetensors"))
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for content in ({"weight_map": {"a": f"../unet/{file.name}"}}, {"weight_map": 3}, {"weight_map": {"a": 3}}, [1]):
        index.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"index\.json"):
            load_pipeline(folder, device="cpu")


def test_settings_that_contradict_each_other(folder):
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=10**9)
    with pytest.raises(UserError, match="mine/tokenizer: it makes 1000000000 tokens"):
        load_pipeline(folder, device="cpu")
