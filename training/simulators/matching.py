"""Simulating a degradation of a wanted intensity.

Simulators have many random shapes (how dense, how opaque, how patchy) and one strength. For several shapes the
strength that reaches the wanted mu is found by false position, and the shape whose sigma comes nearest is kept: pairs
then follow the intensities of real data sets (GenDeg, arXiv 2411.17687, Section 3.2), not the simulator's habits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
_TRIALS = 4  # of strengths
_SHAPES = 3  # drawn at a time, of one simulator
_ROUNDS = 3  # of drawing, until one shape is
_NEAR_ENOUGH = 0.012  # |mu missed| + |sigma missed|


@dataclass(frozen=True)
class Simulated:
    """degraded: [3, H, W] in [0, 1]; mu, sigma: reached; simulator: its name; phrase: what a prompt may say of it."""

    degraded: torch.Tensor
    mu: float
    sigma: float
    simulator: str
    phrase: str


def simulate(
    clean: torch.Tensor,
    degradation: str,
    mu: float,
    sigma: float,
    generator: torch.Generator,
    simulator: str | None = None,
) -> Simulated:
    """Degrade one image to about the wanted intensity.

    Args:
        clean: [3, H, W] in [0, 1].
        degradation: one of the six.
        mu, sigma: wanted; what the photograph does not permit is approached as far as it goes.
        generator: decides all that is random; lies on the image's device.
        simulator: the only one that may, by its name in SIMULATORS; None: any of the degradation's.
    """
    wanted = torch.tensor([mu]), torch.tensor([sigma])
    return simulate_batch(clean[None], degradation, *wanted, generator, simulator)[0]


def simulate_batch(
    clean: torch.Tensor,
    degradation: str,
    mu: torch.Tensor,
    sigma: torch.Tensor,
    generator: torch.Generator,
    simulator: str | None = None,
) -> list[Simulated]:
    """Degrade images [N, 3, H, W] of one size to about the wanted intensities [N]; else as `simulate`."""
    kind = get_degradation(degradation)
    simulators = SIMULATORS[kind.name]
    if simulator:
        simulators = {simulator: simulators[simulator]}
    wanted = torch.stack([mu, sigma]).to(clean)
    best: list[Simulated | None] = [None] * len(clean)
    miss = torch.full((len(clean),), torch.inf, device=clean.device)
    with generator.device:  # what simulators make of their random numbers lies where these do
        for _ in range(_ROUNDS):
            todo = (miss >= _NEAR_ENOUGH).nonzero()[:, 0]
            if not len(todo):
                break
            name = list(simulators)[int(torch.randint(len(simulators), (), generator=generator))]
            shapes = todo.repeat_interleave(_SHAPES)
            degraded = _reach(simulators[name](clean[shapes], generator), clean[shapes], wanted[0, shapes])
            reached = torch.stack(intensity(clean[shapes], degraded))
            off, nearest = (reached - wanted[:, shapes]).abs().sum(0).view(-1, _SHAPES).min(1)
            nearest += _SHAPES * torch.arange(len(todo))
            hazy = (torch.rand(len(todo), generator=generator) < 0.5).tolist() if name in MIXED else [False] * len(todo)
            improved = off < miss[todo]
            miss[todo] = torch.minimum(off, miss[todo])
            reached = reached[:, nearest].T.tolist()
            for k in improved.nonzero()[:, 0].tolist():
                phrase = kind.mixed_phrases[0][1] if hazy[k] else kind.phrase
                best[int(todo[k])] = Simulated(degraded[nearest[k]], *reached[k], name, phrase)
    if kind.variants:
        told = phrases(kind.name, clean, torch.stack([pair.degraded for pair in best]))
        best = [replace(pair, phrase=phrase) for pair, phrase in zip(best, told, strict=True)]
    return best


def phrases(degradation: str, clean: torch.Tensor, degraded: torch.Tensor) -> list[str]:
    """What prompts may say of pairs [B, 3, H, W]: the degradation; of a motion blur its direction, if it has one."""
    kind = get_degradation(degradation)
    if not kind.variants:
        return [kind.phrase] * len(clean)
    angles, count = motion_blur.directions(clean, degraded), len(kind.variants)
    return [kind.phrase if a is None else kind.variants[round(a / 180 * count) % count] for a in angles]


def _reach(render: Callable[[torch.Tensor], torch.Tensor], clean: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Renderings of `clean` [B, 3, H, W] whose mean degradations come near mu [B], by false position (Illinois)."""
    low, high = torch.zeros_like(mu), torch.ones_like(mu)
    degraded = render(high)
    below, above = -mu, intensity(clean, degraded)[0] - mu
    possible = above > 0
    for _ in range(_TRIALS):
        strength = torch.where(possible, low + (high - low) * (below / (below - above)).clamp(0.02, 0.98), 1.0)
        degraded = render(strength)
        off = intensity(clean, degraded)[0] - mu
        over = off > 0
        # The side that stays counts half the next time, or it might stay for ever.
        low, below = torch.where(over, low, strength), torch.where(over, below / 2, off)
        high, above = torch.where(over, strength, high), torch.where(over, off, above / 2)
    return degraded
