"""Snow that is made of flakes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gendeg.flakes import drawn_in_flakes


@pytest.fixture(scope="module")
def snow():
    """Opacity [1, 1, 128, 128] of soft round flakes of several sizes."""
    rng = np.random.default_rng(0)
    pixel = np.arange(128)
    depth = np.zeros((128, 128))
    for radius in rng.uniform(2.4, 6, 30):
        row, column = rng.uniform(0, 128, 2)
        distance = np.hypot(pixel[:, None] - row, pixel - column)
        depth += 1.5 * np.clip(1 - (distance / radius) ** 2, 0, None)
    return torch.from_numpy(1 - np.exp(-depth)).float()[None, None]


def likeness(first, second):
    return float(np.corrcoef(first.flatten(), second.flatten())[0, 1])


def test_flakes_stay_where_they_are(snow):
    assert likeness(drawn_in_flakes(snow), snow) > 0.85


def test_ragged_flakes_become_round(snow):
    holes = torch.rand(snow.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    ragged = snow * ~holes
    assert likeness(drawn_in_flakes(ragged), snow) > likeness(ragged, snow) + 0.05


def test_there_is_as_much_snow_as_before(snow):
    drawn = drawn_in_flakes(snow)
    assert float(drawn.mean()) == pytest.approx(float(snow.mean()), abs=0.02)
    assert float(drawn.std()) == pytest.approx(float(snow.std()), rel=0.1)


@pytest.mark.parametrize("opacity", [0.0, 0.4, 1.0])
def test_a_veil_without_flakes_stays_one(opacity):
    veil = torch.full((1, 1, 40, 60), opacity)
    torch.testing.assert_close(drawn_in_flakes(veil), veil, atol=1e-3, rtol=0)


def test_each_image_of_a_batch_is_drawn_as_alone(snow):
    both = torch.cat([snow, snow.flip(3)])
    torch.testing.assert_close(drawn_in_flakes(both)[:1], drawn_in_flakes(snow), atol=1e-4, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_opacity_gives_an_opacity(height, width, seed):
    opacity = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    drawn = drawn_in_flakes(opacity)
    assert drawn.shape == opacity.shape
    assert bool(drawn.isfinite().all()) and 0 <= float(drawn.min()) and float(drawn.max()) <= 1
