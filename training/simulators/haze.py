"""What does haze look like? A veil of scattered light that thickens with distance, whole and smooth.

Koschmieder's law, I = J t + A (1 - t) with transmission t = exp(-tau): light from the scene J is lost along the way
and airlight A is added (Narasimhan and Nayar, "Vision and the Atmosphere", IJCV 2002). As in RESIDE (arXiv 1712.04143)
the law is applied to pixel values. The optical thickness tau follows the distance of every pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.simulators.depth import distance
from training.simulators.fields import column, log_uniform, uniform

Render = Callable[[torch.Tensor], torch.Tensor]

# Optical thickness of what is farthest at strength 1.
_THICKEST = 5.0


def homogeneous_haze(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Haze of the same density everywhere: thickness follows distance alone.

    Args:
        clean: [B, 3, H, W] in [0, 1].
        generator: see the package.

    Returns:
        render(strength [B] in [0, 1]) -> [B, 3, H, W] in [0, 1].
    """
    batch = clean.shape[0]
    far = distance(clean, generator)
    nearest = column(uniform(batch, 0.0, 0.8, generator) ** 2, clean)
    falloff = column(log_uniform(batch, 0.7, 2.5, generator), clean)
    thickness = nearest + (1 - nearest) * far**falloff
    airlight = _airlight(clean, generator)

    def render(strength: torch.Tensor) -> torch.Tensor:
        # A power, because thin haze is asked for more often than thick haze.
        loss = -torch.expm1(-_THICKEST * column(strength, clean) ** 1.5 * thickness)
        return torch.lerp(clean, airlight, loss)

    return render


def _airlight(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Colour of the veil [B, 3, 1, 1]: grey between .65 and 1, a little blue or warm."""
    batch = clean.shape[0]
    grey = 1 - uniform(batch, 0.0, 0.5, generator) ** 1.5
    warmth = 0.03 * torch.randn(batch, generator=generator)
    green = 0.01 * torch.randn(batch, generator=generator)
    tint = torch.stack([warmth, green, -warmth], dim=1)
    return (grey[:, None] * (1 + tint)).clamp(0, 1)[:, :, None, None].to(clean)


SIMULATORS = {"homogeneous_haze": homogeneous_haze}
