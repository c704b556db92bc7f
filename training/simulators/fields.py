"""Where do the simulators' random numbers and random fields come from?

Lengths are pixels of a photograph whose short side is 256.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

# Integral of the squared cubic B-spline: the variance that interpolating white noise with it leaves, per axis.
_SPLINE_VARIANCE = 151.0 / 315.0


def uniform(batch: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """[B], uniform between low and high."""
    return low + (high - low) * torch.rand(batch, generator=generator)


def log_uniform(batch: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """[B], uniform in the logarithm between low and high (both above 0)."""
    return uniform(batch, math.log(low), math.log(high), generator).exp()


def column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B] -> [B, 1, 1, 1] on the device of `like`."""
    return values.to(like)[:, None, None, None]


def fractal_noise(
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    scale: float | torch.Tensor = 96.0,
    octaves: int = 4,
    persistence: float | torch.Tensor = 0.5,
) -> torch.Tensor:
    """Smooth noise with detail at several scales (fractional Brownian motion), as of smoke, clouds or terrain.

    Each octave is white noise on a lattice, interpolated by cubic B-splines with a random phase; the next one has
    half the lattice spacing and `persistence` times the amplitude (Perlin, "An image synthesizer", SIGGRAPH 1985).

    Args:
        scale: lattice spacing of the coarsest octave in pixels, one number or [B].
        octaves: how many scales; the finest spacing is scale / 2**(octaves - 1).
        persistence: amplitude ratio of successive octaves, one number or [B].

    Returns:
        [B, 1, H, W], about normal with mean 0 and variance 1 over draws (not over one image).
    """
    scale, persistence = (torch.as_tensor(v, dtype=torch.float32).expand(batch) for v in (scale, persistence))
    total = torch.zeros(batch, height, width)
    power = torch.zeros(batch)
    for octave in range(octaves):
        spacing = scale / 2**octave
        rows, columns = (_spline_weights(length, spacing, generator) for length in (height, width))
        lattice = torch.randn(batch, rows.shape[2], columns.shape[2], generator=generator)
        amplitude = persistence**octave
        total += amplitude[:, None, None] * (rows @ lattice @ columns.transpose(1, 2))
        power += amplitude**2
    return (total / (power.sqrt() * _SPLINE_VARIANCE)[:, None, None])[:, None]


def follow_edges(field: torch.Tensor, clean: torch.Tensor, radius: int = 6) -> torch.Tensor:
    """Smooth a field [B, 1, H, W] but let it jump where the photograph does: fast guided filter (arXiv 1505.00996)."""
    guide = clean.mean(1, keepdim=True)
    small_guide, small_field = (F.avg_pool2d(x, 4, ceil_mode=True) for x in (guide, field))

    def box(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    mean_guide, mean_field = box(small_guide), box(small_field)
    slope = (box(small_guide * small_field) - mean_guide * mean_field) / (box(small_guide**2) - mean_guide**2 + 2e-3)
    offset = mean_field - slope * mean_guide
    size = guide.shape[-2:]
    slope, offset = (F.interpolate(box(x), size=size, mode="bilinear", align_corners=False) for x in (slope, offset))
    return slope * guide + offset


def _spline_weights(length: int, spacing: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cubic B-spline weights [B, length, knots] of the knots at each pixel, for a lattice of the given spacing [B]."""
    phase = torch.rand(spacing.shape[0], generator=generator)
    knots = math.ceil(length / float(spacing.min())) + 4
    position = torch.arange(length)[None, :] / spacing[:, None] + phase[:, None] + 1
    distance = (position[:, :, None] - torch.arange(knots)).abs()
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, inner, outer)
