"""Which drops is generated water on the lens made of? And the same drops, drawn one by one.

A small generator puts drops where they should be, as bright or dark as they should be, but with ragged outlines and
holes. So round drops of a few sizes are found in what has changed, and drawn anew: whole, with a crisp rim, and smooth
inside, with the light that the generator put there. What has changed little everywhere is mist.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from gendeg.borders import around, convolved, mean_around
from gendeg.intensity import Nearest, asked_intensity

_RADII = (3.0, 4.2, 6.0, 8.5, 12.0, 17.0, 24.0)  # pixels
_BESIDE = 1.5, 1.0  # a drop ends where it is less changed out to this many radii, and pixels more
_CHANGED = 0.35  # share of the typical change from which on there is a drop
_LEAST = 0.02  # change below which there is none
_DISTINCT = 0.1  # how much more of a drop must have changed than of what is beside it
_APART = 0.7  # radii of a drop within which no other is likelier
_RIM = 2.0  # pixels from where there is no drop to where it is whole
_TALL = 1.1  # height in relation to width: gravity draws drops out
_WOBBLE = 5.0  # pixels from the farthest in to the farthest out that an outline follows what has changed
_SMOOTH, _SMOOTHER = 2, 10  # reach of the means that are seen in a drop, and where the generator left a hole, in pixels
_FILL = 0.15  # weight of the latter
_NEAR, _SURE = 12, 2e-3  # pixels within which mist is the same; variance from which on it is seen to lower contrast
_GROWTH, _CONTRAST = (0.6, 1.8), (0.6, 1.8)  # bounds of how much larger and stronger drops become
_ROUNDS, _DAMPING = 7, 0.7  # of the search for both


def drawn_as_drops(
    clean: torch.Tensor,
    degraded: torch.Tensor,
    over: torch.Tensor,
    mu: Sequence[float | None] | None = None,
    sigma: Sequence[float | None] | None = None,
) -> torch.Tensor:
    """Drops on `degraded`, drawn on `over`, all as much larger and brighter or darker as brings it to mu and sigma.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        over: the image without drops that they are drawn on, alike.
        mu, sigma: what should be reached, one each; None: see `gendeg.intensity.asked_intensity`.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    asked_mu, asked_sigma = asked_intensity(clean, degraded, mu, sigma)
    nearest = Nearest(asked_mu, asked_sigma)
    change = mean_around((degraded - clean).abs().mean(1, keepdim=True), 1)
    typical = change.square().mean((2, 3), keepdim=True) / change.mean((2, 3), keepdim=True).clamp(min=1e-4)
    changed = (change / (_CHANGED * typical).clamp(min=_LEAST)).clamp(max=1)
    places, outline = _found(changed), _WOBBLE * (mean_around(mean_around(changed, _SMOOTH), _SMOOTH) - 0.5)

    growth = contrast = torch.ones_like(asked_mu)
    cover = _cover(places, growth, outline)
    within, misted = changed * cover, _mist(clean, degraded, over, cover)
    images = torch.cat([degraded * within, over * within, within], dim=1)
    near, far = (mean_around(mean_around(images, reach), reach) for reach in (_SMOOTH, _SMOOTHER))
    both = near + _FILL * far
    light, behind = (both[:, :6] / both[:, 6:].clamp(min=1e-6)).chunk(2, dim=1)
    for _ in range(_ROUNDS):
        seen = behind + contrast[:, None, None, None] * (light - behind)
        drawn = torch.lerp(misted, seen.clamp(0, 1), _cover(places, growth, outline))
        # Of drops here and there, sigma^2 / mu grows as their contrast, and (mu / sigma)^2 as their area.
        reached_mu, reached_sigma = nearest.offer(over, drawn)
        stronger = asked_sigma.square() / asked_mu * reached_mu / reached_sigma.square()
        larger = (asked_mu / asked_sigma * reached_sigma / reached_mu).square()
        contrast = (contrast * stronger**_DAMPING).clamp(*_CONTRAST)
        growth = (growth * larger ** (_DAMPING / 2)).clamp(*_GROWTH)
    return nearest.images


def _mist(clean: torch.Tensor, degraded: torch.Tensor, over: torch.Tensor, drops: torch.Tensor) -> torch.Tensor:
    """`over` with the contrast and brightness, place by place, that `degraded` has in relation to `clean` beside drops.

    A guided filter (He, Sun and Tang, TPAMI 2013) that leaves things as they are where it knows little.
    """
    weight = 1 - drops + 0.01
    total = mean_around(weight, _NEAR)
    images = torch.cat([clean, degraded, clean.square(), clean * degraded], dim=1)
    middle, middle_degraded, square, product = (mean_around(images * weight, _NEAR) / total).chunk(4, dim=1)
    contrast = (product - middle * middle_degraded + _SURE) / (square - middle.square() + _SURE)
    lines = torch.cat([contrast, middle_degraded - contrast * middle], dim=1)
    contrast, brightness = (mean_around(lines * weight, _NEAR) / total).chunk(2, dim=1)
    return (contrast * over + brightness).clamp(0, 1)


def _cover(places: list[torch.Tensor], growth: torch.Tensor, outline: torch.Tensor) -> torch.Tensor:
    """How much of each pixel drops cover, [B, 1, H, W]; they are `growth` [B] times as large as found."""
    return ((_depth(places, growth, outline) + outline) / _RIM + 0.5).clamp(0, 1)


def _found(changed: torch.Tensor) -> list[torch.Tensor]:
    """Centres of drops, (image, row, column) [N, 3] for each size; `changed`: [B, 1, H, W] in [0, 1].

    A drop's score is how much of it has changed, times how much more that is than beside it.
    """
    scores = []
    for radius in _RADII:
        inside, whole = (_disc(radius).to(changed), _disc(_BESIDE[0] * radius + _BESIDE[1]).to(changed))
        in_it, in_all = (convolved(changed, disc[None]) for disc in (inside, whole))
        share = in_it / inside.sum()
        scores.append(share * (share - (in_all - in_it) / (whole.sum() - inside.sum())))
    best = torch.cat(scores, dim=1).amax(1, keepdim=True)
    found = []
    for radius, score in zip(_RADII, scores, strict=True):
        reach = round(_APART * radius)
        likeliest = F.max_pool2d(around(best, reach), 2 * reach + 1, stride=1)
        found.append(((score >= likeliest) & (score > _DISTINCT))[:, 0].nonzero())
    return found


def _depth(places: list[torch.Tensor], growth: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """How far each pixel lies inside of a drop, [B, 1, H, W] in pixels; outside it is negative."""
    batch, _, height, width = like.shape
    depth = like.new_full((batch * height * width,), -1e3)
    for radius, centres in zip(_RADII, places, strict=True):
        reach = round(_GROWTH[1] * radius * _TALL + _WOBBLE)
        offset = torch.arange(-reach, reach + 1, device=like.device)
        row, column = centres[:, 1, None, None] + offset[:, None], centres[:, 2, None, None] + offset
        inside = growth[centres[:, 0], None, None] * radius - torch.hypot(offset[:, None] / _TALL, offset.to(like))
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        pixel = (centres[:, 0, None, None] * height + row) * width + column
        depth.scatter_reduce_(0, pixel[there], inside[there], "amax")
    return depth.view(batch, 1, height, width)


def _disc(radius: float) -> torch.Tensor:
    """[K, K] of ones within the radius, with a soft edge."""
    offset = torch.arange(-round(radius) - 1, round(radius) + 2.0)
    return (radius + 0.5 - torch.hypot(offset[:, None], offset)).clamp(0, 1)
