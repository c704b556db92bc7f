"""Where restorers' training pairs come from: stored ones, and the crops taken of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.pairs import BalancedSampler, Crops, StoredPairs


def _stored(count=8, size=32):
    """Pairs whose degraded image is the clean one, inverted; every pixel's value tells where it was."""
    clean = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    return StoredPairs([{"clean": clean, "degraded": 255 - clean, "degradation": np.arange(count) % 6}], {})


def test_sets_of_stored_pairs_are_drawn_from_as_one():
    def one_set(values):
        images = np.array(values, np.uint8).reshape(-1, 1, 1, 1).repeat(3, 1)
        return {"clean": images, "degraded": images + 100, "degradation": np.array(values) // 10}

    pairs, rng = StoredPairs([one_set([0, 10, 11]), one_set([12, 13])], {"rain": 3.0}), np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        clean, degraded = pairs.pair(rng)
        assert int(degraded[0, 0, 0]) == int(clean[0, 0, 0]) + 100
        drawn.append(int(clean[0, 0, 0]))
    shares = np.bincount(drawn, minlength=14)[[0, 10, 11, 12, 13]] / 2000
    assert shares == pytest.approx([1 / 4] + [3 / 16] * 4, abs=0.04)


@pytest.mark.parametrize("crop", [16, 32, 48])
def test_crops_are_taken_alike_from_both_images(crop):
    data = Crops([(_stored(), 1.0)], crop, clean_share=0.0, exposure_share=0.0, seed=0)
    for index in range(20):
        sample = data[index]
        assert sample["clean"].shape == sample["degraded"].shape == (3, crop, crop)
        torch.testing.assert_close(sample["degraded"], 1 - sample["clean"])


def test_samples_depend_on_seed_and_index_alone():
    one, same, other = (Crops([(_stored(), 1.0)], 16, 0.3, 0.3, seed) for seed in (0, 0, 1))
    for index in (5, 0, 3):
        assert torch.equal(one[index]["clean"], same[index]["clean"])
        assert torch.equal(one[index]["degraded"], same[index]["degraded"])
    assert any(not torch.equal(one[i]["clean"], other[i]["clean"]) for i in range(5))


def test_shares_of_sources_and_of_clean_samples():
    grey = np.full((1, 3, 16, 16), 128, np.uint8)
    dark, bright = (
        StoredPairs([{"clean": np.full_like(grey, v), "degraded": grey, "degradation": np.zeros(1)}], {})
        for v in (0, 255)
    )
    data = Crops([(dark, 1.0), (bright, 3.0)], 16, clean_share=0.25, exposure_share=0.0, seed=0)
    samples = [data[i] for i in range(800)]
    assert np.mean([float(s["clean"].mean()) for s in samples]) == pytest.approx(0.75, abs=0.06)
    unchanged = np.mean([torch.equal(s["clean"], s["degraded"]) for s in samples])
    assert unchanged == pytest.approx(0.25, abs=0.06)


def test_half_of_the_clean_samples_have_grain():
    grey = np.full((1, 3, 64, 64), 128, np.uint8)
    pairs = StoredPairs([{"clean": grey, "degraded": grey // 2, "degradation": np.zeros(1)}], {})
    data = Crops([(pairs, 1.0)], 64, clean_share=1.0, exposure_share=0.0, seed=0)
    samples = [data[i] for i in range(200)]
    deviations = torch.stack([sample["clean"].std() for sample in samples])
    grainy = deviations > 0
    assert grainy.float().mean() == pytest.approx(0.5, abs=0.1)
    assert 0.002 < deviations[grainy].min() and deviations.max() < 0.045
    for sample in samples:
        assert torch.equal(sample["clean"], sample["degraded"]), "what is fine must stay, its grain too"
        assert float(sample["clean"].mean()) == pytest.approx(128 / 255, abs=0.01)


def test_some_samples_are_darker_or_brighter_both_images_alike():
    grey = np.full((1, 3, 16, 16), 128, np.uint8)
    pairs = StoredPairs([{"clean": grey, "degraded": grey // 2, "degradation": np.zeros(1)}], {})
    data = Crops([(pairs, 1.0)], 16, clean_share=0.0, exposure_share=0.4, seed=0)
    clean, degraded = (torch.stack([data[i][name][0, 0, 0] for i in range(600)]) for name in ("clean", "degraded"))
    gamma = clean.log() / np.log(128 / 255)
    torch.testing.assert_close(degraded, (64 / 255) ** gamma)
    assert ((gamma - 1).abs() > 1e-3).float().mean() == pytest.approx(0.4, abs=0.06)
    assert 0.5 <= gamma.min() < 0.6 and 1.8 < gamma.max() <= 2.0


def test_shares_of_degradations():
    degradation = np.repeat(np.arange(6), [10, 1, 5, 5, 5, 0])  # how many there are decides nothing
    sampler = BalancedSampler(degradation, {"haze": 3.0, "snow": 0.0})
    drawn = np.bincount(degradation[sampler.draw(3000, np.random.default_rng(0))], minlength=6) / 3000
    assert drawn == pytest.approx([3 / 6, 1 / 6, 0, 1 / 6, 1 / 6, 0], abs=0.04)


def test_shares_of_what_is_no_degradation_are_refused():
    with pytest.raises(ValueError, match="fog: no degradation; there are haze"):
        BalancedSampler(np.zeros(3), {"fog": 1.0})


def test_no_photograph_is_both_trained_on_and_measured():
    lists = Path(__file__).parents[2] / "training" / "bsds500"
    train, test = ((lists / f"{part}.txt").read_text().split() for part in ("train", "test"))
    assert (len(set(train)), len(set(test))) == (209, 80) and not set(train) & set(test)
