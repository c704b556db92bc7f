"""The estimator learns by its recipe, from data that say what they show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gendeg.degradations import DEGRADATIONS
from gendeg.estimator import CLEAN, KINDS, DegradationEstimator
from training.estimator import LabelledImages, loss

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "training" / "recipes" / "estimator-smoke.yaml"


@pytest.fixture
def arrays():
    """Clean images are black; degraded ones have the brightness of their number."""
    brightness = np.arange(1, 7, dtype=np.uint8)[:, None, None, None] * 40
    numbers = np.arange(6, dtype=np.float32) / 10
    shape = np.ones((6, 3, 32, 32), np.uint8)
    return {
        "clean": 0 * shape,
        "degraded": brightness * shape,
        "degradation": np.arange(6, dtype=np.uint8),
        "mu": numbers,
        "sigma": numbers / 2,
    }


def test_images_come_with_what_they_show(arrays):
    data = LabelledImages(arrays, 0.3, seed=0)
    batch, again = (data.__getitems__([*range(64)]) for _ in range(2))
    assert torch.equal(batch["image"], again["image"])
    clean = batch["kind"] == KINDS.index(CLEAN)
    assert 0.1 < clean.float().mean() < 0.5
    for image, kind, mu in zip(batch["image"][~clean], batch["kind"][~clean], batch["mu"][~clean], strict=True):
        assert float(image.mean()) == pytest.approx(2 * (int(kind) + 1) * 40 / 255 - 1, abs=1e-4)
        assert float(mu) == pytest.approx(int(kind) / 10)


def test_only_the_intensity_of_what_is_there_counts(arrays):
    class Answering(torch.nn.Module):
        def forward(self, images):
            logits = torch.nn.functional.one_hot(torch.tensor([0, 6]), len(KINDS)) * 50.0
            intensities = torch.full((2, len(DEGRADATIONS), 2), 9.0)
            intensities[0, 0] = torch.tensor([0.3, 0.1])
            return logits, intensities

    batch = {"image": torch.zeros(2, 3, 8, 8), "kind": torch.tensor([0, 6]), "mu": torch.tensor([0.2, 0.5])}
    _, numbers = loss(Answering(), batch | {"sigma": torch.tensor([0.1, 0.5])})
    assert float(numbers["mu_error"]) == pytest.approx(0.1, abs=1e-6) and float(numbers["sigma_error"]) == 0
    assert float(numbers["right"]) == 1


def test_it_learns_what_brightness_tells(arrays):
    torch.manual_seed(0)
    model, data = DegradationEstimator(widths=(8, 16), blocks=1), LabelledImages(arrays, 0.0, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(150):
        value, numbers = loss(model, data.__getitems__([*range(16 * step, 16 * step + 16)]))
        optimizer.zero_grad(), value.backward(), optimizer.step()
    assert float(numbers["right"]) > 0.9 and float(numbers["mu_error"]) < 0.05


def test_the_smoke_recipe_trains_one_that_can_be_measured(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "real" / "low-light").mkdir(parents=True), (tmp_path / "photos").mkdir()
    Image.fromarray(rng.integers(0, 40, (80, 90, 3), np.uint8)).save(tmp_path / "real" / "low-light" / "a.png")
    Image.fromarray(rng.integers(0, 255, (300, 260, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    photos, real = ("--photos", tmp_path / "photos"), ("--real", tmp_path / "real")
    output = tmp_path / "runs" / "estimator"
    figures = tmp_path / "figures.json"
    for command in (
        ["training.estimator", RECIPE, *photos, "--output", output],
        ["training.evaluate", "estimator", *photos, "--estimator", output / "estimator", *real, "--output", figures],
    ):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *map(str, command)]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads(figures.read_text())
    assert set(rows) == {*(f"{name}, simulated" for name in DEGRADATIONS), "clean", "low_light, real"}
    assert all(0 <= row["named_right"] <= 1 and row["images"] == 1 for row in rows.values())
