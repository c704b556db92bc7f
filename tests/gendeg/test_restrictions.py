"""What degradations can do to images, as rules that hold for all images."""

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st

from gendeg.intensity import intensity
from gendeg.light import to_display, to_linear
from gendeg.restrictions import dim, keep_colour, keep_hue, lay_flakes, lay_streaks, lay_white
from training.simulators.matching import simulate


@st.composite
def images(draw, count=2):
    """Batches of one image each, [1, 3, 6, 7] in [0, 1], some of them with black, white or grey parts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batches = []
    for _ in range(count):
        image = rng.random((1, 3, 6, 7), dtype=np.float32)
        image[..., :2] = rng.integers(0, 2)
        image[..., 2:4] = image[:, :1, :, 2:4]
        batches.append(torch.from_numpy(image))
    return batches


@given(images(count=3))
def test_white_brightens_and_lies_between_the_photograph_and_white(some):
    clean, degraded, over = some
    results = [(rule(clean, degraded), clean) for rule in (lay_white, lay_streaks, lay_flakes)]
    results += [(rule(clean, degraded, over), over) for rule in (lay_white, lay_streaks, lay_flakes)]
    for result, below in results:
        assert bool((result >= below - 1e-6).all()) and bool((result <= 1 + 1e-6).all())
        share = (result - below) / (1 - below).clamp(min=1e-6)
        visible = (1 - below).amin(1, keepdim=True) > 0.01
        assert bool(((share.amax(1, keepdim=True) - share.amin(1, keepdim=True))[visible] < 1e-3).all())


@given(images(), st.floats(0, 1))
def test_white_of_any_opacity_stays_as_it_is(some, opacity):
    clean, where = some
    snowy = clean + opacity * where[:, :1] * (1 - clean)
    torch.testing.assert_close(lay_white(clean, snowy), snowy, atol=0.01, rtol=0)


@given(images(count=3))
def test_the_same_white_is_laid_over_another_image(some):
    clean, where, over = some
    clean = clean.clamp(max=0.9)
    snowy = clean + where[:, :1] * (1 - clean)
    expected = over + where[:, :1] * (1 - over)
    torch.testing.assert_close(lay_white(clean, snowy, over), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("slope", [-0.4, 0.0, 0.2])
def test_bent_streaks_become_straight(slope):
    rows, columns = torch.arange(128.0)[:, None], torch.arange(128.0)
    clean = torch.full((1, 3, 128, 128), 0.2)

    def streaks(bent):
        across = columns - slope * rows - bent * torch.sin(rows / 3)
        return clean + 0.5 * (torch.cos(across / 2) > 0.7) * (1 - clean)

    straight, bent = streaks(0), streaks(1.5)
    repaired = lay_streaks(clean, bent)
    likeness = [
        np.corrcoef(image[0, 0, 16:-16, 16:-16].flatten(), straight[0, 0, 16:-16, 16:-16].flatten())[0, 1]
        for image in (bent, repaired)
    ]
    assert likeness[1] > likeness[0] + 0.1
    assert float(repaired.std()) == pytest.approx(float(bent.std()), rel=0.15), "as strong as before"


@given(images())
def test_hue_and_brightness_are_kept(some):
    clean, degraded = some
    result = keep_hue(clean, degraded)
    colour, kept = (image - image.mean(1, keepdim=True) for image in (clean, result))
    inside = ((result > 1e-3) & (result < 1 - 1e-3)).all(1, keepdim=True).expand_as(result)
    parallel = torch.linalg.cross(kept, colour, dim=1).norm(dim=1) < 1e-5
    assert bool(parallel[inside[:, 0]].all()), "no hue but that of the photograph"
    assert bool((kept.norm(dim=1) <= colour.norm(dim=1) + 1e-4)[inside[:, 0]].all()), "paler, never gaudier"
    brightness = (result - degraded).mean(1, keepdim=True).expand_as(result)
    assert bool((brightness[inside].abs() < 1e-5).all())


@given(images(), st.floats(0, 1))
def test_what_is_only_brighter_darker_or_paler_stays_as_it_is(some, kept):
    clean, brightness = some
    clean = 0.4 + 0.2 * clean
    grey = clean.mean(1, keepdim=True)
    drop = grey + kept * (clean - grey) + 0.3 * (brightness[:, :1] - 0.5)
    torch.testing.assert_close(keep_hue(clean, drop), drop, atol=0.02, rtol=0)


@given(images(), st.floats(0.75, 1))
def test_clear_water_stays_as_it_is(some, saturation):
    clean, brightness = some
    clean = 0.2 + 0.3 * clean
    grey = clean.mean(1, keepdim=True)
    drop = grey * (0.1 + 1.4 * brightness[:, :1]) * (1 + saturation * (clean / grey - 1))
    torch.testing.assert_close(keep_colour(clean, drop), drop, atol=0.01, rtol=0)
    torch.testing.assert_close(keep_colour(clean, clean), clean, atol=4e-3, rtol=0)


@given(images(count=1))
def test_a_grey_drop_becomes_clear(some):
    (clean,) = some
    clean = 0.1 + 0.8 * clean
    grey = clean.mean(1, keepdim=True)
    pebble = 0.9 * grey.expand_as(clean)
    torch.testing.assert_close(keep_colour(clean, pebble), 0.9 * (grey + 0.75 * (clean - grey)))


@given(images(), st.floats(0.2, 1))
def test_a_dimmed_image_is_darker_and_no_more(some, share):
    clean, degraded = some
    assert bool((dim(clean, degraded) <= clean + 1e-5).all())
    clean = 0.3 + 0.5 * clean
    dark = to_display(share * to_linear(clean))
    torch.testing.assert_close(dim(clean, dark), dark, atol=0.02, rtol=0)
    other = clean + 0.03 * (clean.flip(2) - clean)
    torch.testing.assert_close(dim(clean, dark, other), to_display(share * to_linear(other)), atol=0.03, rtol=0)


@pytest.mark.parametrize(("mu_share", "sigma_share"), [(1.0, 1.0), (1.2, 1.1), (0.8, 0.9)])
def test_darkness_comes_near_what_is_asked_and_bright_places_stay_brighter(mu_share, sigma_share):
    photo = torch.linspace(0.05, 0.95, 96).expand(1, 3, 64, 96)
    dark = to_display(0.2 * to_linear(photo))
    mu, sigma = (float(value) for value in intensity(photo, dark))
    result = dim(photo, dark, None, [mu_share * mu], [sigma_share * sigma])
    reached = [float(value) for value in intensity(photo, result)]
    assert reached == pytest.approx([mu_share * mu, sigma_share * sigma], rel=0.05)
    assert float(result.diff(dim=3).min()) > -0.002


def test_a_grid_in_the_dark_is_left_out():
    photo = torch.from_numpy(skimage.data.coffee()[:128, :128].copy()).permute(2, 0, 1)[None].float() / 255
    dark = to_display(0.1 * to_linear(photo))
    grid = dark * (1 + 0.3 * torch.cos(torch.arange(128) * torch.pi / 4))
    assert float((dim(photo, grid) - dark).abs().mean()) < 0.3 * float((grid - dark).abs().mean())


@pytest.mark.parametrize(
    ("degradation", "rule", "at_least"),
    [
        ("haze", keep_hue, 35),
        ("snow", lay_white, 33),
        ("rain", lay_streaks, 26),
        ("raindrop", keep_colour, 30),
        ("low_light", dim, 30),
    ],
)
def test_the_simulators_keep_to_the_rules(degradation, rule, at_least):
    photo = torch.from_numpy(skimage.data.astronaut()[:256, :256].copy()).permute(2, 0, 1).float() / 255
    degraded = simulate(photo, degradation, 0.08, 0.09, torch.Generator().manual_seed(0)).degraded
    error = (rule(photo[None], degraded[None]) - degraded).square().mean()
    assert -10 * error.log10() > at_least
