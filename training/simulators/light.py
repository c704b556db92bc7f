"""How do pixel values relate to light? The sRGB transfer curve (IEC 61966-2-1).

Exposure, shot noise and motion blur act on light, which is what a sensor adds up, not on the values of an image file.
"""

from __future__ import annotations

import torch


def to_linear(image: torch.Tensor) -> torch.Tensor:
    """Pixel values in [0, 1] to relative light in [0, 1]; any shape."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def to_display(light: torch.Tensor) -> torch.Tensor:
    """Relative light to pixel values in [0, 1], the inverse of `to_linear`; light outside [0, 1] is clipped."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
