"""What does haze look like? A veil of scattered light that thickens with distance, or drifts in banks.

Koschmieder's law, I = J t + A (1 - t) with transmission t = exp(-tau): light from the scene J is lost along the way
and airlight A is added (Narasimhan and Nayar, "Vision and the Atmosphere", IJCV 2002). As in RESIDE (arXiv 1712.04143)
the law is applied to pixel values. The optical thickness tau needs a distance for every pixel; it is made of a ground
plane, layered silhouettes and the colour attenuation prior, and is then fitted to the edges of the photograph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.simulators.depth import distance
from training.simulators.fields import column, fractal_noise, log_uniform, standardised, uniform

Render = Callable[[torch.Tensor], torch.Tensor]

# Share of the light that strength 1 takes away where the haze is of middling thickness.
_MAX_LOSS = 0.985


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
    nearest = column(uniform(batch, 0.0, 0.7, generator) ** 2, clean)
    falloff = column(log_uniform(batch, 0.8, 5.0, generator), clean)
    return _veil(clean, nearest + (1 - nearest) * far**falloff, _airlight(clean, generator))


def patchy_haze(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Haze in banks, as of ground fog or smoke: fractal density times distance.

    Args and returns: as `homogeneous_haze`.
    """
    batch, _, height, width = clean.shape
    scale = log_uniform(batch, 48, 256, generator)
    noise = fractal_noise(
        batch,
        height,
        width,
        generator,
        scale=scale,
        octaves=5,
        persistence=uniform(batch, 0.4, 0.6, generator),
        stretch=log_uniform(batch, 1.0, 3.0, generator),
    ).to(clean)
    noise = standardised(noise)
    coverage = column(uniform(batch, -1.0, 1.2, generator), clean)
    softness = column(log_uniform(batch, 0.25, 1.0, generator), clean)
    everywhere = column(uniform(batch, 0.02, 0.25, generator), clean)
    nearest = column(uniform(batch, 0.2, 1.0, generator), clean)
    density = everywhere + (1 - everywhere) * torch.sigmoid((noise - coverage) / softness)
    far = nearest + (1 - nearest) * distance(clean, generator)
    return _veil(clean, density * far, _airlight(clean, generator))


def _veil(clean: torch.Tensor, thickness: torch.Tensor, airlight: torch.Tensor) -> Render:
    """Koschmieder's law for a relative optical thickness [B, 1, H, W] and an airlight [B, 3, 1, 1]."""
    # Half-way between mean and peak: thin banks stay translucent, and every draw can become thick.
    middling = (thickness.mean((2, 3), keepdim=True) + thickness.amax((2, 3), keepdim=True)) / 2
    thickness = thickness / middling.clamp(min=1e-3)

    def render(strength: torch.Tensor) -> torch.Tensor:
        scattering = -torch.log1p(-_MAX_LOSS * column(strength, clean))
        loss = -torch.expm1(-scattering * thickness)
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


SIMULATORS = {"homogeneous_haze": homogeneous_haze, "patchy_haze": patchy_haze}
