"""Which degradations exist, and what is known of each: the one place that lists the six.

Prompt phrases, the structure correction policy and the idea of filter thresholds are GenDeg's
(arXiv 2411.17687, Sections 3 and 4). Intensities are the pooled real ones of the shipped histograms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from runtime.errors import UserError


@dataclass(frozen=True)
class Degradation:
    """One degradation.

    Attributes:
        name: identifier used everywhere in code, files and endpoints.
        label: what a person reads.
        phrase: what the text prompt says of it.
        structure_correction: whether the structure correction module (SCM) repairs the generated image.
            Where it does not, the codec round trip of the clean image is the pair's ground truth, in the paper.
        mu_range, sigma_range: lowest and highest intensity that real data sets hold (1st to 99th percentile).
        typical: the median real (mu, sigma).
        accepted_mu: a generated sample whose reached mu lies outside is discarded from data sets.
        mixed_phrases: data set name -> phrase, for data sets whose images carry a second degradation.
        restriction: what it can do to an image: only lay "flakes" or "streaks" of white, or "drops", over it; make
            it brighter, darker or "paler"; have its light "moved" or "dimmed". See `gendeg.restrictions`.
        variants: phrases that say what `phrase` leaves open, and the compact generator must be told to draw it clearly:
            the direction of a blur, in even steps counter-clockwise from the horizontal. A word each, which is learned
            faster than a number.
    """

    name: str
    label: str
    phrase: str
    structure_correction: bool
    mu_range: tuple[float, float]
    sigma_range: tuple[float, float]
    typical: tuple[float, float]
    accepted_mu: tuple[float, float]
    mixed_phrases: tuple[tuple[str, str], ...] = ()
    restriction: Literal["flakes", "streaks", "drops", "paler", "moved", "dimmed"] = field(kw_only=True)
    variants: tuple[str, ...] = ()

    def phrase_for(self, dataset: str | None = None) -> str:
        """The phrase for samples drawn in the manner of `dataset` (None: the plain one)."""
        return dict(self.mixed_phrases).get(dataset, self.phrase)


DEGRADATIONS: dict[str, Degradation] = {
    d.name: d
    for d in (
        Degradation(
            "haze",
            "Haze",
            "in hazy conditions",
            True,
            (0.030, 0.265),
            (0.020, 0.192),
            (0.107, 0.067),
            (0.02, 0.30),
            restriction="paler",
        ),
        Degradation(
            "rain",
            "Rain",
            "in rainy conditions",
            False,
            (0.008, 0.271),
            (0.011, 0.167),
            (0.074, 0.064),
            (0.005, 0.30),
            (("ORD", "in rainy and hazy conditions"),),
            restriction="streaks",
        ),
        Degradation(
            "snow",
            "Snow",
            "in snowy conditions",
            False,
            (0.003, 0.238),
            (0.020, 0.142),
            (0.057, 0.070),
            (0.003, 0.30),
            (("CSD", "in snowy and hazy conditions"),),
            restriction="flakes",
        ),
        Degradation(
            "motion_blur",
            "Motion blur",
            "in blurry conditions",
            True,
            (0.003, 0.079),
            (0.005, 0.095),
            (0.030, 0.045),
            (0.003, 0.12),
            restriction="moved",
            variants=(
                "in blurry conditions, sideways motion",
                "in blurry conditions, rising motion",
                "in blurry conditions, vertical motion",
                "in blurry conditions, falling motion",
            ),
        ),
        Degradation(
            "raindrop",
            "Raindrops",
            "with raindrops in it",
            True,
            (0.008, 0.134),
            (0.023, 0.142),
            (0.030, 0.086),
            (0.005, 0.20),
            restriction="drops",
        ),
        Degradation(
            "low_light",
            "Low light",
            "in low-light conditions",
            False,
            (0.036, 0.282),
            (0.023, 0.255),
            (0.200, 0.145),
            (0.03, 0.45),
            restriction="dimmed",
        ),
    )
}


def get_degradation(name: str) -> Degradation:
    """Look a degradation up by name, label or the usual spellings ("low-light", "Motion Blur").

    Raises:
        UserError: for an unknown name; the message lists the known ones.
    """
    key = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    if key in DEGRADATIONS:
        return DEGRADATIONS[key]
    for degradation in DEGRADATIONS.values():
        if key == degradation.label.lower().replace(" ", "_"):
            return degradation
    raise UserError(f"Unknown degradation {name!r}. Choose one of: {', '.join(DEGRADATIONS)}.")
