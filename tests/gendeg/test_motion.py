"""Motion blur that moves light along paths, and nothing else."""

import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gendeg.intensity import intensity
from gendeg.motion import move_light
from training.simulators.matching import simulate


@pytest.fixture(scope="module")
def pair():
    """A photograph and its blurred version, [1, 3, 192, 192]."""
    photo = torch.from_numpy(skimage.data.coffee()[100:292, 200:392].copy()).permute(2, 0, 1)[None].float() / 255
    return photo, simulate(photo[0], "motion_blur", 0.03, 0.045, torch.Generator().manual_seed(2)).degraded[None]


def psnr(first, second):
    return float(-10 * (first - second).square().mean().log10())


def test_a_blurred_photograph_stays_much_as_it_is(pair):
    photo, blurred = pair
    result = move_light(photo, blurred)
    assert psnr(result, blurred) > psnr(photo, blurred) + 10
    assert float(intensity(photo, result)[0]) == pytest.approx(float(intensity(photo, blurred)[0]), abs=0.002)


def test_what_no_motion_makes_is_left_out(pair):
    photo, blurred = pair
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    crumbs = (blurred + 0.15 * noise * (noise.mean(1, keepdim=True).abs() > 0.8)).clamp(0, 1)
    mu = intensity(photo, blurred)[0].tolist()
    assert psnr(move_light(photo, crumbs, mu=mu), blurred) > psnr(crumbs, blurred) + 5


def test_the_light_of_another_image_is_moved(pair):
    photo, blurred = pair
    other = photo.flip(1)
    expected = blurred.flip(1)
    assert psnr(move_light(photo, blurred, over=other), expected) > psnr(other, expected) + 10


@pytest.mark.parametrize("share", [0.6, 1.3])
def test_paths_are_as_long_as_the_asked_mu_takes(pair, share):
    mu = share * float(intensity(*pair)[0])
    assert float(intensity(pair[0], move_light(*pair, mu=[mu]))[0]) == pytest.approx(mu, abs=0.002)


def test_each_image_of_a_batch_has_its_own_path_and_mu(pair):
    photos = torch.cat([pair[0], 0.5 * pair[0].transpose(2, 3)])
    blurred = torch.cat([pair[1], 0.5 * pair[1].transpose(2, 3)])
    together = move_light(photos, blurred, mu=[None, 0.03])
    torch.testing.assert_close(together[:1], move_light(*pair), atol=1e-3, rtol=0)
    torch.testing.assert_close(together[1:], move_light(photos[1:], blurred[1:], mu=[0.03]), atol=1e-3, rtol=0)


@settings(max_examples=15)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_any_images_give_an_image(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, degraded = torch.rand(2, 1, 3, height, width, generator=generator)
    result = move_light(clean, degraded)
    assert result.shape == clean.shape
    assert bool(result.isfinite().all()) and 0 <= float(result.min()) and float(result.max()) <= 1


def test_no_motion_and_nothing_to_move():
    photo = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(move_light(photo, photo), photo, atol=1e-4, rtol=0)
    grey = torch.full((1, 3, 40, 50), 0.4)
    torch.testing.assert_close(move_light(grey, grey + 0.2), grey, atol=1e-4, rtol=0)  # rather than no number at all
