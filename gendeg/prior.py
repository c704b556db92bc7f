"""How strong are degradations in real data sets? Draws (mu, sigma) from the histograms shipped in `assets/`.

GenDeg (arXiv 2411.17687), Section 4, "GenDS": mu comes from the histogram of one source data set, sigma from the
histogram of sigma given that mu, pooled over the degradation's data sets as in the paper's public implementation.

`python -m gendeg.prior JOINT.csv MARGINALS.csv` writes the shipped histograms from tables of counts: columns
`degradation, mu_bin, sigma_bin, count` and `degradation, dataset, statistic, bin, count` (statistic: mu or sigma).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gendeg.degradations import get_degradation
from gendeg.intensity import MU_MAX, NUM_BINS, SIGMA_MAX
from runtime.errors import UserError
from runtime.paths import ASSETS

ASSET = ASSETS / "intensity_histograms.json"
UNIFORM_EVERY = 20
_MEDIAN_OF = 100  # real pairs at least

# How likely a source data set is beside the others, which all weigh 1: the most extreme ones are rare.
DATASET_WEIGHTS = {
    ("rain", "ORD"): 0.2,
    ("haze", "DenseHaze"): 0.05,
    ("haze", "NH-HAZE"): 0.1,
    ("haze", "I-HAZE"): 0.25,
    ("low_light", "SID"): 0.2,
}


class IntensitySample(NamedTuple):
    """One drawn intensity.

    Attributes:
        mu, sigma: mean and standard deviation of a degradation map of images in [0, 1].
        dataset: the source data set (it may change the prompt: `Degradation.phrase_for`).
        uniform: whether mu and sigma were drawn uniformly, for diversity, and not from histograms.
    """

    mu: float
    sigma: float
    dataset: str
    uniform: bool


@dataclass(frozen=True)
class _Histograms:
    """One degradation's tables. All but `joint` hold probabilities.

    Attributes:
        mu: data set name -> [128].
        probabilities: of the data sets, in the order of `mu`.
        joint: counts [128 mu bins, 128 sigma bins], all data sets together.
        sigma_given_mu: [128, 128]; each row sums to 1, rows without data repeat the nearest row that has some.
    """

    mu: dict[str, np.ndarray]
    probabilities: np.ndarray
    joint: np.ndarray
    sigma_given_mu: np.ndarray


class IntensityPrior:
    """The distribution of (mu, sigma) of each degradation (Section 4).

    Args:
        path: histograms as `write_histograms` writes them; read when first needed.
    """

    def __init__(self, path: Path | str = ASSET):
        self.path = Path(path)

    def sample(
        self, degradation: str, rng: np.random.Generator, *, dataset: str | None = None, uniform: bool = False
    ) -> IntensitySample:
        """Draw one intensity.

        Args:
            degradation: one of `gendeg.degradations`.
            rng: where chance comes from; the same state gives the same sample.
            dataset: the source data set; None draws one by weight.
            uniform: draw mu and sigma uniformly and independently over `range(degradation)` instead.

        Raises:
            UserError: for an unknown degradation or data set.
        """
        histograms = self._of(degradation)
        if dataset is None:
            dataset = list(histograms.mu)[rng.choice(len(histograms.mu), p=histograms.probabilities)]
        mu_histogram = self.mu_histogram(degradation, dataset)
        if uniform:
            mu, sigma = (float(rng.uniform(low, high)) for low, high in self.range(degradation))
        else:
            mu_bin = rng.choice(NUM_BINS, p=mu_histogram)
            mu = _inside(mu_bin, MU_MAX, rng)
            sigma = _inside(rng.choice(NUM_BINS, p=histograms.sigma_given_mu[mu_bin]), SIGMA_MAX, rng)
        return IntensitySample(mu, sigma, dataset, bool(uniform))

    def draw(self, degradation: str, rng: np.random.Generator) -> IntensitySample:
        """One as in data sets, of which one in UNIFORM_EVERY is uniform by chance: none depends on the others.

        Raises:
            UserError: for an unknown degradation.
        """
        uniform = rng.integers(UNIFORM_EVERY) == 0
        return self.sample(degradation, rng, uniform=uniform)

    def complete(
        self, degradation: str, rng: np.random.Generator, mu: float | None = None, sigma: float | None = None
    ) -> tuple[float, float]:
        """(mu, sigma) of which one or both are drawn: sigma as real data have it at the given mu, or the reverse.

        A given value that no data set has is taken for the nearest one that some data set has.

        Raises:
            UserError: for an unknown degradation.
        """
        if mu is None and sigma is None:
            return self.sample(degradation, rng)[:2]
        if sigma is None:
            row = self.sigma_given_mu(degradation)[_bin(mu, MU_MAX)]
            return mu, _inside(rng.choice(NUM_BINS, p=row), SIGMA_MAX, rng)
        if mu is None:
            joint = self.mu_histogram(degradation)[:, None] * self.sigma_given_mu(degradation)
            filled = np.flatnonzero(joint.any(0))
            column = joint[:, filled[np.abs(filled - _bin(sigma, SIGMA_MAX)).argmin()]]
            return _inside(rng.choice(NUM_BINS, p=column / column.sum()), MU_MAX, rng), sigma
        return mu, sigma

    def typical_sigma(self, degradation: str, mu: float) -> float:
        """The sigma that goes with a mu: the median of the real pairs of that mu.

        Where its bin holds few, neighbouring ones on both sides are taken along; of a mu beyond all data, the nearest.

        Raises:
            UserError: for an unknown degradation.
        """
        joint = self.pooled(degradation)
        distance = np.abs(np.arange(NUM_BINS) - _bin(mu, MU_MAX))
        within = np.bincount(distance, weights=joint.sum(1)).cumsum()
        counts = joint[distance <= np.searchsorted(within, _MEDIAN_OF)].sum(0)
        return float(np.interp(counts.sum() / 2, np.append(0, counts.cumsum()), _edges(SIGMA_MAX)))

    def strengths(self, degradation: str) -> dict[str, tuple[float, float]]:
        """(mu, sigma) of a light, a moderate and a heavy one: the middle of each third of the real pairs.

        Raises:
            UserError: for an unknown degradation.
        """
        counts = np.append(0, self.pooled(degradation).sum(1).cumsum())
        light, heavy = (float(np.interp(place * counts[-1], counts, _edges(MU_MAX))) for place in (1 / 6, 5 / 6))
        of = {mu: (round(mu, 3), round(self.typical_sigma(degradation, mu), 3)) for mu in (light, heavy)}
        return {"light": of[light], "moderate": get_degradation(degradation).typical, "heavy": of[heavy]}

    def range(self, degradation: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """((mu low, mu high), (sigma low, sigma high)): outer edges of the lowest and highest bins with real data."""
        joint = self._of(degradation).joint
        mu_bins, sigma_bins = np.flatnonzero(joint.any(1)), np.flatnonzero(joint.any(0))
        mu_edges, sigma_edges = _edges(MU_MAX), _edges(SIGMA_MAX)
        return (
            (float(mu_edges[mu_bins[0]]), float(mu_edges[mu_bins[-1] + 1])),
            (float(sigma_edges[sigma_bins[0]]), float(sigma_edges[sigma_bins[-1] + 1])),
        )

    def datasets(self, degradation: str) -> dict[str, float]:
        """The degradation's source data sets and how likely `sample` is to choose each."""
        histograms = self._of(degradation)
        return dict(zip(histograms.mu, histograms.probabilities.tolist(), strict=True))

    def mu_histogram(self, degradation: str, dataset: str | None = None) -> np.ndarray:
        """Probability of each mu bin, [128]: in one data set, or (None) as `sample` draws them.

        Raises:
            UserError: for an unknown degradation or data set.
        """
        histograms = self._of(degradation)
        if dataset is None:
            return histograms.probabilities @ np.stack(list(histograms.mu.values()))
        if dataset not in histograms.mu:
            name = get_degradation(degradation).name
            raise UserError(f"Unknown data set {dataset!r} of {name}. Choose one of: {', '.join(histograms.mu)}.")
        return histograms.mu[dataset]

    def sigma_given_mu(self, degradation: str) -> np.ndarray:
        """Probability of each sigma bin given each mu bin, [128 mu bins, 128 sigma bins]; each row sums to 1."""
        return self._of(degradation).sigma_given_mu

    def pooled(self, degradation: str) -> np.ndarray:
        """Real image pairs in each bin, unweighted, all data sets together: [128 mu bins, 128 sigma bins]."""
        return self._of(degradation).joint

    def log_density(self, degradation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `sample` draws from (not uniformly), for plots.

        Returns:
            (mu edges [129], sigma edges [129], log10 of the density per unit of mu and sigma [128 mu bins,
            128 sigma bins]; -inf where `sample` never draws).
        """
        mu_edges, sigma_edges = _edges(MU_MAX), _edges(SIGMA_MAX)
        probability = self.mu_histogram(degradation)[:, None] * self.sigma_given_mu(degradation)
        with np.errstate(divide="ignore"):
            return mu_edges, sigma_edges, np.log10(probability / (MU_MAX / NUM_BINS * SIGMA_MAX / NUM_BINS))

    def _of(self, degradation: str) -> _Histograms:
        return self._histograms[get_degradation(degradation).name]

    @cached_property
    def _histograms(self) -> dict[str, _Histograms]:
        tables = json.loads(self.path.read_text(encoding="utf-8"))["degradations"]
        return {name: _prepare(name, table) for name, table in tables.items()}


PRIOR = IntensityPrior()  # of the shipped histograms


def named_rng(*name: str | int) -> np.random.Generator:
    """Random numbers that depend on nothing but a name: the same in any process, and in any order of names."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(json.dumps(name).encode()).digest(), "big"))


def _prepare(degradation: str, table: dict) -> _Histograms:
    mu = {dataset: _dense(counts) / sum(counts) for dataset, counts in table["mu"].items()}
    weights = np.array([DATASET_WEIGHTS.get((degradation, dataset), 1.0) for dataset in mu])
    joint = np.zeros((NUM_BINS, NUM_BINS))
    for mu_bin, counts in enumerate(table["joint"]):
        joint[mu_bin] = _dense(counts)
    filled = np.flatnonzero(joint.any(1))
    nearest = filled[np.abs(np.arange(NUM_BINS)[:, None] - filled).argmin(1)]
    sigma_given_mu = joint[nearest] / joint[nearest].sum(1, keepdims=True)
    for array in (*mu.values(), joint, sigma_given_mu):
        array.setflags(write=False)  # callers get the tables themselves
    return _Histograms(mu, weights / weights.sum(), joint, sigma_given_mu)


def _dense(counts: list[int]) -> np.ndarray:
    return np.pad(np.array(counts, dtype=float), (0, NUM_BINS - len(counts)))


def _edges(maximum: float) -> np.ndarray:
    return np.arange(NUM_BINS + 1) * (maximum / NUM_BINS)


def _bin(value: float, maximum: float) -> int:
    return int(np.nan_to_num(np.clip(value / maximum * NUM_BINS, 0, NUM_BINS - 1)))  # checking is not its task


def _inside(index: int, maximum: float, rng: np.random.Generator) -> float:
    return float((index + rng.random()) * (maximum / NUM_BINS))


def write_histograms(joint_csv: Path | str, marginals_csv: Path | str, output: Path | str = ASSET) -> None:
    """Turn tables of counts (see the head of this file) into the file that `IntensityPrior` reads."""
    tables: dict[str, dict] = {}
    for row in _rows(marginals_csv):
        if row["statistic"] == "mu":
            table = tables.setdefault(get_degradation(row["degradation"]).name, {"mu": {}, "joint": []})
            _put(table["mu"].setdefault(row["dataset"], []), int(row["bin"]), int(row["count"]))
    for row in _rows(joint_csv):
        joint = tables[get_degradation(row["degradation"]).name]["joint"]
        mu_bin = int(row["mu_bin"])
        joint.extend([] for _ in range(len(joint), mu_bin + 1))
        _put(joint[mu_bin], int(row["sigma_bin"]), int(row["count"]))
    about = (
        "Real image pairs per intensity bin (gendeg/intensity.py), trailing zeros left out. mu: one histogram per data "
        "set. joint: all data sets together, one line per mu bin, holding its histogram of sigma. "
        "Written by python -m gendeg.prior."
    )
    text = json.dumps({"about": about, "degradations": tables}, indent=1)
    one_line_each = re.sub(r"\[[^\[\]]*\]", lambda match: re.sub(r"\s+", "", match[0]), text)
    Path(output).write_text(one_line_each + "\n", encoding="utf-8")


def _rows(path: Path | str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _put(counts: list[int], index: int, count: int) -> None:
    counts.extend([0] * (index + 1 - len(counts)))
    counts[index] += count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the histograms that IntensityPrior draws from.")
    parser.add_argument("joint", help="CSV: degradation, mu_bin, sigma_bin, count")
    parser.add_argument("marginals", help="CSV: degradation, dataset, statistic, bin, count")
    parser.add_argument("--output", default=ASSET, help="default: %(default)s")
    arguments = parser.parse_args()
    write_histograms(arguments.joint, arguments.marginals, arguments.output)
