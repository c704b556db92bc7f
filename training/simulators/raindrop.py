"""How do drops of water on the lens or on a window look? As small lenses that turn the scene upside down.

A drop on glass is a strongly curved lens: it shows nearly the whole scene in front of it, inverted and minified, dark
at its steep rim, where light is refracted away or totally reflected, and with a glint of the brightest light. A camera
focused on the scene sees drops on its own lens out of focus: soft discs of averaged light (Roser, Kurz and Geiger,
"Realistic Modeling of Water Droplets for Monocular Adherent Raindrop Recognition", ACCV workshops 2010; You et al.,
"Adherent Raindrop Modeling, Detection and Removal in Video", TPAMI 2016; Qian et al., "Attentive GAN for Raindrop
Removal from A Single Image", CVPR 2018). Lengths are pixels of a photograph whose short side is 256.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from training.simulators.fields import log_uniform, uniform
from training.simulators.particles import Render

_LARGE_EVERY = 5  # every fifth drop is a large one
_SATURATION = 0.7  # of the colours in a drop, beside those around it
_WOBBLE = 0.13  # amplitude of each harmonic of the outline, in radii


class _Drops(NamedTuple):
    """The drop that each pixel belongs to, all [B, 1, H, W]; where there is none, `rim` is 1."""

    x: torch.Tensor  # offset from the drop's centre in radii, to the right
    y: torch.Tensor  # and downwards
    centre_x: torch.Tensor  # position of the drop in the image, -1 to 1
    centre_y: torch.Tensor
    rim: torch.Tensor  # 0 at the centre, 1 on the outline
    radius: torch.Tensor  # in pixels
    tone: torch.Tensor  # random number of the drop, 0 to 1
    appearance: torch.Tensor  # share of the drops that appear before this one


def sharp_drops(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Drops in focus: inverted views with dark rims and glints. clean [B, 3, H, W] in [0, 1]; contract: the package."""
    return _refract(
        clean,
        generator,
        small=(5.0, 11.0),
        large=(11.0, 25.0),
        soft=(0.0, 0.15),
        pool=4,
        opacity=(0.7, 1.0),
        relief=1.0,
        merge=0.55,
        defocus=1,
    )


def defocused_drops(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Drops out of focus: soft discs of blurred, inverted light. Arguments as above."""
    return _refract(
        clean,
        generator,
        small=(6.0, 12.0),
        large=(12.0, 26.0),
        soft=(0.1, 0.35),
        pool=12,
        opacity=(0.65, 1.0),
        relief=0.45,
        merge=0.55,
        defocus=3,
    )


def misted_drops(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Drops in focus on glass that is wet all over: a film of fine droplets scatters light between them.

    Arguments as above.
    """
    return _refract(
        clean,
        generator,
        small=(4.0, 9.0),
        large=(9.0, 20.0),
        soft=(0.0, 0.3),
        pool=6,
        opacity=(0.4, 1.0),
        relief=0.6,
        merge=0.55,
        defocus=1,
        film=(0.15, 0.7),
    )


def _refract(
    clean: torch.Tensor,
    generator: torch.Generator,
    small: tuple[float, float],
    large: tuple[float, float],
    soft: tuple[float, float],
    pool: int,
    opacity: tuple[float, float],
    relief: float,
    merge: float,
    defocus: int,
    film: tuple[float, float] = (0.0, 0.0),
) -> Render:
    """Drops of one kind.

    Args:
        small, large: range of the radii, in pixels, of the many small and the few large drops.
        soft: range of the width of the outline's fall-off in radii; at least a pixel and a half.
        pool: how blurred the view inside a drop is, in pixels.
        opacity: range of the opacity at a drop's centre.
        relief: how strong rim and glint are, 0 to 1.
        merge: how near two drops may come, in sums of their radii.
        defocus: width of the blur of the finished drops, in pixels; odd.
        film: range of the opacity, at strength 1, of the mist between the drops.
    """
    batch, _, height, width = clean.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return uniform(batch, low, high, generator)[:, None, None, None].to(clean)

    drops = _Drops(*(v.to(clean) for v in _scatter(batch, height, width, small, large, merge, generator)))

    # Refraction: the farther from the drop's centre, the farther on the other side of the scene a ray comes from.
    view = draw(0.5, 0.9) * (0.7 + 0.3 * drops.rim**2)
    look = draw(0.2, 0.5)
    grid = torch.cat((look * drops.centre_x - view * drops.x, look * drops.centre_y - view * drops.y), dim=1)
    scene = F.interpolate(clean, size=(max(height // pool, 4), max(width // pool, 4)), mode="area")
    content = F.grid_sample(
        scene, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="reflection", align_corners=False
    )
    # Its view is wider than the photograph: sky comes in at the bottom of the drop, dark ground at the top. Before a
    # dark scene the former stands out, before a bright one the latter.
    turn = draw(-0.8, 0.8)
    lit = drops.x * turn.sin() + drops.y * turn.cos()
    brightness = clean.mean((1, 2, 3), keepdim=True)
    horizon = draw(-0.75, 0.75) + 2.0 * (brightness - 0.45)
    surroundings = 0.1 + 0.85 * torch.sigmoid(draw(3.0, 8.0) * (lit - horizon.clamp(-0.6, 0.6)))
    pull = draw(0.1, 1.25) * (0.8 + 0.4 * drops.tone)
    content = content.mean(1, keepdim=True)
    content = content + pull.clamp(max=0.85) * (surroundings - content)
    # The rim is dark but for a crescent where the light comes out; the light itself glints on the other side.
    edge = ((drops.rim - 0.62) / 0.38).clamp(0, 1) ** 2
    content = content * (1 - relief * draw(0.2, 0.7) * edge * (0.75 - 0.5 * lit))
    crescent = edge * (1 - edge) * 4 * (lit - 0.35).clamp(min=0)
    glint = torch.exp(-((drops.x + 0.42 * turn.sin()) ** 2 + (drops.y + 0.42 * turn.cos()) ** 2) / 0.02)
    shine = relief * draw(0.2, 0.9) * (glint + 0.8 * crescent)
    content = content + shine * (1 - content)
    # Water is clear: the light may come from elsewhere, but the colour is mostly that of what lies around the drop.
    nearby = F.interpolate(scene, size=(height, width), mode="bilinear", align_corners=False)
    colour = nearby / nearby.mean(1, keepdim=True).clamp(min=0.1)
    content = (content * (1 + _SATURATION * (colour - 1))).clamp(0, 1)

    alpha = ((1 - drops.rim) / torch.maximum(draw(*soft), 1.5 / drops.radius)).clamp(0, 1)
    alpha = alpha * alpha * (3 - 2 * alpha) * draw(*opacity)
    content = _blur(alpha * content, defocus)
    alpha = _blur(alpha, defocus)
    change = content - alpha * clean
    # Strength brings in one drop after the other, each over a short span.
    span = log_uniform(batch, 0.03, 0.15, generator)[:, None, None, None].to(clean)
    appearance = _blur(drops.appearance, defocus) * (1 - span)

    mist = draw(*film)
    scattered = mist * (0.6 * _blur(clean, 9) + 0.4 * draw(0.4, 0.9) - clean) if film[1] else None

    def render(strength: torch.Tensor) -> torch.Tensor:
        shown = ((strength.to(clean)[:, None, None, None] - appearance) / span).clamp(0, 1)
        degraded = torch.addcmul(clean, shown, change)
        if scattered is not None:
            # Mist comes before drops.
            misted = 1 - (1 - strength.to(clean)[:, None, None, None]) ** 3
            degraded = degraded + misted * (1 - shown * alpha) * scattered
        return degraded.clamp_(0, 1)

    return render


def _blur(image: torch.Tensor, width: int) -> torch.Tensor:
    """Box blur of an odd width in pixels."""
    margin = [width // 2] * 4
    return F.avg_pool2d(F.pad(image, margin, mode="replicate"), width, stride=1) if width > 1 else image


def _scatter(
    batch: int,
    height: int,
    width: int,
    small: tuple[float, float],
    large: tuple[float, float],
    merge: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, ...]:
    """Throw drops at random; where two overlap, the earlier one wins. The fields of `_Drops`."""
    # More than have room.
    mean_area = math.pi * ((_LARGE_EVERY - 1) * small[0] * small[1] + large[0] * large[1]) / _LARGE_EVERY
    count = math.ceil(2.6 * height * width / mean_area / _LARGE_EVERY) * _LARGE_EVERY

    def random(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, count, generator=generator)

    is_large = torch.arange(count) % _LARGE_EVERY == 0
    scale = uniform(batch, 0, 1, generator)[:, None]  # some pictures hold small drops, some large ones
    size = (random(0, 0.6) + 0.4 * scale).expand(batch, count)
    radius = torch.where(is_large, large[0] * (large[1] / large[0]) ** size, small[0] * (small[1] / small[0]) ** size)
    centre_x, centre_y = random(0, width), random(0, height)
    # A drop too near an earlier one has run into it and is gone, unless that one is gone itself. (An odd number of
    # rounds never leaves two drops that are too near.)
    centre = torch.stack((centre_x, centre_y), dim=-1)
    too_near = torch.cdist(centre, centre) < merge * (radius[:, :, None] + radius[:, None, :])
    too_near = too_near.float().tril(-1)
    there = torch.ones(batch, count, 1)
    for _ in range(5):
        there = (too_near @ there == 0).float()
    there = there[..., 0].bool()
    tall = random(0.9, 1.3)  # gravity draws drops out
    tilt, wobble = random(-0.3, 0.3), random(0, _WOBBLE)
    phase2, phase3 = random(0, 2 * math.pi), random(0, 2 * math.pi)
    waves = [wobble * v for v in (phase2.cos(), phase2.sin(), phase3.cos(), phase3.sin())]
    parameters = torch.stack((centre_x, centre_y, radius, tall, tilt, *waves, random(0, 1)), dim=-1)

    # Index of the first drop that holds each pixel; `count` where there is none.
    owner = torch.full((batch, height * width), count)
    for chosen, reach in ((is_large, large[1]), (~is_large, small[1])):
        chosen = chosen & there
        index = (~chosen).int().argsort(dim=1, stable=True)[:, : int(chosen.sum(1).max())]
        drop = parameters.gather(1, index[..., None].expand(-1, -1, parameters.shape[-1]))[:, :, None, None]
        reach = math.ceil(reach * 1.3 * (1 + 2 * _WOBBLE))
        offsets = torch.arange(-reach, reach + 1)
        column = drop[..., 0].long() + offsets
        row = drop[..., 1].long() + offsets[:, None]
        rim, _, _ = _outline(drop, column, row)
        hit = (rim < 1) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        hit &= chosen.gather(1, index)[:, :, None, None]
        pixel = torch.where(hit, row * width + column, 0)
        value = torch.where(hit, index[:, :, None, None], count)
        owner.scatter_reduce_(1, pixel.flatten(1), value.flatten(1), "amin")

    nobody = owner == count
    mine = parameters.gather(1, owner.clamp(max=count - 1)[..., None].expand(-1, -1, parameters.shape[-1]))
    pixels = torch.arange(height * width)
    rim, x, y = _outline(mine, pixels % width, pixels // width)
    rim = torch.where(nobody, 1.0, rim)
    fields = (
        x,
        y,
        mine[..., 0] * (2 / width) - 1,
        mine[..., 1] * (2 / height) - 1,
        rim,
        mine[..., 2],
        mine[..., -1],
        owner / count,
    )
    return tuple(v.view(batch, 1, height, width) for v in fields)


def _outline(drop: torch.Tensor, column: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Where pixels lie within their drops: (1 on the outline and less inside, x and y offsets in radii)."""
    centre_x, centre_y, radius, tall, tilt, a2, b2, a3, b3 = drop[..., :9].unbind(-1)
    y = (row + 0.5 - centre_y) / (radius * tall)
    x = (column + 0.5 - centre_x) / radius + tilt * y
    distance = torch.hypot(x, y)
    # Second and third harmonic of the outline, from powers of (cosine + i sine) of the direction.
    cosine, sine = x / (distance + 1e-6), y / (distance + 1e-6)
    cosine2, sine2 = cosine**2 - sine**2, 2 * cosine * sine
    cosine3, sine3 = cosine2 * cosine - sine2 * sine, sine2 * cosine + cosine2 * sine
    return distance / (1 + a2 * cosine2 - b2 * sine2 + a3 * cosine3 - b3 * sine3), x, y


SIMULATORS = {"sharp_drops": sharp_drops, "defocused_drops": defocused_drops, "misted_drops": misted_drops}
MIXED: set[str] = set()  # none lays a haze over the scene
