"""`accelerate launch` trains in two processes what one process trains, and goes on with what it left."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from gendeg import load_pipeline
from gendeg.codec import PatchCodec
from training import generator

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "training" / "recipes" / "generator-smoke.yaml"


def _log(run, stage):
    with (run / stage / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def codec(tmp_path):
    torch.manual_seed(0)
    codec = PatchCodec(latent_channels=16, width=8, depth=1)
    codec.initialise_from(torch.rand(64, 3, 64, 64) * 2 - 1)
    codec.save_pretrained(tmp_path / "codec")
    return tmp_path / "codec"


def test_two_processes_go_on_like_one(codec, tmp_path, monkeypatch):
    """Both runs start in one process, for half of the first stage; the rest is trained by one and by two."""
    first = yaml.safe_load(SMOKE.read_text())
    first["stages"] = first["stages"][:1]
    first["stages"][0]["loop"]["steps"] = 10
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))

    def command(recipe, run):
        return ["training.generator", str(recipe), "--codec", str(codec), "--output", str(run)]

    runs = one, two = [tmp_path / name / "run" for name in ("one", "two")]
    for recipe, run in ((tmp_path / "first.yaml", one), (tmp_path / "first.yaml", two), (SMOKE, one)):
        monkeypatch.setattr(sys, "argv", command(recipe, run))
        generator.main()
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    result = subprocess.run(
        [*launch, "--main_process_port", "0", "-m", *command(SMOKE, two)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for stage, steps in (("stage-1", [5, 10, 15, 20]), ("stage-2", [5, 10])):
        logs = [_log(run, stage) for run in runs]
        assert [[int(row["step"]) for row in log] for log in logs] == [steps, steps]
        for ours, theirs in zip(*logs, strict=True):
            for name in ("loss", "error", "intensity_error", "learning_rate"):
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-3), (stage, ours["step"], name)
    weights = [load_pipeline(run / "pipeline", device="cpu").unet.state_dict() for run in runs]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-3, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
