"""Where restorers' training pairs come from: stored ones, and the crops taken of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.pairs import BalancedSampler, Crops


def _stored(count=8, size=32):
    """Pairs whose degraded image is the clean one, inverted; every pixel's value tells where it was."""
    clean = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    return {"clean": clean, "degraded": 255 - clean, "degradation": np.arange(count) % 6}


def _grey(size, clean=128, degraded=64):
    grey = np.ones((1, 3, size, size), np.uint8)
    return {"clean": grey * clean, "degraded": grey * degraded, "degradation": np.zeros(1)}


@pytest.mark.parametrize("crop", [16, 32])
def test_crops_are_taken_alike_from_both_images(crop):
    stored = _stored()
    batch = Crops(stored, crop, {}, clean_share=0.0, exposure_share=0.0, seed=0).__getitems__(range(20))
    assert batch["clean"].shape == batch["degraded"].shape == (20, 3, crop, crop)
    torch.testing.assert_close(batch["degraded"], 1 - batch["clean"])
    mirrored = 0
    for sample in (batch["clean"] * 255).round().byte().numpy():
        windows = np.lib.stride_tricks.sliding_window_view(stored["clean"], (crop, crop), (2, 3))
        plain, turned = ((windows == side[:, None, None]).all((1, 4, 5)).any() for side in (sample, sample[..., ::-1]))
        assert plain != turned, "a window of one of the images, as it is or mirrored"
        mirrored += turned
    assert 3 < mirrored < 17


def test_batches_depend_on_seed_and_index_alone():
    one, same, other = (Crops(_stored(), 16, {}, 0.3, 0.3, seed) for seed in (0, 0, 1))
    for start in (12, 0):
        batches = [data.__getitems__(range(start, start + 4)) for data in (one, same, other)]
        for name in ("clean", "degraded"):
            assert torch.equal(batches[0][name], batches[1][name])
            assert not torch.equal(batches[0][name], batches[2][name])


def test_crops_larger_than_the_pairs_are_refused():
    with pytest.raises(ValueError, match="crop: 48 pixels, but the pairs have 32"):
        Crops(_stored(), 48, {}, 0.0, 0.0, 0)


def test_half_of_the_clean_samples_have_grain_and_half_of_these_are_smooth_fields():
    batch = Crops(_grey(64), 64, {}, clean_share=0.5, exposure_share=0.0, seed=0).__getitems__(range(400))
    same = (batch["clean"] == batch["degraded"]).flatten(1).all(1)
    assert same.float().mean() == pytest.approx(0.5, abs=0.1), "what is fine must stay, its grain too"
    deviations = batch["clean"].flatten(1).std(1)
    grainy = deviations > 1e-6
    assert grainy[same].float().mean() == pytest.approx(0.5, abs=0.12) and not grainy[~same].any()
    means = batch["clean"].mean((1, 2, 3))
    field = (means - 128 / 255).abs() > 0.01
    assert field[grainy].float().mean() == pytest.approx(0.5, abs=0.16) and not field[~grainy].any()
    assert means.min() < 0.15 and means.max() > 0.8, "fields are dark or bright"
    assert deviations[grainy & ~field].min() > 0.002
    grain = batch["clean"].diff(dim=3).flatten(1).std(1) / 2**0.5  # a field's own gradient is smooth
    assert 0.0005 < grain[grainy].min() and grain.max() < 0.045


def test_some_samples_are_darker_or_brighter_both_images_alike():
    batch = Crops(_grey(16), 16, {}, clean_share=0.0, exposure_share=0.4, seed=0).__getitems__(range(600))
    clean, degraded = (batch[name][:, 0, 0, 0] for name in ("clean", "degraded"))
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
