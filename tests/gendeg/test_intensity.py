"""Intensity is what numpy says it is, falls into the right bin, and reaches the text context."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gendeg.intensity import (
    MU_MAX,
    NULL_BIN,
    NUM_BINS,
    SIGMA_MAX,
    IntensityProjection,
    degradation_map,
    intensity,
    intensity_of_pair,
    match_intensity,
    to_bin,
)

maxima = st.sampled_from([MU_MAX, SIGMA_MAX])
dtypes = st.sampled_from([torch.float64, torch.float32])
bins = st.integers(0, NUM_BINS - 1)


def test_intensity_is_mean_and_population_deviation_of_the_map():
    rng = np.random.default_rng(0)
    clean, degraded = rng.random((2, 4, 3, 17, 11))
    mu, sigma = intensity(torch.tensor(clean), torch.tensor(degraded))
    difference = np.abs(clean - degraded)
    np.testing.assert_allclose(degradation_map(torch.tensor(clean), torch.tensor(degraded)), difference)
    np.testing.assert_allclose(mu, difference.mean((1, 2, 3)))
    np.testing.assert_allclose(sigma, difference.std((1, 2, 3), ddof=0))


def test_intensity_of_known_images():
    black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    half = black.clone()
    half[..., :4] = 1
    assert [v.item() for v in intensity(black, black)] == [0, 0]
    assert [v.item() for v in intensity(black, white)] == [1, 0]
    assert [v.item() for v in intensity(white, half)] == [0.5, 0.5]


def test_intensity_of_a_pair_of_any_type():
    clean, degraded = np.random.default_rng(0).integers(0, 256, (2, 3, 17, 11), dtype=np.uint8)
    difference = np.abs(clean / 255 - degraded / 255)
    for pair in (
        (torch.tensor(clean), torch.tensor(degraded)),
        (torch.tensor(clean / 255), torch.tensor(degraded / 255)),
    ):
        assert intensity_of_pair(*pair) == pytest.approx((difference.mean(), difference.std()), abs=1e-9)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"differ in size: \(1, 3, 8, 8\) and \(1, 3, 8, 4\)"):
        intensity(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 4))


@given(bins, maxima, dtypes)
def test_lower_edge_belongs_to_its_bin(k, maximum, dtype):
    edge = torch.tensor(k * maximum / NUM_BINS, dtype=dtype)
    assert to_bin(edge, maximum).item() == k


@given(bins, st.floats(1e-3, 1 - 1e-3), maxima, dtypes)
def test_inside_of_a_bin(k, fraction, maximum, dtype):
    value = torch.tensor((k + fraction) * maximum / NUM_BINS, dtype=dtype)
    assert to_bin(value, maximum).item() == k


@given(st.floats(1, 1e6), maxima)
def test_beyond_the_range_is_the_last_bin(factor, maximum):
    assert to_bin(torch.tensor(factor * maximum), maximum) == NUM_BINS - 1


@given(st.one_of(st.floats(max_value=-1e-6), st.sampled_from([math.nan, math.inf])), maxima)
def test_negative_and_unbounded_are_errors(value, maximum):
    with pytest.raises(ValueError, match="must be a finite number of at least 0"):
        to_bin(torch.tensor([0.1, value]), maximum)


@pytest.fixture
def projection():
    torch.manual_seed(0)
    return IntensityProjection(tokens=5, width=8)


@pytest.fixture
def text():
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def test_default_shapes_are_those_of_clip():
    projection = IntensityProjection()
    assert projection.stats_proj.weight.shape == (77, NULL_BIN + 1)
    assert projection.cc_projection.weight.shape == (768, 770)
    context = projection(torch.randn(1, 77, 768), torch.tensor([0.1]), torch.tensor([0.1]))
    assert context.shape == (1, 77, 768)


def test_starts_by_passing_the_text_through(projection, text):
    mu, sigma = torch.tensor([0.1, 0.3]), torch.tensor([0.05, 0.2])
    # What the intensity adds does not depend on the text ...
    torch.testing.assert_close(projection(text, mu, sigma) - text, projection(torch.zeros_like(text), mu, sigma))
    # ... and without its part the text remains.
    torch.nn.init.zeros_(projection.cc_projection.weight[:, 8:])
    torch.testing.assert_close(projection(text, mu, sigma), text)


def test_none_nan_and_the_null_bin_agree(projection, text):
    nothing = projection(text)
    torch.testing.assert_close(projection(text, torch.full((2,), math.nan), None), nothing, rtol=0, atol=0)
    null_column = projection.stats_proj.weight[:, NULL_BIN] + projection.stats_proj.bias
    stats = null_column[:, None].expand(5, 2)
    by_hand = projection.cc_projection(torch.cat([text, stats.expand(2, 5, 2)], dim=-1))
    torch.testing.assert_close(nothing, by_hand)


def test_nan_stands_for_its_own_sample_only(projection, text):
    mixed = projection(text, torch.tensor([0.1, math.nan]), torch.tensor([0.1, math.nan]))
    torch.testing.assert_close(mixed[0], projection(text, torch.tensor([0.1, 0.1]), torch.tensor([0.1, 0.1]))[0])
    torch.testing.assert_close(mixed[1], projection(text)[1])


def test_bins_are_told_apart(projection, text):
    def context(mu, sigma):
        return projection(text, torch.tensor([mu, mu]), torch.tensor([sigma, sigma]))

    width = MU_MAX / NUM_BINS
    assert torch.equal(context(10.2 * width, 0.1), context(10.8 * width, 0.1))
    assert not torch.allclose(context(10.5 * width, 0.1), context(11.5 * width, 0.1))
    assert not torch.allclose(context(0.1, 0.1), context(0.1, 0.2))
    assert not torch.allclose(context(0.1, 0.2), context(0.2, 0.1))


def test_negative_intensity_is_an_error(projection, text):
    with pytest.raises(ValueError, match="at least 0"):
        projection(text, torch.tensor([0.1, -0.1]), None)


def test_gradient_reaches_the_bins_that_were_given(projection, text):
    projection(text, torch.full((2,), 10.5 * MU_MAX / NUM_BINS), None).square().sum().backward()
    used = projection.stats_proj.weight.grad.abs().sum(0).nonzero().flatten()
    assert used.tolist() == [10, NULL_BIN]
    assert projection.cc_projection.weight.grad.abs().sum() > 0


def test_save_and_load(projection, text, tmp_path):
    projection.save_pretrained(tmp_path)
    loaded = IntensityProjection.from_pretrained(tmp_path)
    mu, sigma = torch.tensor([0.1, math.nan]), torch.tensor([0.2, 0.0])
    assert torch.equal(loaded(text, mu, sigma), projection(text, mu, sigma))


def _pair(seed, mu):
    """A smooth image and a patchy darkening of it, about `mu` strong."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 1, 3, 6, 6, generator=generator)
    image, patches = torch.nn.functional.interpolate(coarse.flatten(0, 1), (48, 48), mode="bilinear")
    clean = 0.2 + 0.7 * image
    darkening = mu * patches / patches.mean()
    return clean[None], (clean - darkening).clamp(0, 1)[None]


@given(
    st.integers(0, 100), st.floats(0.02, 0.15), st.floats(0.8, 1.25), st.floats(0.85, 1.2), st.booleans(), st.booleans()
)
@settings(max_examples=60)
def test_matching_brings_images_nearer_to_what_was_asked(seed, strength, more_mu, more_sigma, has_mu, has_sigma):
    clean, degraded = _pair(seed, strength)
    before = [float(v) for v in intensity(clean, degraded)]
    wanted = [before[0] * more_mu if has_mu else None, before[1] * more_sigma if has_sigma else None]
    matched = match_intensity(clean, degraded, [wanted[0]], [wanted[1]])
    assert matched.min() >= 0 and matched.max() <= 1
    after = [float(v) for v in intensity(clean, matched)]

    def miss(reached):
        return sum(abs(r - b if w is None else r - w) for r, w, b in zip(reached, wanted, before, strict=True))

    assert miss(after) <= miss(before) + 1e-4
    if not has_sigma and has_mu:
        assert after[0] == pytest.approx(wanted[0], rel=0.02)
    if not (has_mu or has_sigma):
        assert torch.equal(matched, degraded)


def test_matching_keeps_places_and_signs():
    clean, degraded = _pair(0, 0.08)
    matched = match_intensity(clean, degraded, [0.1], [0.06])
    same_sign = (matched - clean) * (degraded - clean) >= 0
    assert same_sign.all()
    untouched = clean.clone()
    untouched[..., 24:] = degraded[..., 24:]
    assert torch.equal(match_intensity(clean, untouched, [0.1], [None])[..., :24], clean[..., :24])


def test_matching_is_bounded():
    clean, degraded = _pair(0, 0.05)
    change = (match_intensity(clean, degraded, [0.4], [None]) - clean).abs().max()
    assert change < 1.5 * (degraded - clean).abs().max()
