"""Which degradations exist, and what is known of each: the one place that lists the six.

Prompt phrases and the idea of filter thresholds are GenDeg's (arXiv 2411.17687, Sections 3 and 4). Intensities are the
pooled real ones of the shipped histograms.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """One degradation.

    Attributes:
        name: identifier used everywhere in code, files and endpoints.
        label: what a person reads.
        phrase: what the text prompt says of it.
        mu_range, sigma_range: lowest and highest intensity that real data sets hold (1st to 99th percentile).
        typical: the median real (mu, sigma).
        accepted_mu: a generated sample whose reached mu lies outside is discarded from data sets.
        mixed_phrases: data set name -> phrase, for data sets whose images carry a second degradation.
        variants: phrases that say what `phrase` leaves open, and the compact generator must be told to draw it clearly:
            the direction of a blur, in even steps counter-clockwise from the horizontal. A word each, which is learned
            faster than a number.
    """

    name: str
    label: str
    phrase: str
    mu_range: tuple[float, float]
    sigma_range: tuple[float, float]
    typical: tuple[float, float]
    accepted_mu: tuple[float, float]
    mixed_phrases: tuple[tuple[str, str], ...] = ()
    variants: tuple[str, ...] = ()

    def phrase_for(self, dataset: str | None = None) -> str:
        """The phrase for samples drawn in the manner of `dataset` (None: the plain one)."""
        return dict(self.mixed_phrases).get(dataset, self.phrase)


DEGRADATIONS: dict[str, Degradation] = {
    degradation.name: degradation
    for degradation in (
        Degradation(
            name="haze",
            label="Haze",
            phrase="in hazy conditions",
            mu_range=(0.030, 0.265),
            sigma_range=(0.020, 0.192),
            typical=(0.107, 0.067),
            accepted_mu=(0.02, 0.30),
        ),
        Degradation(
            name="rain",
            label="Rain",
            phrase="in rainy conditions",
            mu_range=(0.008, 0.271),
            sigma_range=(0.011, 0.167),
            typical=(0.074, 0.064),
            accepted_mu=(0.005, 0.30),
            mixed_phrases=(("ORD", "in rainy and hazy conditions"),),
        ),
        Degradation(
            name="snow",
            label="Snow",
            phrase="in snowy conditions",
            mu_range=(0.003, 0.238),
            sigma_range=(0.020, 0.142),
            typical=(0.057, 0.070),
            accepted_mu=(0.003, 0.30),
            mixed_phrases=(("CSD", "in snowy and hazy conditions"),),
        ),
        Degradation(
            name="motion_blur",
            label="Motion blur",
            phrase="in blurry conditions",
            mu_range=(0.003, 0.079),
            sigma_range=(0.005, 0.095),
            typical=(0.030, 0.045),
            accepted_mu=(0.003, 0.12),
            variants=(
                "in blurry conditions, sideways motion",
                "in blurry conditions, rising motion",
                "in blurry conditions, vertical motion",
                "in blurry conditions, falling motion",
            ),
        ),
        Degradation(
            name="raindrop",
            label="Raindrops",
            phrase="with raindrops in it",
            mu_range=(0.008, 0.134),
            sigma_range=(0.023, 0.142),
            typical=(0.030, 0.086),
            accepted_mu=(0.005, 0.20),
        ),
        Degradation(
            name="low_light",
            label="Low light",
            phrase="in low-light conditions",
            mu_range=(0.036, 0.282),
            sigma_range=(0.023, 0.255),
            typical=(0.200, 0.145),
            accepted_mu=(0.03, 0.65),
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
