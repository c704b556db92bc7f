"""`accelerate launch` trains in two processes what one process trains, and goes on with what it left."""

import csv
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from gendeg import load_pipeline
from gendeg.codec import PatchCodec
from training.generator.__main__ import main

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
    """One process trains half of the first stage; the rest of the recipe is trained by one and by two."""
    first = yaml.safe_load(SMOKE.read_text())
    first["stages"] = first["stages"][:1]
    first["stages"][0]["loop"]["steps"] = 10
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))

    def command(recipe, run):
        return ["training.generator", str(recipe), "--codec", str(codec), "--output", str(run)]

    runs = one, two = [tmp_path / name / "run" for name in ("one", "two")]
    monkeypatch.setattr(sys, "argv", command(tmp_path / "first.yaml", one))
    main()
    shutil.copytree(one.parent, two.parent)
    monkeypatch.setattr(sys, "argv", command(SMOKE, one))
    main()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    # --cpu would start a single process, without a word.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    result = subprocess.run(
        [sys.executable, *launch, "-m", *command(SMOKE, two)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (two / "stage-1" / "checkpoint" / "random_states_1.pkl").exists(), "there was no second process"
    for stage, steps in (("stage-1", [5, 10, 15, 20]), ("stage-2", [5, 10])):
        logs = [_log(run, stage) for run in runs]
        assert [[int(row["step"]) for row in log] for log in logs] == [steps, steps]
        for ours, theirs in zip(*logs, strict=True):
            for name in ("loss", "error", "intensity_error", "learning_rate"):
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-3, abs=1e-5), (
                    stage,
                    ours["step"],
                    name,
                )
    weights = [load_pipeline(run / "pipeline", device="cpu").unet.state_dict() for run in runs]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-3, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
