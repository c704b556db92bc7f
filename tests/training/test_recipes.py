"""The smoke recipes train from nothing to a working pipeline, as a person would run them."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gendeg import load_pipeline
from gendeg.codec import PatchCodec
from gendeg.structure_correction import StructureCorrection
from restorers import load_restorer
from restorers.architectures import NETWORKS
from training.loop import LoopSettings
from training.restorer import LOSSES

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "training" / "recipes"


def _command(module, *arguments):
    return [sys.executable, "-m", f"training.{module}", *map(str, arguments)]


def _run(module, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(_command(module, *arguments), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command in this process: what it says before it ends with a failure, having made nothing."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [f"training.{module}", *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        assert importlib.import_module(f"training.{module}").main() == 2, "a failure"
        assert not (tmp_path / "runs").exists(), "told before anything is trained"
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    _run("codec", RECIPES / "codec-smoke.yaml", "--output", runs / "codec")
    _run("generator", RECIPES / "generator-smoke.yaml", "--codec", runs / "codec", "--output", runs / "generator")
    return runs


def test_the_smoke_recipes_make_a_pipeline(trained):
    assert PatchCodec.from_pretrained(trained / "codec").config.latent_channels == 24
    pipeline = load_pipeline(trained / "generator" / "pipeline", device="cpu")
    photo = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    output = pipeline(photo, "snow", mu=0.1, sigma=0.1)
    assert output.images[0].size == output.clean[0].size
    for stage in ("stage-1", "stage-2"):
        assert (trained / "generator" / stage / "log.csv").read_text().startswith("step,loss,error,intensity_error")


def test_termination_saves_and_the_same_command_goes_on(trained, tmp_path):
    recipe = yaml.safe_load((RECIPES / "codec-smoke.yaml").read_text())
    recipe["loop"] |= {"steps": 4000, "checkpoint_every": 100000, "log_every": 10}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(recipe))
    output = trained / "interrupted"
    process = subprocess.Popen(
        _command("codec", tmp_path / "long.yaml", "--output", output), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (output / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert "goes on from there" in errors
    assert (output / "checkpoint").is_dir()
    step = int(errors.rsplit("Stopped at step ", 1)[1].split(";")[0])
    recipe["loop"]["steps"] = step + 10
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(recipe))
    _run("codec", tmp_path / "long.yaml", "--output", output)
    assert (output / "log.csv").read_text().splitlines()[-1].split(",")[0] == str((step + 10) // 10 * 10)


def test_training_can_start_from_a_pipeline(trained):
    initial = trained / "generator" / "pipeline"
    _run("generator", RECIPES / "generator-smoke.yaml", "--initial", initial, "--output", trained / "continued")
    first, continued = (load_pipeline(folder, device="cpu") for folder in (initial, trained / "continued" / "pipeline"))
    assert continued.scheduler.config.residual_std == first.scheduler.config.residual_std
    difference = (first.unet.conv_in.weight - continued.unet.conv_in.weight).abs().max()
    assert 0 < difference < 0.1


def test_structure_correction_is_trained_into_a_pipeline(trained):
    model = trained / "generator" / "pipeline"
    _run("structure_correction", RECIPES / "structure-smoke.yaml", "--model", model, "--output", trained / "structure")
    before, after = (load_pipeline(f, device="cpu") for f in (model, trained / "structure" / "pipeline"))
    assert before.structure_correction is None
    for file in (trained / "structure" / "pipeline").rglob("*.json"):
        assert str(trained) not in file.read_text(encoding="utf-8"), f"{file.name} names a folder of this machine"
    assert bool((after.structure_correction.last.weight != 0).any())
    for name in ("unet", "vae", "text_encoder", "intensity_projection"):
        states = [getattr(pipeline, name).state_dict() for pipeline in (before, after)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), f"{name} must stay frozen"
    photo = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    assert after(photo, "rain", mu=0.1, sigma=0.1).structure_correction


def test_the_papers_structure_correction_is_trained_on_any_process(tiny_pipeline_folder, tiny_paper_folder, tmp_path):
    recipe = yaml.safe_load((RECIPES / "structure-smoke.yaml").read_text())
    recipe["model"] = {"form": "residual", "width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]}
    recipe["pairs"] |= {"count": 6}
    recipe["stages"] = [{"loop": recipe["stages"][0]["loop"] | {"steps": 2, "log_every": 1}}]
    (tmp_path / "residual.yaml").write_text(yaml.safe_dump(recipe))
    for model in (tiny_pipeline_folder, tiny_paper_folder):
        output = tmp_path / "runs" / model.name
        _run("structure_correction", tmp_path / "residual.yaml", "--model", model, "--output", output)
        module = load_pipeline(output / "pipeline", device="cpu").structure_correction
        assert isinstance(module, StructureCorrection) and bool((module.ending.weight != 0).any())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of four pairs: noise, and the same darkened."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("clean", "degraded"):
        (folder / name).mkdir()
    for i in range(4):
        clean = np.random.default_rng(i).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(clean).save(folder / "clean" / f"{i}.png")
        Image.fromarray(clean // 2).save(folder / "degraded" / f"{i}.png")
    return folder


@pytest.mark.parametrize("source", ["simulated", "mixed"])
def test_a_restorer_is_trained(trained, pairs, source):
    folders = [] if source == "simulated" else ["--pairs", pairs]
    _run("restorer", RECIPES / "restorer-nafnet-smoke.yaml", "--output", trained / f"restorer-{source}", *folders)
    restorer = load_restorer(trained / f"restorer-{source}" / "restorer", device="cpu")
    assert restorer.network.architecture == "nafnet" and len(restorer.trained_for) == 6
    assert (trained / f"restorer-{source}" / "stage-2" / "log.csv").read_text().startswith("step,loss,gain")
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert restorer(photo).shape == photo.shape


def test_a_trained_restorer_can_skip_the_first_stages(tmp_path, refused):
    first = tmp_path / "first" / "restorer"
    _run("restorer", RECIPES / "restorer-nafnet-smoke.yaml", "--output", first.parent)
    skipping = ["--initial", first, "--first-stage", 2, "--output", tmp_path / "second"]
    _run("restorer", RECIPES / "restorer-nafnet-smoke.yaml", *skipping)
    assert [folder.name for folder in sorted((tmp_path / "second").glob("stage-*"))] == ["stage-2"]
    for wrong, sentence in ((3, "stages 1 to 2"), (2, "name these with --initial")):
        assert sentence in refused("restorer", RECIPES / "restorer-nafnet-smoke.yaml", "--first-stage", wrong)


@pytest.mark.parametrize("recipe", sorted(f.name for f in RECIPES.glob("restorer-*.yaml")))
def test_restorer_recipes_can_be_built(recipe):
    settings = yaml.safe_load((RECIPES / recipe).read_text())
    model = settings["model"]
    if model.pop("pretrained", False):
        model["encoder_kwargs"] = {}  # the encoder as timm has it, without fetching its weights
    with torch.device("meta"):
        network = NETWORKS[model.pop("architecture")](**model)
    for stage in settings["stages"]:
        assert stage["loss"] in LOSSES
        LoopSettings(**stage["loop"])
        if network.architecture == "swin":
            assert stage["crop"] % network.multiple == 0, "attention windows must be full"


def test_losses_are_least_where_images_agree():
    clean = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, loss in LOSSES.items():
        values = [loss((clean + error).clamp(0, 1), clean) for error in (0.0, 0.1, 0.3)]
        assert values[0].shape == (2,), name
        assert (values[0] < values[1]).all() and (values[1] < values[2]).all(), name


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((RECIPES / "codec-smoke.yaml", "--photos", "nowhere"), "There is no folder nowhere"),
        ((RECIPES / "codec-smoke.yaml", "--photos", RECIPES), "No images in"),
        ((ROOT / "README.md",), "README.md"),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(refused, arguments: tuple[object, ...], sentence: str):
    assert sentence in refused("codec", *arguments)


def test_wrong_input_ends_with_a_failure_and_no_traceback():
    result = subprocess.run(_command("codec", "nowhere.yaml"), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "There is no recipe nowhere.yaml" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {"architecture": "nafnett"}}, "There is no architecture 'nafnett'; there are nafnet"),
        ({"shares": {"fog": 2.0}}, "shares: fog: no degradation; there are haze"),
        ({"stages": [{"loss": "charbonier"}]}, "There is no loss 'charbonier'; there are charbonnier"),
    ],
)
def test_a_wrong_restorer_recipe_is_told_before_anything_is_trained(tmp_path: Path, refused, change, sentence):
    recipe = yaml.safe_load((RECIPES / "restorer-nafnet-smoke.yaml").read_text()) | change
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert sentence in refused("restorer", tmp_path / "recipe.yaml")


def test_another_tools_recipe_is_told(refused):
    assert "This is no recipe for a restorer: it lacks" in refused("restorer", RECIPES / "codec-smoke.yaml")


def test_a_generator_needs_a_codec(refused):
    assert "--codec" in refused("generator.__main__", RECIPES / "generator-smoke.yaml")


def test_layers_are_learned_from_a_bridge(tiny_paper_folder, refused):
    arguments = RECIPES / "structure-smoke.yaml", "--model", tiny_paper_folder
    assert "structure-published.yaml" in refused("structure_correction", *arguments)
