"""The benchmark at full size, run with its small network; not compiled, since that takes a minute."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from training.benchmarks import full_size

ROOT = Path(__file__).resolve().parents[2]


def test_prints_times_ratios_and_memory():
    result = subprocess.run(
        [sys.executable, "-m", "training.benchmarks.full_size", "--size", "small", "--steps-measured", "3"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    lines = result.stdout.splitlines()[1:4]
    found = [re.match(r"(.+): ([\d.]+) s an image .*, ([\d.]+) times as fast .* memory ([\d.]+) GiB", s) for s in lines]
    assert [match[1] for match in found] == ["paper", "fast", "fast, compiled"]
    seconds, ratios, memory = ([float(match[i]) for match in found] for i in (2, 3, 4))
    for time, ratio, peak in zip(seconds, ratios, memory, strict=True):
        assert abs(ratio - seconds[0] / time) < 0.05 * ratio and peak > 0
    assert "estimated from 3 of its 100 steps" in lines[0] and "estimated from 3 of its 15 steps" in lines[1]


def test_an_estimate_comes_near_what_all_steps_take():
    pipeline = full_size.random_pipeline("small", torch.device("cpu"))
    pipeline.register_to_config(num_inference_steps=30)
    (whole, nothing), (estimated, how) = (full_size.seconds_per_image(pipeline, steps) for steps in (None, 6))
    assert nothing == "" and "6 of its 30 steps" in how
    assert 0.3 < estimated / whole < 3


def test_full_size_is_the_papers():
    pipeline = full_size.random_pipeline("full", torch.device("meta"))
    parameters = [sum(p.numel() for p in network.parameters()) for network in (pipeline.unet, pipeline.vae)]
    assert parameters == [859_532_484, 83_653_863] and pipeline.config.resolution == 512
