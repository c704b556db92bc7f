"""A mask says where a photograph is degraded; the intensity inside of it is that of these places alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gendeg.mask import intensity_inside, read_mask
from runtime.errors import UserError


def _half(size=(80, 60), mode="L"):
    """White on the left half."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask.convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_white_is_where_the_degradation_goes(mode):
    clean, degraded = Image.new("RGB", (80, 60), (10, 20, 30)), Image.new("RGB", (80, 60), (110, 120, 130))
    mask = read_mask(_half(mode=mode), clean.size, feather=0)
    result = np.asarray(Image.composite(degraded, clean, mask))
    assert (result[:, :40] == (110, 120, 130)).all() and (result[:, 40:] == (10, 20, 30)).all()


def test_what_is_painted_on_a_transparent_layer_counts_whatever_its_colour():
    layer = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    layer.paste((20, 0, 0, 255), (0, 0, 40, 60))
    assert np.array_equal(np.asarray(read_mask(layer, (80, 60), 0)), np.asarray(_half()))


def test_masks_of_other_sizes_are_stretched_and_edges_are_soft():
    mask = np.asarray(read_mask(_half((8, 6)), (800, 600), feather=0.02))
    assert mask.shape == (600, 800)
    assert mask[300, 100] == 255 and mask[300, 700] == 0
    steps = np.diff(mask[300].astype(int))
    assert steps.min() < 0 and np.abs(steps).max() < 20, "no edge that is seen"


@pytest.mark.parametrize("empty", [Image.new("L", (20, 20), 0), Image.new("RGBA", (20, 20), (255, 255, 255, 0))])
def test_a_mask_that_marks_nothing_is_said(empty):
    with pytest.raises(UserError, match="marks no place"):
        read_mask(empty, (100, 100))


@given(inner=st.integers(0, 255), outer=st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_intensity_inside_is_of_those_places_alone(inner, outer):
    clean, degraded = Image.new("RGB", (80, 60)), Image.new("RGB", (80, 60), (outer,) * 3)
    degraded.paste((inner,) * 3, (0, 0, 40, 60))
    mu, sigma = intensity_inside(clean, degraded, read_mask(_half(), (80, 60), 0))
    assert mu == pytest.approx(inner / 255) and sigma == pytest.approx(0, abs=1e-9)


def test_a_line_thinner_than_its_soft_edges_has_an_intensity():
    line = Image.new("L", (400, 400), 0)
    line.paste(255, (200, 0, 201, 400))
    mask = read_mask(line, (400, 400), feather=0.02)
    mu, _ = intensity_inside(Image.new("RGB", (400, 400)), Image.new("RGB", (400, 400), (51,) * 3), mask)
    assert mu == pytest.approx(0.2)
