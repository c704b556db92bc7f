"""Snow that is made of flakes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gendeg.borders import mean_around
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
    """Within a few pixels; their shape is drawn anew."""
    assert likeness(mean_around(drawn_in_flakes(snow), 6), mean_around(snow, 6)) > 0.85


def test_ragged_flakes_become_smooth(snow):
    def roughness(image):
        return float(image.diff(dim=2).abs().mean() + image.diff(dim=3).abs().mean())

    ragged = snow * (torch.rand(snow.shape, generator=torch.Generator().manual_seed(1)) > 0.4)
    drawn = drawn_in_flakes(ragged)
    assert roughness(drawn) < 0.6 * roughness(ragged)
    assert likeness(mean_around(drawn, 6), mean_around(snow, 6)) > 0.85


def test_there_is_as_much_snow_as_before(snow):
    drawn = drawn_in_flakes(snow)
    assert float(drawn.mean()) == pytest.approx(float(snow.mean()), rel=0.1)
    assert float(drawn.std()) == pytest.approx(float(snow.std()), rel=0.1)


@pytest.mark.parametrize("opacity", [0.0, 0.4, 1.0])
def test_a_veil_without_flakes_stays_one(opacity):
    veil = torch.full((1, 1, 40, 60), opacity)
    torch.testing.assert_close(drawn_in_flakes(veil), veil, atol=1e-3, rtol=0)


def test_each_image_of_a_batch_is_drawn_as_alone(snow):
    other = 0.3 * snow.flip(3) + 0.2
    both = drawn_in_flakes(torch.cat([snow, other]))
    for together, alone in zip(both.split(1), (snow, other), strict=True):
        torch.testing.assert_close(together, drawn_in_flakes(alone), atol=1e-4, rtol=0)


def test_small_flakes_stay_beside_large_ones():
    pixel = torch.arange(160.0)

    def snow(flakes, radius, depth):
        squares = [((pixel[:, None] - row) ** 2 + (pixel - column) ** 2) / radius**2 for row, column in flakes]
        return depth * sum((1 - square).clamp(min=0) for square in squares)

    small = [(row, column) for row in range(10, 160, 28) for column in range(10, 160, 28)]
    large = [(24, 24), (24, 108), (108, 24), (108, 108)]
    opacity = 1 - torch.exp(-snow(small, 5, 0.8) - snow(large, 8, 3.0))
    drawn = drawn_in_flakes(opacity[None, None])[0, 0]
    there = [float(drawn[row - 2 : row + 3, column - 2 : column + 3].max()) > 0.25 for row, column in small]
    assert sum(there) > 0.9 * len(there)


@pytest.mark.parametrize("row", [2, 5, 64, 125])
def test_a_flake_at_the_border_is_drawn_once(row):
    pixel = torch.arange(128.0)
    for column in range(40, 48):  # of every kind
        square = ((pixel[:, None] - row) ** 2 + (pixel - column) ** 2) / 4.5**2
        opacity = 1 - torch.exp(-2 * (1 - square).clamp(min=0))
        drawn = drawn_in_flakes(opacity[None, None])[0, 0]
        covered = (drawn > 0.2).nonzero()
        assert len(covered) and float((covered.amax(0) - covered.amin(0)).max()) < 16


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_opacity_gives_an_opacity(height, width, seed):
    opacity = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    drawn = drawn_in_flakes(opacity)
    assert drawn.shape == opacity.shape
    assert bool(drawn.isfinite().all()) and 0 <= float(drawn.min()) and float(drawn.max()) <= 1
