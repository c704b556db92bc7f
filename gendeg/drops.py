"""Which drops is generated water on the lens made of? And the same drops, drawn one by one.

A small generator puts drops where they should be, as large and as strong as they should be, but with ragged outlines,
holes and smears. So round drops of a few sizes are found in what has changed, and drawn anew: whole, with a crisp rim,
and clear, with the scene upside down in them. What has changed little everywhere is mist.
"""

from __future__ import annotations

import math
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
_UNEVEN = 0.08, 0.055  # how much farther in or out outlines are, two and three times around
_WOBBLE = 5.0  # pixels from the farthest in to the farthest out that an outline follows what has changed
_SMOOTH, _SMOOTHER = 2, 10  # reach of the means that are seen in a drop, and where the generator left a hole, in pixels
_FILL = 0.15  # weight of the latter
_NEAR, _SURE = 12, 2e-3  # pixels within which mist is the same; variance from which on it is seen to lower contrast
_LOOK, _VIEW = 0.35, 0.7  # how far off the middle a drop looks, of its own place; how much of the scene it shows
_BLURRED = 10, 6  # pixels that are one in the view of small and of large drops
_PLAIN = 2.0, 6.0  # radii, as found, up to which there is no view, and from which there is; three times that: clear
_CLEAR = 0.85  # share of what is seen in a drop that is the scene, not the generator's light
_DARK = 0.75, 0.35  # how dark the rim is, and up to which depth in radii, as found
_GLINT = 0.4, 0.008  # how bright it is, and how wide in squared radii
_GROWTH, _CONTRAST = (0.4, 1.8), (0.65, 1.8)  # bounds of how much larger and stronger drops become
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
    outline = _WOBBLE * (mean_around(mean_around(changed, _SMOOTH), _SMOOTH) - 0.5)

    drops = _Drops(_found(changed), changed)
    cover = _cover(drops.depth(torch.ones_like(asked_mu)), outline)
    within, misted = changed * cover, _mist(clean, degraded, over, cover)
    images = torch.cat([degraded * within, over * within, within], dim=1)
    near, far = (mean_around(mean_around(images, reach), reach) for reach in (_SMOOTH, _SMOOTHER))
    both = near + _FILL * far
    light, behind = (both[:, :6] / both[:, 6:].clamp(min=1e-6)).chunk(2, dim=1)
    views = [F.interpolate(over, [max(side // size, 1) for side in over.shape[2:]], mode="area") for size in _BLURRED]
    growth = contrast = torch.ones_like(asked_mu)
    for _ in range(_ROUNDS):
        depth = drops.depth(growth)
        seen = behind + contrast[:, None, None, None] * (torch.lerp(light, *drops.looks(views, depth, growth)) - behind)
        drawn = torch.lerp(misted, seen.clamp(0, 1), _cover(depth, outline))
        # Of drops here and there, sigma^2 / mu grows as their contrast, and mu as contrast times area.
        reached_mu, reached_sigma = nearest.offer(over, drawn)
        stronger = asked_sigma.square() / asked_mu * reached_mu / reached_sigma.square()
        before, contrast = contrast, (contrast * stronger**_DAMPING).clamp(*_CONTRAST)
        larger = (asked_mu / reached_mu) ** _DAMPING * before / contrast
        growth = (growth * larger**0.5).clamp(*_GROWTH)
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


def _cover(depth: torch.Tensor, outline: torch.Tensor) -> torch.Tensor:
    """How much of each pixel drops cover, [B, 1, H, W]."""
    return ((depth + outline) / _RIM + 0.5).clamp(0, 1)


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


class _Drops:
    """Drops that were found, pixel by pixel of what they reach when they have grown.

    Args:
        places: their centres, (image, row, column) [N, 3] for each size.
        like: [B, 1, H, W].
    """

    def __init__(self, places: list[torch.Tensor], like: torch.Tensor) -> None:
        self.shape = like.shape
        height, width = like.shape[2:]
        parts = []
        for radius, centres in zip(_RADII, places, strict=True):
            reach = math.ceil((_GROWTH[1] * radius + (_WOBBLE + _RIM) / 2) * _TALL / (1 - sum(_UNEVEN)))
            offset = torch.arange(-reach, reach + 1, device=like.device)
            image, centre_row, centre_column = centres[:, :, None, None].unbind(1)
            row, column = centre_row + offset[:, None], centre_column + offset
            there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = (image * height + row) * width + column
            place = offset.to(like) / radius, offset[:, None] / (radius * _TALL)  # from the centre, in radii
            angle, turn = torch.atan2(place[1], place[0]), 1.7 * centre_row + 2.3 * centre_column  # as if at random
            bent = 1 + _UNEVEN[0] * (2 * angle + turn).sin() + _UNEVEN[1] * (3 * angle + 1.6 * turn).sin()
            middle = ((2 * centre_column + 1) / width - 1, (2 * centre_row + 1) / height - 1)  # -1 to 1 in the image
            # Place, x and y; middle, x and y; radius.
            numbers = *(offsets * bent for offsets in place), *middle, torch.full_like(offset.to(like), radius)
            numbers = [v.expand_as(pixel)[there] for v in numbers]
            parts.append((pixel[there], image.expand_as(pixel)[there], torch.stack(numbers, dim=1)))
        self.pixel, self.image, self.numbers = (torch.cat(values) for values in zip(*parts, strict=True))
        self.radius = self.numbers[:, 4]
        self.distance = self.radius * self.numbers[:, :2].norm(dim=1)

    def depth(self, growth: torch.Tensor) -> torch.Tensor:
        """How far each pixel lies inside of a drop, [B, 1, H, W] in pixels; outside it is negative.

        Args:
            growth: [B], how many times as large as found drops are.
        """
        depth = growth.new_full((self.shape.numel(),), -1e3)
        return depth.scatter_reduce_(0, self.pixel, self._inside(growth), "amax").view(self.shape)

    def looks(
        self, views: Sequence[torch.Tensor], depth: torch.Tensor, growth: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What drops of that depth and growth look like, [B, 3, H, W]; and how much of it is seen, [B, 1, H, W].

        The scene is small and upside down in a drop: the farther from its centre, the farther on the other side a ray
        comes from. The rim, above all the upper one, is dark, and there is a glint.

        Args:
            views: the scene, more and less blurred, [B, 3, ...].
        """
        batch, _, height, width = self.shape
        mine = self._inside(growth) == depth.flatten()[self.pixel]  # the drop that a pixel is deepest in
        numbers = self.numbers[mine]
        numbers[:, :2] /= growth[self.image[mine], None]
        maps = numbers.new_zeros(self.shape.numel(), 5).index_put((self.pixel[mine],), numbers)
        place, middle, radius = maps.view(batch, height, width, 5).split((2, 2, 1), dim=3)
        grid = _LOOK * middle - _VIEW * (0.7 + 0.3 * place.square().sum(3, keepdim=True)) * place
        blurred, clear = (
            F.grid_sample(view, grid, mode="bicubic", padding_mode="reflection", align_corners=False) for view in views
        )
        x, y, radius = (v.permute(0, 3, 1, 2) for v in (*place.split(1, dim=3), radius))
        view = torch.lerp(blurred, clear, ((radius - _PLAIN[1]) / (2 * _PLAIN[1])).clamp(0, 1))
        rim = (1 - depth.clamp(min=0) / (_DARK[1] * radius + 1)).clamp(min=0).square() * (0.65 - 0.35 * y.clamp(-1, 1))
        glint = _GLINT[0] * torch.exp(-((x + 0.35).square() + (y + 0.4).square()) / _GLINT[1])
        share = _CLEAR * ((radius - _PLAIN[0]) / (_PLAIN[1] - _PLAIN[0])).clamp(0, 1)
        view, share = (mean_around(image, 1) for image in (view * (1 - _DARK[0] * rim), share))
        return view + glint * (1 - view), share

    def _inside(self, growth: torch.Tensor) -> torch.Tensor:
        return growth[self.image] * self.radius - self.distance


def _disc(radius: float) -> torch.Tensor:
    """[K, K] of ones within the radius, with a soft edge."""
    offset = torch.arange(-round(radius) - 1, round(radius) + 2.0)
    return (radius + 0.5 - torch.hypot(offset[:, None], offset)).clamp(0, 1)
