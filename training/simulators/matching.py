"""Simulating a degradation of a wanted intensity.

Simulators have many random shapes (how dense, how opaque, how patchy) and one strength. For several shapes the
strength that reaches the wanted mu is found by bisection, and the shape whose sigma comes nearest is kept: pairs then
follow the intensities of real data sets (GenDeg, arXiv 2411.17687, Section 3.2) instead of the simulator's habits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gendeg.degradations import get_degradation
from gendeg.intensity import intensity
from training.simulators import haze, low_light, motion_blur, rain, raindrop, snow

SIMULATORS = {
    module.__name__.rsplit(".", 1)[1]: module.SIMULATORS
    for module in (haze, rain, snow, motion_blur, raindrop, low_light)
}
# Simulators that also lay a veil over the scene, as some real rain and snow data sets do.
MIXED = rain.MIXED | snow.MIXED
_BISECTIONS = 6
_SHAPES = 3  # drawn at a time, of one simulator
_ROUNDS = 4  # of drawing, until one shape is
_NEAR_ENOUGH = 0.012  # |mu missed| + |sigma missed|


@dataclass(frozen=True)
class Simulated:
    """degraded: [3, H, W] in [0, 1]; mu, sigma: reached; simulator: its name; phrase: what a prompt may say of it."""

    degraded: torch.Tensor
    mu: float
    sigma: float
    simulator: str
    phrase: str


def simulate(clean: torch.Tensor, degradation: str, mu: float, sigma: float, generator: torch.Generator) -> Simulated:
    """Degrade one image to about the wanted intensity.

    Args:
        clean: [3, H, W] in [0, 1].
        degradation: one of the six.
        mu, sigma: wanted; what the photograph does not permit is approached as far as it goes.
        generator: CPU generator that decides all that is random.
    """
    kind = get_degradation(degradation)
    simulators = SIMULATORS[kind.name]
    batch = clean.expand(_SHAPES, *clean.shape)
    best: tuple[float, Simulated] | None = None
    for _ in range(_ROUNDS):
        name = list(simulators)[int(torch.randint(len(simulators), (), generator=generator))]
        degraded = _reach(simulators[name](batch, generator), batch, mu)
        reached_mu, reached_sigma = (value.cpu() for value in intensity(batch, degraded))
        miss = (reached_mu - mu).abs() + (reached_sigma - sigma).abs()
        i = int(miss.argmin())
        if best is None or miss[i] < best[0]:
            phrase = kind.phrase
            if name in MIXED and torch.rand((), generator=generator) < 0.5:
                phrase = kind.mixed_phrases[0][1]
            if kind.variants:
                phrase = blur_phrase(clean, degraded[i])
            best = float(miss[i]), Simulated(degraded[i], float(reached_mu[i]), float(reached_sigma[i]), name, phrase)
        if best[0] < _NEAR_ENOUGH:
            break
    return best[1]


def blur_phrase(clean: torch.Tensor, blurred: torch.Tensor) -> str:
    """What a prompt may say of a motion blur: its direction, if it has one. Images [3, H, W]."""
    kind, angle = get_degradation("motion_blur"), motion_blur.direction(clean, blurred)
    return kind.phrase if angle is None else kind.variants[round(angle / 180 * len(kind.variants)) % len(kind.variants)]


def _reach(render: Callable[[torch.Tensor], torch.Tensor], clean: torch.Tensor, mu: float) -> torch.Tensor:
    """The renderings of `clean` [B, 3, H, W] whose mean degradation comes nearest mu."""
    low, high = torch.zeros(len(clean)), torch.ones(len(clean))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        too_strong = intensity(clean, render(middle))[0].cpu() > mu
        low, high = torch.where(too_strong, low, middle), torch.where(too_strong, middle, high)
    return render((low + high) / 2)
