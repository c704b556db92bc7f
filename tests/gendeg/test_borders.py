"""What lies beyond the borders of images."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gendeg.borders import around, convolved, extended, mean_around


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_images_are_extended_by_what_is_near(height, width, margins):
    image = torch.rand(1, 2, height, width)
    left, right, top, bottom = margins
    result = extended(image, (left, right), (top, bottom))
    assert result.shape == (1, 2, top + height + bottom, left + width + right)
    torch.testing.assert_close(result[..., top : top + height, left : left + width], image)
    assert float(result.min()) >= float(image.min()) and float(result.max()) <= float(image.max())


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 4), st.booleans())
def test_convolution_over_mirrored_borders(height, width, half, shared):
    image, weights = torch.rand(2, 3, height, width), torch.rand(1 if shared else 3, 2 * half + 1, 2 * half + 1)
    expected = torch.nn.functional.conv2d(around(image, half), weights.flip(1, 2).expand(3, -1, -1)[:, None], groups=3)
    torch.testing.assert_close(convolved(image, weights), expected, atol=1e-3, rtol=0)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40))
def test_means_lie_between_the_least_and_the_most(height, width, reach):
    image = torch.rand(1, 2, height, width)
    mean = mean_around(image, reach)
    assert mean.shape == image.shape
    assert float(mean.min()) >= float(image.min()) - 1e-5 and float(mean.max()) <= float(image.max()) + 1e-5
    torch.testing.assert_close(mean_around(torch.ones_like(image), reach), torch.ones_like(image))
