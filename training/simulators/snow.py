"""How does falling snow look? Flakes of many sizes, small far away, large and soft near, and the whiteness behind them.

A flake scatters light in all directions: near white whatever lies behind it. It falls slowly, so it is only slightly
drawn out; near flakes are out of focus and half transparent. Dense snow veils the distance (Chen et al., "JSTASR: Joint
Size and Transparency-Aware Snow Removal", ECCV 2020; Chen et al., "All Snow Removed", ICCV 2021). Lengths are pixels of
a photograph whose short side is 256.
"""

from __future__ import annotations

import torch

from training.simulators.particles import Render, falling

_FALL = {"wind": 20.0, "turn": 12.0, "ragged": 0.8}


def fine_snow(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Small flakes in several depths. clean [B, 3, H, W] in [0, 1]; see the package for the contract."""
    width, length = ((0.8, 1.8), (0.42, 0.6)), ((1.0, 8.0), (0.3, 2.0))
    return falling(clean, generator, width, length, coverage=(0.03, 1.0), opacity=(1.0, 6.0), veil=(2.0, 6.0), **_FALL)


def large_flakes(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Large soft flakes near the camera before smaller ones. Arguments as above."""
    width, length = ((1.5, 4.5), (0.45, 0.8)), ((2.0, 10.0), (0.4, 2.0))
    return falling(clean, generator, width, length, coverage=(0.03, 1.0), opacity=(1.5, 12.0), veil=(2.0, 6.0), **_FALL)


def veiled_snow(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Snowfall so dense that the distance turns white behind the flakes. Arguments as above."""
    width, length = ((0.9, 3.0), (0.42, 0.7)), ((1.0, 9.0), (0.3, 2.0))
    return falling(clean, generator, width, length, coverage=(0.05, 1.0), opacity=(0.8, 6.0), veil=(0.0, 1.5), **_FALL)


SIMULATORS = {"fine_snow": fine_snow, "large_flakes": large_flakes, "veiled_snow": veiled_snow}
MIXED = {"veiled_snow"}  # these lay a haze over the scene as well
