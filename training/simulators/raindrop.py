"""How does a photograph through wet glass look? Drops out of focus, with a blurred view of the scene, upside down.

A drop on glass is a strongly curved lens: it shows a wide part of the scene, inverted and minified, with the sky at
its lower side. The camera is focused on the scene, so the drop is a soft blob of that light, the softer the nearer the
glass (Roser, Kurz and Geiger, "Realistic Modeling of Water Droplets for Monocular Adherent Raindrop Recognition", ACCV
workshops 2010; You et al., "Adherent Raindrop Modeling, Detection and Removal in Video", TPAMI 2016; Qian et al.,
"Attentive GAN for Raindrop Removal from A Single Image", CVPR 2018). Lengths are pixels of a photograph whose short
side is 256.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from training.simulators.fields import column, fractal_noise, log_uniform, uniform
from training.simulators.particles import Render

_SIZES = 10  # of drops on one pane
_SMALLEST = 3.0  # radius


class _Water(NamedTuple):
    """What covers the glass, all [B, 1, H, W]."""

    height: torch.Tensor  # above the glass, in pixels; near an outline the distance from it
    x: torch.Tensor  # offset from the drop's centre in radii, to the right
    y: torch.Tensor  # and downwards
    appearance: torch.Tensor  # when the drop appears as strength grows, 0 to 1


def window_drops(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Drops on a window some way before the camera. clean [B, 3, H, W] in [0, 1]; contract: the package."""
    return _wet_glass(clean, generator, largest=(12.0, 26.0), fade=(1.8, 4.0), film=(0.0, 0.2))


def windscreen_drops(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Drops on a pane just before the camera, far out of focus. Arguments as above."""
    return _wet_glass(clean, generator, largest=(13.0, 28.0), fade=(2.8, 5.5), film=(0.0, 0.3))


def misted_drops(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Drops on glass that is wet all over: a film of fine droplets scatters light between them. Arguments as above."""
    return _wet_glass(clean, generator, largest=(9.0, 24.0), fade=(1.8, 5.0), film=(0.2, 0.8))


def _wet_glass(
    clean: torch.Tensor,
    generator: torch.Generator,
    largest: tuple[float, float],
    fade: tuple[float, float],
    film: tuple[float, float],
) -> Render:
    """Drops of one kind: ranges of the largest radius, the width of outlines, and the mist's opacity at strength 1."""
    batch, _, height, width = clean.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return column(uniform(batch, low, high, generator), clean)

    # What is out of focus needs no more than half the resolution.
    rows, columns = math.ceil(height / 2), math.ceil(width / 2)
    water = _Water(*(v.to(clean) for v in _scatter(batch, rows, columns, largest, generator)))
    alpha = (water.height / column(log_uniform(batch, *fade, generator), clean)).clamp(0, 1)
    alpha = draw(0.85, 1.0) * alpha * alpha * (3 - 2 * alpha)

    # The farther from the drop's centre, the farther on the other side of the scene a ray comes from.
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    grid = draw(0.3, 0.8) * torch.stack((x, y)).to(clean) - draw(0.4, 0.8) * torch.cat((water.x, water.y), dim=1)
    scene = F.adaptive_avg_pool2d(clean, (math.ceil(height / 16), math.ceil(width / 16)))
    content = F.grid_sample(scene, grid.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)
    # Its view is wider than the photograph: sky comes in at the bottom, dark ground at the top.
    turn = draw(-0.5, 0.5)
    lit = water.x * turn.sin() + water.y * turn.cos()
    colour = clean.mean((2, 3), keepdim=True)
    brightness = colour.mean(1, keepdim=True)
    colour = 1 + 0.5 * (colour / brightness.clamp(min=0.1) - 1)
    horizon = (draw(-0.9, 0.6) + 2 * (brightness - 0.45)).clamp(-0.6, 0.4)
    content = content * (1 - draw(0.1, 0.7) * torch.sigmoid(-4 * (lit - horizon)))
    sky = torch.sigmoid(draw(2.0, 4.5) * (lit - horizon)) * draw(0.5, 1.0)
    content = content + sky * (draw(0.75, 1.0) * colour - content).clamp(min=0)

    def enlarge(image: torch.Tensor) -> torch.Tensor:
        return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)

    change = enlarge(alpha * content)
    alpha = enlarge(alpha)
    span = column(log_uniform(batch, 0.05, 0.2, generator), clean)
    appearance = enlarge(water.appearance) * (1 - span)

    patches = fractal_noise(batch, height, width, generator, scale=80.0, octaves=5, persistence=0.7).to(clean)
    mist = draw(*film) * (0.7 + 0.3 * patches).clamp(0, 1.4)
    blurred = enlarge(F.avg_pool2d(F.avg_pool2d(clean, 2, ceil_mode=True), 3, 1, 1, count_include_pad=False))
    scattered = mist * (0.7 * blurred + 0.3 * draw(0.4, 0.9) * colour - clean)

    def render(strength: torch.Tensor) -> torch.Tensor:
        strength = column(strength, clean)
        shown = ((strength - appearance) / span).clamp(0, 1)
        degraded = torch.addcmul(clean, 1 - (1 - strength) ** 3, scattered)  # mist comes before drops
        return (degraded + shown * (change - alpha * degraded)).clamp_(0, 1)

    return render


def _scatter(
    batch: int, rows: int, columns: int, largest: tuple[float, float], generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """Throw drops at random, in clumps, on pixels twice as large; neighbours merge. The fields of `_Water`."""

    def random(low: float, high: float, size: int = _SIZES) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, size, 1, 1, generator=generator)

    rank = (torch.arange(_SIZES)[:, None, None] + random(0, 1)) / _SIZES
    radius = _SMALLEST * (log_uniform(batch, *largest, generator)[:, None, None, None] / _SMALLEST) ** (1 - rank)
    tall = torch.where(random(0, 1) < 0.07, random(2, 4), random(1, 1.35))  # a few run down
    # The image of each size, on a grid that wraps around: a cap whose slope is 1 at the outline.
    y = 2 * ((torch.arange(rows) + rows // 2) % rows - rows // 2)[:, None]
    x = 2 * ((torch.arange(columns) + columns // 2) % columns - columns // 2)
    y = torch.where(y < 0, y / tall, y) / radius
    x = x / radius + random(-0.12, 0.12) * y
    cap = radius / 2 * (1 - x * x - y * y).clamp(min=0)
    shapes = torch.fft.rfft2(torch.stack((cap, cap * x, cap * y)))

    # Neighbours come in together.
    moment = torch.special.ndtr(fractal_noise(batch, rows, columns, generator, 32.0, octaves=3, persistence=1.0))
    share = random(2, 3.5, 1) * torch.softmax(rank * random(-1, 2, 1), dim=1)
    chance = share * 4 / (math.pi * radius**2 * (1 + tall) / 2)
    points = (torch.rand(batch, _SIZES, rows, columns, generator=generator) < chance).float()
    # A drop swallows smaller ones near it.
    reach = torch.fft.rfft2((1.4 - x * x - y * y).clamp(min=0))
    covers = torch.fft.irfft2(reach * torch.fft.rfft2(points), s=(rows, columns))
    points = points * (covers.cumsum(1) - covers < 0.1)
    thrown, timed = torch.fft.rfft2(torch.stack((points, points * moment)))
    sums = torch.stack((*(shapes * thrown).sum(2), (shapes[0] * timed).sum(1)), dim=1)
    water = torch.fft.irfft2(sums, s=(rows, columns))
    # Water clings to dirt: outlines are uneven.
    uneven = fractal_noise(2 * batch, rows, columns, generator, scale=16.0, octaves=3).view(batch, 2, rows, columns)
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    where = torch.stack((x, y)) + uneven * torch.tensor([1.7 / columns, 1.7 / rows])[:, None, None]
    water = F.grid_sample(water, where.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=True)
    height, x, y, moment = water.split(1, dim=1)
    deep = height.clamp(min=1e-2)
    return height.clamp(min=0), (x / deep).clamp(-1, 1), (y / deep).clamp(-1, 1), (moment / deep).clamp(0, 1)


SIMULATORS = {"window_drops": window_drops, "windscreen_drops": windscreen_drops, "misted_drops": misted_drops}
