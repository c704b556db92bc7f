"""How does falling rain look? Thin far streaks, long near ones, and the veil that heavy rain merges into.

A drop of 1 to 3 mm falls several centimetres during an exposure and leaves a straight streak, brighter than most
backgrounds because a drop gathers light from the whole sky (Garg and Nayar, "Vision and Rain", IJCV 75, 2007). Near
drops leave long, wide, soft streaks, far ones short, thin and dense ones; the farthest merge into a veil (Li, Cheong
and Tan, "Heavy Rain Image Restoration", CVPR 2019). Lengths are pixels of a photograph whose short side is 256.
"""

from __future__ import annotations

import math

import torch

from training.simulators.fields import fractal_noise, log_uniform, uniform
from training.simulators.particles import Render, compose, particle_layers, staggered

_LAYERS = 8
_VEIL_START = 0.2  # strength at which the veil begins: the first streaks come before it


def thin_streaks(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Many thin streaks at middle and far distance. clean [B, 3, H, W] in [0, 1]; see the package for the contract."""
    return _rain(clean, generator, length=(9.0, 34.0), radius=(0.55, 0.85), blur=(1.0, 1.3), coverage=(0.7, 12.0))


def heavy_streaks(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Near streaks: fewer, longer, wider, half transparent, with thin ones behind. Arguments as above."""
    return _rain(clean, generator, length=(28.0, 90.0), radius=(0.8, 1.9), blur=(1.3, 2.6), coverage=(0.7, 6.0))


def veiled_rain(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Downpour: streaks in front of the bright veil of the rain behind them. Arguments as above."""
    return _rain(
        clean, generator, length=(16.0, 70.0), radius=(0.6, 1.5), blur=(1.0, 2.2), coverage=(0.4, 4.0), veil=(0.3, 1.2)
    )


def _rain(
    clean: torch.Tensor,
    generator: torch.Generator,
    length: tuple[float, float],
    radius: tuple[float, float],
    blur: tuple[float, float],
    coverage: tuple[float, float],
    veil: tuple[float, float] = (0.0, 0.1),
) -> Render:
    """Rain of one kind; every range is that of the nearest layer, lengths in pixels, `veil` an optical depth."""
    batch, _, height, width = clean.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return uniform(batch, low, high, generator)[:, None]

    far = torch.linspace(0, 1, _LAYERS)  # 0 at the nearest layer, 1 at the farthest
    wind = math.radians(14) * torch.randn(batch, 1, generator=generator).clamp(-2.5, 2.5)
    turn = math.radians(2) * torch.randn(batch, _LAYERS, generator=generator)
    vary = draw(0.5, 1.0) ** far * (0.8 + 0.4 * torch.rand(batch, _LAYERS, generator=generator))
    near = draw(0, 1)  # near streaks are long, wide and out of focus at once
    length, radius, blur = (low * (high / low) ** near for low, high in (length, radius, blur))
    # Density rises geometrically with distance; where the rain is dense, each streak is fainter.
    share = torch.softmax(far * draw(0.5, 6.0), dim=1)
    total = log_uniform(batch, *coverage, generator)[:, None]
    opacity = (log_uniform(batch, 2.5, 5.0, generator)[:, None] / total).clamp(max=3.5)
    streaks = particle_layers(
        height,
        width,
        coverage=total * share,
        radius=(radius * vary**0.5).clamp(min=0.55),
        length=length * vary,
        angle=wind + turn,
        blur=(blur * vary**0.5).clamp(min=1.0),
        taper=0.8,
        generator=generator,
    )
    # Rain veils the distance, which mostly lies higher in the picture.
    mist = 1 + 0.25 * fractal_noise(batch, height, width, generator, octaves=2, stretch=1.5)
    mist = (mist * torch.linspace(1.3, 0.7, height)[:, None]).clamp(min=0.1)
    veil = draw(*veil)

    sky = draw(0.8, 1.0)[..., None, None] + torch.tensor([-0.02, 0.0, 0.02])[:, None, None]
    airlight = sky * draw(0.7, 0.95)[..., None, None]
    sky, airlight = sky.clamp(max=1).to(clean), airlight.clamp(max=1).to(clean)
    depth = torch.cat((opacity * (1 - 0.4 * far), veil), dim=1)
    front = (depth[:, :-1, None, None] * streaks).sum(1, keepdim=True)
    behind = veil[..., None, None] * mist
    colour = airlight + (sky - airlight) * (front / (front + behind + 1e-6)).to(clean)
    start, span = staggered(draw(0.0, 0.8)[:, 0], _LAYERS)
    return compose(
        clean,
        torch.cat((mist, streaks), dim=1),
        torch.cat((depth[:, -1:], depth[:, :-1]), dim=1),
        torch.cat((torch.full((batch, 1), _VEIL_START), start), dim=1),
        torch.cat((torch.full((batch, 1), 1 - _VEIL_START), span), dim=1),
        colour,
        additive=draw(0.0, 0.8)[:, 0],
    )


SIMULATORS = {"thin_streaks": thin_streaks, "heavy_streaks": heavy_streaks, "veiled_rain": veiled_rain}
MIXED = {"veiled_rain"}  # these lay a haze over the scene as well
