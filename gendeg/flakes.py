"""Which flakes is generated snow made of? And the same snow, drawn flake by flake.

A small generator puts snow where it should be, and as much as it should, but its flakes have no shape. So the snow's
optical depth is taken apart into a smooth veil and round flakes of a few sizes, one for each place, and drawn anew in
flakes of several lumps.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.nn import functional as F

from gendeg.borders import around, convolved, mean_around

_RADII = (2.3, 3.0, 4.3, 6.0, 8.5)  # pixels, to where a flake fades out
_TALL = 1.25  # height of a flake in relation to its width: it falls during the exposure
_HALF = 17  # of the window in which a flake is drawn, in pixels
_DOME, _CRISP = 1.0, 0.7  # exponent of a flake's profile, as it is looked for, and as it is drawn
_VEIL = 4, 12  # pixels: no veil is denser than its thinnest place so near; and how smooth it is
_SHRINK = 0.85  # exponent by which a flake is drawn smaller if it is thinner than is typical, and larger if thicker
_DRAWN = tuple(1.3 * 1.25**i for i in range(10))  # the radii that come of it, in pixels
_ASTRAY = 4.0  # pixels by which flakes of a kind lie beside where they were found: else their distances are all alike
_KINDS, _LUMPS, _THICK = 8, 3, 1.5  # of flakes as they are drawn: each is of so many lumps, of that optical depth
_FINE = 4  # steps in a pixel: the smallest flakes are about as large
_SOFT = 12.0  # pixels of radius, by which flakes are out of focus: their profile's exponent is one more
_ROUNDS, _ROUNDS_AGAIN = 20, 15  # of the fit, with flakes everywhere, and with those that are left
_GATHERS = 0.7  # radii within which a flake takes all snow, and there is no larger one
_FAINT = 0.25, 0.5  # below this share of the typical depth of flakes, but at most below this depth, there are none
_FEW = 0.05  # how much explaining a flake more should be worth
_EXPONENT = 1.5  # of a round's correction, for speed
_OPAQUE = 0.97  # the highest opacity that still has a depth
_LEAST = 1e-3  # optical depth below which there is nothing


def drawn_in_flakes(opacity: torch.Tensor) -> torch.Tensor:
    """Opacity [B, 1, H, W] of snow in [0, 1], drawn as a veil and flakes, of the same mean and deviation."""
    depth = -torch.log1p(-opacity.clamp(max=_OPAQUE))
    near, smooth = _VEIL
    veil = mean_around(mean_around(-_largest(-depth, near), smooth), smooth)
    snow = (depth - veil).clamp(min=0) + _LEAST
    shapes = _domes(_DOME).to(opacity)
    flakes = _fitted(mean_around(snow, 2).expand(-1, len(_RADII), -1, -1) / len(_RADII), snow, shapes, _ROUNDS)
    flakes = _fitted(_apart(flakes), snow, shapes, _ROUNDS_AGAIN)
    drawn = 1 - torch.exp(-veil - _drawn(flakes)[..., _HALF:-_HALF, _HALF:-_HALF])
    mean, deviation = _moments(opacity)
    for _ in range(4):  # opacity below 0 or above 1 is cut off, which moves both
        drawn_mean, drawn_deviation = _moments(drawn)
        drawn = (mean + (drawn - drawn_mean) * deviation / drawn_deviation.clamp(min=1e-4)).clamp(0, 1)
    return drawn


def _moments(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True, correction=0)


def _fitted(flakes: torch.Tensor, snow: torch.Tensor, shapes: torch.Tensor, rounds: int) -> torch.Tensor:
    """How much snow [B, sizes, H, W] is in the flakes of each size and place; where there is none, none comes.

    By the multiplied corrections of Richardson (1972) and Lucy (1974).
    """
    for _ in range(rounds):
        wanted = snow / (_spread(flakes, shapes).sum(1, keepdim=True) + _LEAST)
        flakes = flakes * (_spread(wanted.expand_as(flakes), shapes) / (1 + _FEW)) ** _EXPONENT
    return flakes


def _apart(flakes: torch.Tensor) -> torch.Tensor:
    """The flakes that are left when each takes the snow around it, and the larger one stays of two that are near."""
    gathered = []
    for size, radius in zip(flakes.split(1, dim=1), _RADII, strict=True):
        reach = round(_GATHERS * radius)
        there = (size >= _largest(size, reach)) & (size > _LEAST)
        gathered.append(there * mean_around(size, reach) * (2 * reach + 1) ** 2)
    largest = torch.cat(gathered, dim=1).amax(1, keepdim=True)
    kept = [
        size * (size >= _largest(largest, round(_GATHERS * radius)))
        for size, radius in zip(gathered, _RADII, strict=True)
    ]
    return torch.cat(kept, dim=1)


def _drawn(flakes: torch.Tensor) -> torch.Tensor:
    """Optical depth [B, 1, H, W] of flakes, the thinner ones smaller; faint ones look like noise and are left out.

    It is `_HALF` pixels wider on each side: there is no mirrored snow, which would be astray the wrong way.
    """
    depth = flakes * _domes(_CRISP).to(flakes).amax((1, 2))[:, None, None]
    typical = depth.square().sum((1, 2, 3), keepdim=True) / depth.sum((1, 2, 3), keepdim=True).clamp(min=_LEAST)
    share, most = _FAINT
    flakes = flakes * (depth > (share * typical).clamp(max=most))
    radius = torch.tensor(_RADII).to(flakes)[:, None, None] * (depth / typical.clamp(min=_LEAST)) ** _SHRINK
    drawn, radii = torch.tensor(_DRAWN), torch.arange(len(_DRAWN), device=flakes.device)
    size = torch.bucketize(radius, (drawn[1:] * drawn[:-1]).sqrt().to(flakes))
    flakes, size = (F.pad(image, [_HALF] * 4) for image in (flakes, size))
    row, column = (torch.arange(side, device=flakes.device) for side in flakes.shape[2:])
    kind = (row[:, None] + 3 * column) % _KINDS  # neighbours differ
    return sum(
        _spread(((kind == k) * flakes)[:, :, None].mul(size[:, :, None] == radii[:, None, None]).sum(1), shapes)
        for k, shapes in enumerate(_lumps().to(flakes))
    ).sum(1, keepdim=True)


def _domes(exponent: float) -> torch.Tensor:
    """Round domes [sizes, K, K] of the sum one."""
    offset = torch.arange(-_HALF, _HALF + 1.0)
    distance = torch.hypot(offset[:, None] / _TALL, offset) / torch.tensor(_RADII)[:, None, None]
    domes = (1 - distance.square()).clamp(min=0) ** exponent
    return domes / domes.sum((1, 2), keepdim=True)


@cache
def _lumps() -> torch.Tensor:
    """Flakes [kinds, sizes, K, K] of several lumps each, always the same ones, of the sum one."""
    generator = torch.Generator().manual_seed(0)
    turn, far, share, down, right = torch.rand((5, _KINDS, _LUMPS, 1, 1, 1), generator=generator).unbind(0)
    angle = 2 * math.pi * (torch.arange(_LUMPS)[:, None, None, None] + 0.6 * turn) / _LUMPS
    radius = torch.tensor(_DRAWN)[:, None, None]
    far, size = (0.1 + 0.3 * far) * radius, (0.6 + 0.3 * share) * radius
    row, column = (_ASTRAY * (2 * v[:, :1] - 1) for v in (down, right))
    offset = (torch.arange(_FINE * (2 * _HALF + 1)) + 0.5) / _FINE - _HALF - 0.5
    distance = torch.hypot(offset[:, None] - far * angle.sin() - row, offset - far * angle.cos() - column)
    lumps = (1 - (distance / size).square()).clamp(min=0) ** (_CRISP + radius / _SOFT)
    flakes = F.avg_pool2d(1 - torch.exp(-_THICK * lumps.sum(1)), _FINE)
    return flakes / flakes.sum((2, 3), keepdim=True)


def _spread(flakes: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
    """[B, sizes, H, W], each size convolved with its shape."""
    return convolved(flakes, shapes).clamp(min=0)


def _largest(image: torch.Tensor, reach: int) -> torch.Tensor:
    """Maxima over squares that reach so many pixels to each side."""
    return F.max_pool2d(around(image, reach), 2 * reach + 1, stride=1)
