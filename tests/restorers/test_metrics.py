"""PSNR and SSIM are those of the papers, however large the images are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import structural_similarity

from restorers import metrics
from restorers.metrics import psnr, quality, ssim

ROOT = Path(__file__).resolve().parents[2]


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
def test_refuses_integers_other_than_bytes(metric):
    with pytest.raises(ValueError, match=r"floats in \[0, 1\] or uint8"):
        metric(torch.zeros(1, 3, 20, 20, dtype=torch.int32), torch.zeros(1, 3, 20, 20, dtype=torch.uint8))


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (11, 200), (200, 11), (11, 11)])
@pytest.mark.parametrize("strip", [1, 1000, 1 << 20])
def test_strips_give_what_the_whole_gives(monkeypatch, size, strip):
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    restored = (clean * 0.8 + rng.integers(0, 50, clean.shape)).astype(np.uint8)
    floats = [array / 255 for array in (restored, clean)]
    whole = structural_similarity(
        *floats, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    expected = (-10 * np.log10(np.square(floats[0] - floats[1]).mean()), whole)
    monkeypatch.setattr(metrics, "_STRIP", strip)
    assert quality(Image.fromarray(restored), Image.fromarray(clean)) == pytest.approx(expected, abs=1e-6)
    tensors = [torch.from_numpy(array).permute(2, 0, 1)[None] for array in (restored, clean)]
    for pair in (tensors, [tensor / 255 for tensor in tensors]):
        assert (psnr(*pair).item(), ssim(*pair).item()) == pytest.approx(expected, abs=1e-5)


def test_quality_of_equal_and_of_small_images():
    image = Image.effect_noise((30, 20), 50).convert("RGB")
    assert quality(image, image) == (np.inf, pytest.approx(1))
    assert quality(image.crop((0, 0, 30, 10)), image.crop((0, 5, 30, 15)))[1] is None
    for other in (image.crop((0, 0, 29, 20)), image.convert("RGBA")):
        with pytest.raises(ValueError, match="of one size"):
            quality(image, other)


def test_memory_does_not_grow_with_the_image():
    """Of 12 megapixels, whole images of floats are 144 MB each, and SSIM makes a dozen of them."""
    code = """if True:
        import resource
        from PIL import Image
        from restorers.metrics import quality
        image = Image.effect_noise((4000, 3000), 50).convert("RGB")
        quality(image.crop((0, 0, 300, 300)), image.crop((0, 0, 300, 300)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        quality(image, image)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) < 200


def test_ssim_needs_room_for_its_window():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(torch.zeros(1, 3, 10, 40), torch.zeros(1, 3, 10, 40))
