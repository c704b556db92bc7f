"""The smoke recipes train from nothing to a working pipeline, as a person would run them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from gendeg import load_pipeline
from gendeg.codec import PatchCodec

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "training" / "recipes"


def _command(module, *arguments):
    return [sys.executable, "-m", f"training.{module}", *map(str, arguments)]


def _run(module, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(_command(module, *arguments), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


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


def test_a_missing_recipe_is_answered_with_a_sentence():
    result = subprocess.run(_command("codec", "nowhere.yaml"), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "there is no recipe nowhere.yaml" in result.stderr


def test_a_generator_needs_a_codec():
    result = subprocess.run(
        _command("generator", RECIPES / "generator-smoke.yaml"), cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "--codec" in result.stderr and "Traceback" not in result.stderr
