"""The estimator answers for photographs of any size, and puts its windows together as one map's mean and deviation."""

import json

import gradio as gr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gendeg.degradations import DEGRADATIONS
from gendeg.estimator import (
    CLEAN,
    KINDS,
    DegradationEstimator,
    Estimate,
    _windows,
    estimate_file,
    load_estimator,
)
from gendeg.intensity import SIGMA_MAX
from gendeg.photos import SHORT_SIDE
from gendeg.tab import run_like
from restorers.tab import show_seen


@pytest.fixture(scope="module")
def estimator():
    torch.manual_seed(0)
    return DegradationEstimator(widths=(8, 16), blocks=1).eval()


@given(width=st.integers(1, 2000), height=st.integers(1, 2000))
@settings(max_examples=25, deadline=None)
def test_photographs_of_any_size_are_estimated(estimator, width, height):
    estimate = estimator.estimate(Image.new("RGB", (width, height), (90, 120, 150)))
    assert set(estimate.probabilities) == {*DEGRADATIONS, CLEAN}
    assert sum(estimate.probabilities.values()) == pytest.approx(1, abs=1e-4)
    likeliest = max(estimate.probabilities, key=estimate.probabilities.get)
    assert (estimate.degradation or CLEAN) == likeliest
    assert (estimate.mu > 0) == (estimate.degradation is not None)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_photographs_of_any_mode_are_estimated(estimator, mode):
    image = Image.new("L", (300, 260), 70).convert(mode) if mode != "I;16" else Image.new(mode, (300, 260), 9000)
    assert estimator.estimate(image).probabilities


def test_the_whole_photograph_is_seen():
    for size in ((256, 256), (700, 256), (256, 500)):
        seen = np.zeros(size[::-1], bool)
        marks = np.arange(size[0] * size[1], dtype=np.uint32).reshape(size[::-1])
        image = Image.fromarray(np.stack([marks >> 16, marks >> 8 & 255, marks & 255], axis=2).astype(np.uint8))
        for window in _windows(image):
            r, g, b = ((window + 1) * 127.5).round().long()
            seen.flat[(r * 65536 + g * 256 + b).flatten()] = True
        assert seen.all()


class Knowing(DegradationEstimator):
    """Reads mu off a window's red and sigma off its green channel, and always sees haze."""

    def forward(self, images):
        values = (images.mean((2, 3)) + 1) / 2
        logits = torch.zeros(len(images), len(KINDS))
        logits[:, 0] = 9
        return logits, values[:, None, :2].expand(-1, len(DEGRADATIONS), -1)


def test_intensity_is_that_of_all_windows_together():
    pixels = np.zeros((SHORT_SIDE, 3 * SHORT_SIDE, 3), np.uint8)
    pixels[..., 0] = np.linspace(20, 120, 3 * SHORT_SIDE)  # mu rises from left to right
    estimate = Knowing(widths=(8,), blocks=1).estimate(Image.fromarray(pixels))
    assert estimate.degradation == "haze"
    assert estimate.mu == pytest.approx(70 / 255, abs=0.01)
    # Each window's own deviation is 0: what is left is how their means differ.
    means = np.linspace(20 + 100 / 12, 120 - 100 / 12, 11) / 255
    assert estimate.sigma == pytest.approx(means.std(), abs=0.01)


def test_it_is_kept_in_a_folder(estimator, tmp_path):
    estimator.save_pretrained(tmp_path / "estimator")
    again = load_estimator(tmp_path / "estimator")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8))
    assert again.estimate(photo).probabilities == pytest.approx(estimator.estimate(photo).probabilities, abs=1e-4)
    assert json.loads((tmp_path / "estimator" / "config.json").read_text())["widths"] == [8, 16]


@pytest.fixture
def bundled(estimator, tmp_path, monkeypatch):
    """As if the small random estimator were the bundled one; what it says does not matter, but that it is passed on."""
    monkeypatch.setattr("gendeg.estimator.load_estimator", lambda: estimator)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    photo = tmp_path / "real.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 400, 3), np.uint8)).save(photo)
    return photo


def test_the_tab_is_set_like_another_photograph(bundled, estimator, monkeypatch):
    found = Estimate("rain", 0.1234, 0.9, {"rain": 0.8, CLEAN: 0.2})
    monkeypatch.setattr(DegradationEstimator, "estimate", lambda *_: found)
    said, kind, mu, sigma, plot, strength = run_like({"path": str(bundled)})
    assert said == "It looks like rain (80%), μ about 0.12, σ about 0.90."
    assert (kind, mu["value"], sigma["value"], strength) == ("rain", 0.123, SIGMA_MAX, None) and "<svg" in plot
    assert sigma["maximum"] == SIGMA_MAX, "beyond what real data hold, and no more than can be asked for"
    monkeypatch.setattr(DegradationEstimator, "estimate", lambda *_: Estimate(None, 0.0, 0.0, {CLEAN: 0.9}))
    said, *others = run_like({"path": str(bundled)})
    assert said.startswith("It looks clean (90%).") and all(other == gr.skip() for other in others)


def test_the_restore_tab_says_what_it_sees(bundled):
    shown = show_seen(lambda path: str(estimate_file(path)), {"path": str(bundled)})
    assert shown["visible"] and shown["value"].startswith("It looks ")
    assert not show_seen(str, None)["visible"]
    bundled.write_bytes(b"no image")
    assert not show_seen(lambda path: str(estimate_file(path)), {"path": str(bundled)})["visible"]
