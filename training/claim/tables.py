"""What came of it? Tables in the form of the paper's 1, 2 and 3 (GenDeg, arXiv 2411.17687), from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from gendeg.degradations import DEGRADATIONS

Measures = Mapping[str, float | None]
Quality = Mapping[str, Measures]  # of each set, "in/haze-sots-indoor": what `training.evaluate published` measures
# More is better of the first two.
MEASURES = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 3), "lpips": ("LPIPS", 3), "frechet": ("Fréchet", 1)}
PLACES = {"out": "out of distribution", "in": "in distribution"}


def degradation_of(name: str) -> str:
    """ "motion_blur" for "in/motion_blur-reds"."""
    return name.split("/")[1].split("-")[0]


def means(quality: Quality, place: str, degradation: str | None = None) -> dict[str, float]:
    """Of the sets of a place, "in" or "out": means over each degradation's sets, of all degradations or of one."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, measures in quality.items():
        if name.startswith(f"{place}/") and degradation in (None, degradation_of(name)):
            for measure, value in measures.items():
                if measure in MEASURES and value is not None:
                    found.setdefault(measure, {}).setdefault(degradation_of(name), []).append(value)
    return {measure: fmean(map(fmean, values.values())) for measure, values in found.items()}


def cell(runs: Sequence[Measures]) -> str:
    """Means over seeds, of PSNR with the standard deviation: "21.30 ± 0.12 / 0.812 / 3.1"."""
    parts = []
    for measure, (_, digits) in MEASURES.items():
        values = [run[measure] for run in runs if run.get(measure) is not None]
        if values:
            spread = f" ± {stdev(values):.{digits}f}" if measure == "psnr" and len(values) > 1 else ""
            parts.append(f"{fmean(values):.{digits}f}{spread}")
    return " / ".join(parts) or "–"


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_sets(runs: Mapping[str, Sequence[Quality]], place: str) -> str:
    """Tables 1 (out of distribution) and 2 (in distribution): a column a set.

    Args:
        runs: row -> what each of its seeds reached.
    """
    sets = [name for name in next(iter(runs.values()))[0] if name.startswith(f"{place}/")]
    sets.sort(key=lambda name: list(DEGRADATIONS).index(degradation_of(name)))
    header = ["", *(name.split("/")[1].replace("-", ": ", 1).replace("_", " ") for name in sets)]
    return markdown(header, [[row, *(cell([q[name] for q in seeds]) for name in sets)] for row, seeds in runs.items()])


def of_means(runs: Mapping[str, Sequence[Quality]]) -> str:
    """Table 3: means over all degradations."""
    rows = [[row, *(cell([means(q, place) for q in seeds]) for place in ("in", "out"))] for row, seeds in runs.items()]
    return markdown(["", PLACES["in"], PLACES["out"]], rows)


def gains(both: Sequence[Quality], existing: Sequence[Quality]) -> dict[str, list[float]]:
    """By how many dB the mean PSNR of both kinds of pairs is above that of existing ones: place -> of each seed."""
    return {
        place: [means(b, place)["psnr"] - means(e, place)["psnr"] for b, e in zip(both, existing, strict=True)]
        for place in PLACES
    }


def verdict(network: str, gained: Mapping[str, Sequence[float]]) -> str:
    """One line: what a network gains, against the aim of 1 dB out of distribution at a loss of at most 0.3 dB in it."""
    said = []
    for place, label in PLACES.items():
        values = gained[place]
        spread = f" (seeds {min(values):+.2f} to {max(values):+.2f})" if len(values) > 1 else ""
        said.append(f"{fmean(values):+.2f} dB {label}{spread}")
    reached = fmean(gained["out"]) >= 1.0 and fmean(gained["in"]) >= -0.3
    return f"- {network}: {', '.join(said)}: the aim is {'reached' if reached else 'not reached'}."
