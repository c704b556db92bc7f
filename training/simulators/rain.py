"""How does falling rain look? Streaks, faint and fine far away, wide and soft near, and the veil they merge into.

A drop of 1 to 3 mm falls several centimetres during an exposure and leaves a streak of the sky's light, which it
gathers from all around (Garg and Nayar, "Vision and Rain", IJCV 75, 2007). Lengths are pixels of a photograph whose
short side is 256.
"""

from __future__ import annotations

import torch

from training.simulators.particles import Render, falling

_FALL = {"wind": 10.0, "turn": 2.5, "ragged": 0.0}


def thin_streaks(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Many fine streaks at middle and far distance. clean [B, 3, H, W] in [0, 1]; see the package for the contract."""
    width, length = ((0.5, 0.8), (0.4, 0.5)), ((9.0, 32.0), (3.0, 8.0))
    return falling(clean, generator, width, length, coverage=(0.1, 4.0), opacity=(0.5, 3.0), veil=(2.0, 6.0), **_FALL)


def heavy_streaks(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Near streaks too: fewer, longer, wider, half transparent, before fine ones. Arguments as above."""
    width, length = ((0.8, 2.2), (0.42, 0.6)), ((20.0, 60.0), (4.0, 10.0))
    return falling(clean, generator, width, length, coverage=(0.06, 2.0), opacity=(0.8, 4.0), veil=(2.0, 6.0), **_FALL)


def veiled_rain(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Downpour: streaks in front of the bright veil of the rain behind them. Arguments as above."""
    width, length = ((0.5, 1.6), (0.4, 0.5)), ((10.0, 45.0), (3.5, 9.0))
    return falling(clean, generator, width, length, coverage=(0.3, 4.0), opacity=(0.4, 2.5), veil=(0.0, 1.5), **_FALL)


SIMULATORS = {"thin_streaks": thin_streaks, "heavy_streaks": heavy_streaks, "veiled_rain": veiled_rain}
MIXED = {"veiled_rain"}  # these lay a haze over the scene as well
