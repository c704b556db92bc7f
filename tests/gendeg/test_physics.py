"""What a degradation can do to a pixel is kept, and what it cannot is taken away."""

import pytest
import skimage
import torch
from hypothesis import given
from hypothesis import strategies as st

from gendeg.blur import connected, move_light
from gendeg.physics import RULES, dim, lay_white, show_surroundings


def _images(seed, count=2):
    return torch.rand(count, 1, 3, 40, 40, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.sampled_from(sorted(RULES)))
def test_rules_keep_an_untouched_image_and_the_range_of_values(seed, name):
    clean, degraded = _images(seed)
    torch.testing.assert_close(RULES[name](clean, clean)[0], clean, atol=1e-5, rtol=0)
    for image, kept in (RULES[name](clean, degraded), RULES[name](clean.round(), degraded.round())):
        assert bool(image.isfinite().all()) and image.min() >= 0 and image.max() <= 1
        assert kept is None or (kept.shape == (1, 1, 40, 40) and kept.min() >= 0 and kept.max() <= 1)


@given(st.integers(0, 1000))
def test_white_of_any_opacity_stays_and_nothing_gets_darker_or_tinted(seed):
    clean, degraded = 0.9 * _images(seed)
    white = clean + degraded[:, :1] * (1 - clean)
    torch.testing.assert_close(lay_white(clean, white)[0], white, atol=1e-4, rtol=0)
    laid, kept = lay_white(clean, degraded)
    assert bool((laid >= clean).all())
    opacity = (laid - clean) / (1 - clean)
    torch.testing.assert_close(opacity[:, 0], opacity[:, 2], atol=1e-3, rtol=0)
    torch.testing.assert_close(1 - kept[:, 0], opacity[:, 0], atol=1e-3, rtol=0)


def test_darkness_stays_and_blocks_in_it_go():
    clean = 0.3 + 0.4 * torch.nn.functional.interpolate(_images(0)[0], 64, mode="bilinear")
    dark = (clean + 0.02) * 0.4 - 0.02
    torch.testing.assert_close(dim(clean, dark)[0], dark, atol=1e-3, rtol=0)
    blocks = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 2)
    blocks = 0.02 * blocks.repeat_interleave(8, 3)
    left = (dim(clean, dark + blocks)[0] - dark).std()
    assert left < 0.4 * blocks.std()
    assert bool((dim(clean, dark + 10 * blocks.abs())[0] <= clean + 1e-5).all()), "nothing gets brighter"
    assert dim(clean, dark)[0].mean() == pytest.approx(float(dark.mean()), abs=1e-3)


def test_light_that_moved_one_way_stays_and_noise_in_it_goes():
    clean = torch.from_numpy(skimage.data.astronaut()[::2, ::2]).permute(2, 0, 1)[None] / 255
    padded = torch.nn.functional.pad(clean, (4, 4, 0, 0), mode="reflect")
    blurred = sum(padded[..., shift : shift + 256] for shift in range(9)) / 9
    assert (move_light(clean, blurred) - blurred).abs().mean() < 0.004
    noisy = blurred + 0.01 * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(1))
    assert (move_light(clean, noisy) - blurred).abs().mean() < 0.7 * (noisy - blurred).abs().mean()
    dark = 0.5 * clean
    assert torch.equal(move_light(clean, dark), dark), "no way of the light takes it away"


def test_light_does_not_leap():
    way = torch.zeros(21, 21)
    way[10, 8:12], way[9, 12], way[2, 3] = 0.5, 0.2, 0.4
    kept = connected(way)
    assert kept[2, 3] == 0, "far from the way"
    way[2, 3] = 0
    assert torch.equal(kept, way), "the next pixel, diagonally too, belongs to it"


def test_drops_keep_their_brightness_and_lose_colours_that_are_not_there():
    clean = torch.tensor([0.6, 0.3, 0.2])[None, :, None, None].expand(1, 3, 64, 64)
    drops = clean.clone()
    drops[..., 20:40, 20:40] = torch.tensor([0.2, 0.9, 0.4])[None, :, None, None]
    shown = show_surroundings(clean, drops)[0]
    torch.testing.assert_close(shown.mean(1), drops.mean(1), atol=1e-5, rtol=0)
    colours = [image - image.mean(1, keepdim=True) for image in (shown, clean)]
    torch.testing.assert_close(*colours, atol=1e-5, rtol=0)
