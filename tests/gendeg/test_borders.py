"""What lies beyond the borders of images."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gendeg.borders import extended


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_images_are_extended_by_what_is_near(height, width, margins):
    image = torch.rand(1, 2, height, width)
    left, right, top, bottom = margins
    result = extended(image, (left, right), (top, bottom))
    assert result.shape == (1, 2, top + height + bottom, left + width + right)
    torch.testing.assert_close(result[..., top : top + height, left : left + width], image)
    assert float(result.min()) >= float(image.min()) and float(result.max()) <= float(image.max())
