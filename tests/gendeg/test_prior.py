"""Drawn intensities follow the shipped histograms, which are those of the real data sets."""

import csv
import json
from functools import cache

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import MU_MAX, NUM_BINS, SIGMA_MAX
from gendeg.prior import ASSET, DATASET_WEIGHTS, PRIOR, IntensityPrior, IntensitySample, named_rng, write_histograms

MU_WIDTH, SIGMA_WIDTH = MU_MAX / NUM_BINS, SIGMA_MAX / NUM_BINS
PAIRS = {"haze": 80184, "rain": 37657, "snow": 59413, "motion_blur": 33855, "raindrop": 1661, "low_light": 1391}
WEIGHTS = {"ORD": 0.2, "DenseHaze": 0.05, "NH-HAZE": 0.1, "I-HAZE": 0.25, "SID": 0.2}
every_degradation = pytest.mark.parametrize("name", DEGRADATIONS)


@cache
def draws(name: str, uniform: bool = False) -> list[IntensitySample]:
    rng = np.random.default_rng(7)
    return [PRIOR.sample(name, rng, uniform=uniform) for _ in range(10_000)]


def values(samples: list[IntensitySample]) -> np.ndarray:
    return np.array([sample[:2] for sample in samples])


@cache
def expected(name: str) -> np.ndarray:
    """Probability [128 mu bins, 128 sigma bins], computed here from the shipped counts."""
    table = json.loads(ASSET.read_text())["degradations"][name]
    mu = np.zeros(NUM_BINS)
    for dataset, counts in table["mu"].items():
        mu[: len(counts)] += WEIGHTS.get(dataset, 1) * np.array(counts) / sum(counts)
    result = np.zeros((NUM_BINS, NUM_BINS))
    for mu_bin, counts in enumerate(table["joint"]):
        result[mu_bin, : len(counts)] = mu[mu_bin] * np.array(counts) / max(sum(counts), 1)
    return result / result.sum()


def assert_follows(counts: np.ndarray, probability: np.ndarray) -> None:
    """Chi-square test; bins too rare for it are taken together."""
    assert not counts[probability == 0].any()
    frequent = probability * counts.sum() >= 5
    observed = np.append(counts[frequent], counts[~frequent].sum())
    wanted = np.append(probability[frequent], probability[~frequent].sum()) * counts.sum()
    filled = wanted > 0
    assert chisquare(observed[filled], wanted[filled]).pvalue > 1e-3


def test_numbers_under_a_name_stay_what_they_were():
    """Else a data set that goes on after an interruption would not fit what it holds."""
    assert named_rng(0, "photo-1.jpg", "rain", 0, 1).integers(2**32, size=2).tolist() == [2558212899, 1973599096]


@every_degradation
def test_draws_follow_the_histograms(name):
    mu_bins, sigma_bins = np.floor(values(draws(name)) / [MU_WIDTH, SIGMA_WIDTH]).astype(int).T
    counts = np.zeros((NUM_BINS, NUM_BINS))
    np.add.at(counts, (mu_bins, sigma_bins), 1)
    assert_follows(counts.sum(1), expected(name).sum(1))
    assert_follows(counts.sum(0), expected(name).sum(0))
    assert_follows(counts, expected(name))


@every_degradation
def test_draws_are_uniform_inside_a_bin(name):
    for place in (values(draws(name)) / [MU_WIDTH, SIGMA_WIDTH] % 1).T:
        assert kstest(place, "uniform").pvalue > 1e-3


@every_degradation
def test_data_sets_are_drawn_by_weight(name):
    probabilities = PRIOR.datasets(name)
    assert sum(probabilities.values()) == pytest.approx(1)
    drawn = [sample.dataset for sample in draws(name)]
    weights = np.array([WEIGHTS.get(dataset, 1) for dataset in probabilities])
    counts = np.array([drawn.count(dataset) for dataset in probabilities])
    assert_follows(counts, weights / weights.sum())
    np.testing.assert_allclose(list(probabilities.values()), weights / weights.sum())


def test_every_weight_and_mixed_phrase_names_a_data_set():
    for degradation, dataset in DATASET_WEIGHTS:
        assert dataset in PRIOR.datasets(degradation)
    for degradation in DEGRADATIONS.values():
        assert {dataset for dataset, _ in degradation.mixed_phrases} <= set(PRIOR.datasets(degradation.name))


@every_degradation
def test_shipped_counts_are_those_of_the_real_data(name):
    joint = PRIOR.pooled(name)
    assert joint.sum() == PAIRS[name]
    table = json.loads(ASSET.read_text())["degradations"][name]
    by_data_set = sum(np.pad(counts, (0, NUM_BINS - len(counts))) for counts in table["mu"].values())
    np.testing.assert_array_equal(joint.sum(1), by_data_set)


@every_degradation
def test_percentiles_are_those_of_the_table_of_degradations(name):
    degradation = DEGRADATIONS[name]
    joint = PRIOR.pooled(name)
    for counts, width, (low, high), middle in (
        (joint.sum(1), MU_WIDTH, degradation.mu_range, degradation.typical[0]),
        (joint.sum(0), SIGMA_WIDTH, degradation.sigma_range, degradation.typical[1]),
    ):
        cumulative = np.append(0, counts.cumsum()) / counts.sum()
        percentiles = np.interp([0.01, 0.5, 0.99], cumulative, np.arange(NUM_BINS + 1) * width)
        np.testing.assert_allclose(percentiles, [low, middle, high], atol=width)


@every_degradation
@pytest.mark.parametrize("uniform", [False, True])
def test_range_holds_all_draws(name, uniform):
    low, high = np.array(PRIOR.range(name)).T
    assert (low <= values(draws(name, uniform))).all()
    assert (values(draws(name, uniform)) <= high).all()


@every_degradation
def test_uniform_draws(name):
    samples = draws(name, uniform=True)
    assert all(sample.uniform for sample in samples)
    low, high = np.array(PRIOR.range(name)).T
    places = (values(samples) - low) / (high - low)
    for place in places.T:
        assert kstest(place, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.04


@every_degradation
def test_density_is_what_draws_follow(name):
    mu_edges, sigma_edges, log_density = PRIOR.log_density(name)
    assert mu_edges.shape == sigma_edges.shape == (NUM_BINS + 1,)
    assert (mu_edges[0], sigma_edges[0]) == (0, 0)
    assert (mu_edges[-1], sigma_edges[-1]) == pytest.approx((MU_MAX, SIGMA_MAX))
    probability = 10**log_density * MU_WIDTH * SIGMA_WIDTH
    assert np.isneginf(log_density[expected(name) == 0]).all()
    np.testing.assert_allclose(probability, expected(name), atol=1e-12)
    np.testing.assert_allclose(PRIOR.mu_histogram(name), expected(name).sum(1), atol=1e-12)
    np.testing.assert_allclose(PRIOR.sigma_given_mu(name).sum(1), 1)


@every_degradation
def test_what_is_not_given_is_drawn_to_fit(name):
    rng, joint = np.random.default_rng(0), expected(name)
    mu, sigma = DEGRADATIONS[name].typical
    counts = np.zeros((2, NUM_BINS))
    for _ in range(3000):
        given, drawn = PRIOR.complete(name, rng, mu=mu)
        counts[0, int(drawn / SIGMA_WIDTH)] += given == mu
        drawn, given = PRIOR.complete(name, rng, sigma=sigma)
        counts[1, int(drawn / MU_WIDTH)] += given == sigma
    row, column = joint[int(mu / MU_WIDTH)], joint[:, int(sigma / SIGMA_WIDTH)]
    assert_follows(counts[0], row / row.sum())
    assert_follows(counts[1], column / column.sum())
    assert PRIOR.complete(name, rng, 0.3, 0.2) == (0.3, 0.2)
    same, again = (np.random.default_rng(1) for _ in range(2))
    assert PRIOR.complete(name, same) == PRIOR.sample(name, again)[:2]
    for extreme in (0.0, 0.999, 5.0):  # far from all data
        low, high = PRIOR.range(name)
        assert low[0] <= PRIOR.complete(name, rng, sigma=extreme)[0] <= low[1]
        assert high[0] <= PRIOR.complete(name, rng, mu=extreme)[1] <= high[1]


def test_same_seed_same_draws():
    first, again, other = (PRIOR.sample("rain", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_sample_unpacks_and_names_its_data_set():
    sample = PRIOR.sample("low-light", np.random.default_rng(0), dataset="SID", uniform=np.bool_(False))
    mu, sigma = sample[:2]
    assert (mu, sigma) == (sample.mu, sample.sigma)
    assert [type(value) for value in sample] == [float, float, str, bool]
    assert sample.dataset == "SID"


def test_one_data_set_keeps_to_its_own_histogram():
    rng = np.random.default_rng(0)
    filled = PRIOR.mu_histogram("haze", "DenseHaze") > 0
    assert all(filled[int(PRIOR.sample("haze", rng, dataset="DenseHaze").mu / MU_WIDTH)] for _ in range(200))


def test_errors_say_what_to_choose():
    rng = np.random.default_rng(0)
    for call in (PRIOR.range, PRIOR.log_density, PRIOR.datasets, lambda name: PRIOR.sample(name, rng)):
        with pytest.raises(ValueError, match=r"Unknown degradation 'fog'. Choose one of: haze, "):
            call("fog")
    with pytest.raises(ValueError, match=r"Unknown data set 'ORD' of low_light. Choose one of: LOLv2, SID."):
        PRIOR.sample("low-light", rng, dataset="ORD")
    with pytest.raises(ValueError, match=r"Unknown data set 'nowhere' of haze"):
        PRIOR.sample("haze", rng, dataset="nowhere", uniform=True)


def test_tables_cannot_be_changed_by_callers():
    with pytest.raises(ValueError, match="read-only"):
        PRIOR.pooled("haze")[0, 0] = 1


def write_csv(path, *rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_writing_histograms_and_mu_without_sigma(tmp_path):
    marginals = write_csv(
        tmp_path / "marginals.csv",
        ("degradation", "dataset", "statistic", "bin", "count"),
        ("haze", "A", "mu", 3, 2),
        ("haze", "A", "mu", 9, 1),
        ("haze", "A", "sigma", 5, 3),
        ("haze", "B", "mu", 4, 8),
    )
    joint = write_csv(
        tmp_path / "joint.csv",
        ("degradation", "mu_bin", "sigma_bin", "count"),
        ("haze", 3, 5, 1),
        ("haze", 3, 7, 3),
        ("haze", 8, 2, 1),
    )
    files = tmp_path / "once.json", tmp_path / "twice.json"
    for file in files:
        write_histograms(joint, marginals, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    prior = IntensityPrior(files[0])
    np.testing.assert_allclose(prior.mu_histogram("haze")[[3, 4, 9]], [1 / 3, 1 / 2, 1 / 6])
    np.testing.assert_allclose(prior.sigma_given_mu("haze")[3, [5, 7]], [0.25, 0.75])
    # mu bins 4 and 9 hold no sigma: that of the nearest mu bins, 3 and 8, is taken.
    np.testing.assert_array_equal(prior.sigma_given_mu("haze")[4], prior.sigma_given_mu("haze")[3])
    assert prior.sigma_given_mu("haze")[9, 2] == 1
    rng = np.random.default_rng(0)
    assert {int(prior.sample("haze", rng, dataset="B").sigma / SIGMA_WIDTH) for _ in range(50)} == {5, 7}
    np.testing.assert_allclose(prior.range("haze"), ((3 * MU_WIDTH, 9 * MU_WIDTH), (2 * SIGMA_WIDTH, 8 * SIGMA_WIDTH)))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_strengths_rise_within_real_data(name):
    strengths = PRIOR.strengths(name)
    assert list(strengths) == ["light", "moderate", "heavy"]
    mus, sigmas = zip(*strengths.values(), strict=True)
    low, high = DEGRADATIONS[name].mu_range
    assert low <= mus[0] < mus[1] < mus[2] <= high
    assert all(DEGRADATIONS[name].sigma_range[0] <= sigma <= DEGRADATIONS[name].sigma_range[1] for sigma in sigmas)
