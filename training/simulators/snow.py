"""How does falling snow look? Bright flakes of many sizes, sharp or out of focus, and the whiteness they merge into.

A flake is an opaque diffuse scatterer: near white whatever lies behind it. It falls slowly, so it is only slightly
drawn out, and its apparent size falls with distance while its number rises; near flakes are out of focus and turn
into large soft discs. Dense snow veils the distance (Chen et al., "JSTASR: Joint Size and Transparency-Aware Snow
Removal", ECCV 2020; Chen et al., "All Snow Removed", ICCV 2021). Lengths are pixels of a photograph whose short side
is 256.
"""

from __future__ import annotations

import math

import torch

from training.simulators.fields import fractal_noise, log_uniform, uniform
from training.simulators.particles import Render, compose, particle_layers, staggered

_LAYERS = 8
_VEIL_START = 0.2  # strength at which the veil begins: the first flakes come before it


def fine_snow(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Small flakes in several depths. clean [B, 3, H, W] in [0, 1]; see the package for the contract."""
    return _snow(clean, generator, largest=(2.0, 4.2), smallest=1.1, defocus=(0.1, 0.4), fall=(0.0, 1.6))


def large_flakes(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Large soft flakes near the camera, drawn out by their motion, before smaller ones. Arguments as above."""
    return _snow(clean, generator, largest=(3.5, 7.5), smallest=1.2, defocus=(0.15, 0.6), fall=(0.2, 1.8))


def veiled_snow(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Snowfall so dense that the distance turns white behind the flakes. Arguments as above."""
    return _snow(
        clean, generator, largest=(2.2, 6.0), smallest=1.1, defocus=(0.1, 0.5), fall=(0.0, 1.8), veil=(0.2, 0.9)
    )


def _snow(
    clean: torch.Tensor,
    generator: torch.Generator,
    largest: tuple[float, float],
    smallest: float,
    defocus: tuple[float, float],
    fall: tuple[float, float],
    veil: tuple[float, float] = (0.0, 0.08),
) -> Render:
    """Snow of one kind. Radii in pixels; `defocus` and `fall` (way during exposure) in radii; `veil`: optical depth."""
    batch, _, height, width = clean.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return uniform(batch, low, high, generator)[:, None]

    far = torch.linspace(0, 1, _LAYERS)  # 0 at the nearest layer, 1 at the farthest
    radius = log_uniform(batch, *largest, generator)[:, None]
    radius = radius * (smallest / radius) ** far * (0.85 + 0.3 * torch.rand(batch, _LAYERS, generator=generator))
    wind = math.radians(18) * torch.randn(batch, 1, generator=generator).clamp(-2.5, 2.5)
    turn = math.radians(12) * torch.randn(batch, _LAYERS, generator=generator)
    share = torch.softmax(far * draw(0.5, 6.0), dim=1)
    total = log_uniform(batch, 0.5, 4.0, generator)[:, None]
    opacity = (log_uniform(batch, 1.8, 4.0, generator)[:, None] / total).clamp(0.6, 3.0)
    flakes = particle_layers(
        height,
        width,
        coverage=total * share,
        radius=radius,
        length=radius * draw(*fall) * (0.5 + torch.rand(batch, _LAYERS, generator=generator)),
        angle=wind + turn,
        blur=(radius * draw(*defocus) * 2).clamp(min=1.0),
        taper=0.3,
        generator=generator,
    )
    white = 1 + 0.25 * fractal_noise(batch, height, width, generator, octaves=2, stretch=1.5)
    white = (white * torch.linspace(1.3, 0.7, height)[:, None]).clamp(min=0.1)
    tint = torch.tensor([-0.015, 0.0, 0.015])[:, None, None]
    colour = (draw(0.88, 1.0)[..., None, None] + tint).clamp(max=1).to(clean)
    start, span = staggered(draw(0.2, 0.85)[:, 0], _LAYERS)
    return compose(
        clean,
        torch.cat((white, flakes), dim=1),
        torch.cat((draw(*veil), opacity.expand(-1, _LAYERS)), dim=1),
        torch.cat((torch.full((batch, 1), _VEIL_START), start), dim=1),
        torch.cat((torch.full((batch, 1), 1 - _VEIL_START), span), dim=1),
        colour,
    )


SIMULATORS = {"fine_snow": fine_snow, "large_flakes": large_flakes, "veiled_snow": veiled_snow}
MIXED = {"veiled_snow"}  # these lay a haze over the scene as well
