"""How are thousands of falling particles (rain, snow) drawn before a photograph, and what do they do to it?

A slice of air holds the particles at one distance: random points convolved with what one particle leaves on the sensor
while it falls. Farther slices hold more and smaller ones, and show only where the scene lies behind them; beyond the
farthest, particles merge into a veil that thickens with distance. All of it adds up to an optical depth tau, and a
pixel keeps exp(-tau) of the scene (Beer-Lambert), the rest is the particles' own light. K. Garg, S. K. Nayar, "Vision
and Rain", IJCV 75 (2007): a drop adds light in proportion to the share of the exposure it covers a pixel. R. Li et
al., "Heavy Rain Image Restoration", CVPR 2019: streak layers plus a veil.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from training.simulators.depth import distance
from training.simulators.fields import column, fractal_noise, log_uniform, uniform

Render = Callable[[torch.Tensor], torch.Tensor]
Range = tuple[float, float]

_SLICES = 6
_PARTS = 3  # a particle is so many soft parts: streaks of uneven brightness, flakes of no regular shape
_VEIL = 8.0  # optical depth of the veil at full strength, where it is of middling thickness


def falling(
    clean: torch.Tensor,
    generator: torch.Generator,
    width: tuple[Range, Range],
    length: tuple[Range, Range],
    coverage: Range,
    opacity: Range,
    veil: Range,
    wind: float,
    turn: float,
    ragged: float,
) -> Render:
    """Particles in many slices of air, and their veil; lengths are pixels of a photograph whose short side is 256.

    Args:
        clean: [B, 3, H, W] in [0, 1].
        generator: see the package.
        width: deviation of a particle's profile across its fall, in pixels, in the nearest and in the farthest slice.
        length: way a particle falls during the exposure, the same.
        coverage: mean number of particles over a pixel where the scene is far.
        opacity: optical depth of a particle at full strength.
        veil: how much later than particles the veil comes in: power of strength beyond theirs.
        wind, turn: deviation of the direction of fall among photographs and among slices, in degrees.
        ragged: how far a particle's parts lie apart, in its widths.

    Returns:
        render(strength [B] in [0, 1]) -> [B, 3, H, W] in [0, 1].
    """
    batch, _, rows, columns = clean.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return log_uniform(batch, low, high, generator)[:, None]

    def vary(deviation: float, *shape: int) -> torch.Tensor:
        return deviation * torch.randn(batch, *shape, generator=generator)

    far = torch.linspace(0, 1, _SLICES)
    near_wide = uniform(batch, 0, 1, generator)[:, None]  # near particles are large, long and out of focus at once

    def shrinking(nearest: Range, farthest: Range) -> torch.Tensor:
        nearest = nearest[0] * (nearest[1] / nearest[0]) ** near_wide
        return nearest * (draw(*farthest) / nearest) ** far * vary(0.3, _SLICES).exp()

    width, length = shrinking(*width).clamp(min=0.42), shrinking(*length)
    angle = torch.deg2rad(vary(wind, 1).clamp(-2 * wind, 2 * wind) + vary(turn, _SLICES))
    share = torch.softmax(draw(0.5, 5.0) * far + vary(0.3, _SLICES), dim=1) * draw(*coverage)
    opacity = draw(*opacity) * (0.45 / width) ** 0.6 * vary(0.25, _SLICES).exp()
    soft = math.sqrt(2 * math.pi) * width
    area = soft * (length + soft)
    # Exponential brightness: most are faint, few bright. Gusts make clumps of them.
    gusts = fractal_noise(batch, rows, columns, generator, octaves=3)
    points = torch.rand(batch, _SLICES, rows, columns, generator=generator).neg_().log1p_().neg_()
    points += vary(0.5, 1).abs()[..., None, None] * gusts
    points += (share / area).log()[..., None, None]
    spectrum = torch.fft.rfft2(points.clamp_(min=0))
    spectrum *= _kernel(rows, columns, width, length, angle, ragged, generator)
    slices = torch.fft.irfft2(spectrum, s=(rows, columns)).clamp_(min=0)
    slices *= (opacity * area)[..., None, None]

    depth = distance(clean, generator)
    before = (depth / 0.15 - (5 * far[:, None, None] - 1).to(clean)).clamp_(0, 1)  # a slice lies before the scene
    particles = before.mul_(slices).sum(1, keepdim=True)
    floor = column(uniform(batch, 0.05, 0.6, generator), clean)
    thick = _VEIL * (floor + (1 - floor) * depth) * (1 + 0.25 * gusts).clamp(min=0.2).to(clean)
    later = uniform(batch, *veil, generator)

    # Particles take the light of the sky: before a bright sky they vanish. The veil is a little darker, and pale.
    grey = clean.mean(1, keepdim=True)
    sky = grey[..., ::8, ::8].flatten(1).quantile(0.9, dim=1)
    light = column(uniform(batch, 0.82, 1.0, generator), clean).lerp(column(sky, clean), 0.25)
    tint = torch.tensor([-0.015, 0.0, 0.015])[:, None, None].to(clean) * column(uniform(batch, 0, 2, generator), clean)
    air = light * column(uniform(batch, 0.87, 1.0, generator), clean) + tint
    air = torch.lerp(air, grey, column(uniform(batch, 0.0, 0.2, generator), clean))
    colour = torch.lerp(air, light + tint, particles / (particles + 0.15 * thick)).clamp(0, 1)

    # No sun shines on it: colours are dull.
    dull = column(uniform(batch, 0.1, 0.8, generator), clean) * (grey - clean)

    def render(strength: torch.Tensor) -> torch.Tensor:
        squared = column(strength**2, clean)
        tau = squared * (particles + column(strength ** later.to(strength), clean) * thick)
        return torch.lerp(clean - torch.expm1(-12 * squared) * dull, colour, -torch.expm1(-tau))

    return render


def _kernel(
    rows: int,
    columns: int,
    width: torch.Tensor,
    length: torch.Tensor,
    angle: torch.Tensor,
    ragged: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Fourier transforms [B, L, H, W // 2 + 1] of particles of unit sum, of soft parts of uneven brightness.

    Args:
        width, length, angle: [B, L], in pixels and in radians from the vertical.
        ragged, generator: see `falling`.
    """
    parts = (*width.shape, _PARTS)
    width, length, sine, cosine = (v[..., None, None] for v in (width, length, angle.sin(), angle.cos()))
    y, x = torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)
    along = y * cosine + x * sine
    profile = torch.exp(-2 * math.pi**2 * (width**2 * (y**2 + x**2) + (length / 6 * along).square_()))
    profile *= torch.sinc(along.mul_(0.6 * length))
    way = 0.35 * length[..., 0] * torch.randn(parts, generator=generator)
    down, right = ragged * width * torch.randn(2, *parts, 1, generator=generator)
    down, right = down + (way * cosine[..., 0])[..., None], right + (way * sine[..., 0])[..., None]
    bright = torch.randn(parts, generator=generator).softmax(-1)[..., None]
    kernel = torch.polar(bright.expand(*parts, rows), -2 * math.pi * down * y[:, 0]).transpose(-1, -2)
    kernel = kernel @ torch.polar(torch.ones(()), -2 * math.pi * right * x)
    torch.view_as_real(kernel).mul_(profile[..., None])
    return kernel
