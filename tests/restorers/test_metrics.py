import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restorers.metrics import psnr, ssim


def test_psnr_of_known_differences():
    clean = torch.full((3, 3, 20, 30), 0.5)
    restored = clean.clone()
    restored[0] += 0.1
    restored[1, 0, :10] -= 0.2  # a sixth of the values
    torch.testing.assert_close(psnr(restored, clean)[:2], torch.tensor([20.0, -10 * np.log10(0.04 / 6)]).float())
    assert psnr(restored, clean)[2] == torch.inf


@given(st.floats(0, 1), st.floats(0, 1))
def test_ssim_of_plain_images_is_about_brightness_alone(a, b):
    images = [torch.full((1, 3, 16, 16), value) for value in (a, b)]
    assert ssim(*images).item() == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)


def test_ssim_is_that_of_the_paper():
    """Written out: a Gaussian window of 11 pixels, deviation 1.5, only where it fits into the image."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 25, 31, generator=generator)
    restored = (clean + 0.2 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    profile = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = (profile[:, None] * profile / profile.sum() ** 2)[None, None].double()

    def mean(x):
        return torch.nn.functional.conv2d(x.double().flatten(0, 1)[:, None], window)

    x, y = mean(clean), mean(restored)
    xx, yy, xy = mean(clean * clean) - x * x, mean(restored * restored) - y * y, mean(clean * restored) - x * y
    expected = (2 * x * y + 1e-4) * (2 * xy + 9e-4) / ((x * x + y * y + 1e-4) * (xx + yy + 9e-4))
    torch.testing.assert_close(
        ssim(restored, clean).double(), expected.unflatten(0, (2, 3)).mean((1, 2, 3, 4)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(ssim(clean, clean), torch.ones(2), check_dtype=False)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("shape", "other"),
    [((1, 3, 20, 21), (1, 3, 20, 20)), ((2, 3, 20, 20), (1, 3, 20, 20)), ((3, 20, 20),) * 2, ((1, 1, 20, 20),) * 2],
)
def test_refuses_what_cannot_be_compared(metric, shape, other):
    with pytest.raises(ValueError, match="of one size"):
        metric(torch.zeros(shape), torch.zeros(other))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_refuses_bytes(metric):
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        metric(torch.zeros(1, 3, 20, 20, dtype=torch.uint8), torch.zeros(1, 3, 20, 20, dtype=torch.uint8))


def test_ssim_needs_room_for_its_window():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(torch.zeros(1, 3, 10, 40), torch.zeros(1, 3, 10, 40))
