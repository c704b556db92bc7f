"""A degradation made at working size, on the photograph at its own."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gendeg import detail
from gendeg.detail import transfer_detail
from gendeg.image_forms import resize

sides = st.integers(1, 90)
seeds = st.integers(0, 2**31)


def photograph(seed: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Shapes, slopes and grain."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, max(1, height // 9), max(1, width // 9), generator=random)
    image = F.interpolate(coarse[None], (height, width))[0] * 0.8
    image = (image + torch.rand(3, height, width, generator=random) * 0.2).clamp(0, 1)
    return (image * 255).round().to(torch.uint8) if dtype == torch.uint8 else image


def shrunk(photo: torch.Tensor, height: int, width: int) -> torch.Tensor:
    photo = photo.float() / 255 if photo.dtype == torch.uint8 else photo
    return resize(photo, (height, width)).clamp(0, 1)


def energy(image: torch.Tensor) -> float:
    return float((image[:, 1:] - image[:, :-1]).square().sum() + (image[..., 1:] - image[..., :-1]).square().sum())


@given(sides, sides, sides, sides, st.sampled_from([torch.uint8, torch.float32]), seeds)
def test_nothing_changed_gives_the_photograph_back_exactly(height, width, h, w, dtype, seed):
    photo = photograph(seed, height, width, dtype)
    small = torch.rand(3, h, w)
    assert torch.equal(transfer_detail(photo, small, small.clone()), photo)


@given(sides, sides, sides, sides, st.sampled_from([torch.uint8, torch.float32]), seeds)
def test_any_sizes_keep_size_type_and_range(height, width, h, w, dtype, seed):
    photo = photograph(seed, height, width, dtype)
    before = photo.clone()
    result = transfer_detail(photo, torch.rand(3, h, w), torch.rand(3, h, w).round())
    assert result.shape == photo.shape and result.dtype == dtype and torch.equal(photo, before)
    assert result.min() >= 0 and result.max() <= (255 if dtype == torch.uint8 else 1)


@given(st.integers(20, 60), st.integers(20, 60), st.floats(0.1, 1), st.floats(0, 1), seeds)
def test_a_veil_over_everything_covers_every_detail_alike(h, w, left, veil, seed):
    photo = photograph(seed, 3 * h + 1, 4 * w + 3)
    small = shrunk(photo, h, w)
    result = transfer_detail(photo, small, left * small + (1 - left) * veil)
    torch.testing.assert_close(result, left * photo + (1 - left) * veil, atol=2e-3, rtol=0)


@settings(max_examples=20)
@given(st.integers(1, 7), st.integers(1, 50), st.integers(1, 50), seeds)
def test_strips_make_no_difference(strip, height, width, seed):
    photo = photograph(seed, height, width)
    clean, degraded = torch.rand(2, 3, 12, 15)
    whole = transfer_detail(photo, clean, degraded)
    with patch.object(detail, "STRIP", strip):
        torch.testing.assert_close(transfer_detail(photo, clean, degraded), whole, atol=1e-6, rtol=0)


def test_at_working_size_the_codec_s_losses_vanish():
    photo = photograph(0, 64, 64)
    codec = shrunk(shrunk(photo, 32, 32), 64, 64)
    haze = 0.5 * codec + 0.5
    off = float((transfer_detail(photo, codec, haze) - (0.5 * photo + 0.5)).abs().mean())
    assert off < 0.1 * float((haze - (0.5 * photo + 0.5)).abs().mean())


def test_a_blur_stays_one():
    photo = photograph(1, 240, 320)
    small = shrunk(photo, 60, 80)
    blurred = F.avg_pool2d(F.pad(small[None], (4, 4, 4, 4), mode="replicate"), 9, 1)[0]
    assert energy(transfer_detail(photo, small, blurred)) < 0.05 * energy(photo)


def test_around_a_thing_laid_over_the_photograph_stays_as_it_was():
    photo = photograph(2, 240, 320)
    small = shrunk(photo, 60, 80)
    covered = small.clone()
    covered[:, 20:40, 30:50] = 0.9
    result = transfer_detail(photo, small, covered)
    far = torch.ones(240, 320, dtype=torch.bool)
    far[60:180, 100:220] = False
    torch.testing.assert_close(result[:, far], photo[:, far], atol=0.02, rtol=0)
    inside = (slice(None), slice(100, 140), slice(140, 180))
    assert energy(result[inside]) < 0.02 * energy(photo[inside])


def test_shrunk_back_it_is_the_picture_made_at_working_size():
    photo = photograph(3, 361, 483)
    small = shrunk(photo, 60, 80)
    random = torch.Generator().manual_seed(0)
    streaks = (torch.rand(1, 60, 80, generator=random) > 0.9) * 0.5
    degraded = small + streaks * (0.9 - small)
    error = (shrunk(transfer_detail(photo, small, degraded), 60, 80) - degraded).square().mean()
    assert -10 * float(error.log10()) >= 32


def test_memory_is_a_strip_s_whatever_the_height():
    """Beyond photograph and result; the largest float32 tensor made is told by the allocator's own profile."""

    def most(height: int) -> int:
        photo = torch.zeros(3, height, 400, dtype=torch.uint8)
        small = torch.rand(3, 32, 32)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            transfer_detail(photo, small, 1 - small)
        return max(event.cpu_memory_usage for event in profile.events()) - photo.numel()

    assert most(4000) < 1.2 * most(1000) + 4000 * 32 * 7 * 4


@pytest.mark.parametrize(
    "shapes", [((3, 8, 8), (3, 4, 4), (3, 4, 5)), ((1, 8, 8), (3, 4, 4), (3, 4, 4)), ((8, 8), (3, 4, 4), (3, 4, 4))]
)
def test_shapes_that_do_not_fit_are_a_caller_s_fault(shapes):
    with pytest.raises(ValueError, match="do not fit"):
        transfer_detail(*(torch.zeros(shape) for shape in shapes))
