"""What can a degradation do to a pixel? The picture nearest to a generated one that keeps to it.

Rain and snow lay white over a scene: they tint nothing and darken nothing. A moving camera moves the light of the whole
frame alike. A drop shows the colours around it. Low light takes light away smoothly. The small networks are not exact
in that; tinted flakes, torn edges, rainbows in drops and the codec's 8 x 8 blocks in the dark are their mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from gendeg.blur import move_light
from gendeg.detail import mean_around

_AROUND = 16  # pixels to each side whose mean colour a drop has
_FULL = 1 / 8  # mean change from which on a drop has no other colour than that
_NEAR = 8  # pixels to each side within which darkness changes smoothly
_DARK = 0.02  # added to values whose ratio is taken: black tells nothing about light that is lost
_CONTRAST = 1e-3  # variance of brightness from which on darkness may follow edges


Kept = tuple[torch.Tensor, torch.Tensor | None]


def lay_white(clean: torch.Tensor, degraded: torch.Tensor) -> Kept:
    """White over `clean`, in each pixel as opaque, the same in all colours, as comes nearest to `degraded`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        That picture, [B, 3, H, W] in [0, 1], and how much of the clean one's detail it keeps, [B, 1, H, W]; None where
        the rule does not say.
    """
    room = 1 - clean
    opacity = ((degraded - clean) * room).sum(1, keepdim=True) / room.square().sum(1, keepdim=True).clamp(min=1e-4)
    opacity = opacity.clamp(0, 1)
    return clean + opacity * room, 1 - opacity


def dim(clean: torch.Tensor, degraded: torch.Tensor) -> Kept:
    """`clean` with less light, by a factor that changes smoothly but for edges; arguments as above.

    The factor's logarithm is filtered, guided by the brightness of `clean` (He, Sun and Tang, "Guided image filtering",
    TPAMI 2013).
    """

    near = partial(mean_around, reach=_NEAR)
    factor = ((degraded + _DARK) / (clean + _DARK)).log()
    brightness, middle_factor = clean.mean(1, keepdim=True), near(factor)
    middle = near(brightness)
    slope = near(brightness * factor) - middle * middle_factor
    slope = slope / (near(brightness.square()) - middle.square() + _CONTRAST)
    factor = near(slope) * brightness + near(middle_factor - slope * middle)
    factor = factor.clamp(max=0).exp()
    return ((clean + _DARK) * factor - _DARK).clamp(0, 1), factor.mean(1, keepdim=True)


def move(clean: torch.Tensor, degraded: torch.Tensor) -> Kept:
    """The light of `clean`, moved along one way (`gendeg.blur`); arguments as above."""
    return move_light(clean, degraded), None


def show_surroundings(clean: torch.Tensor, degraded: torch.Tensor) -> Kept:
    """The brightness of `degraded` in the colours of `clean`, those around where it differs; arguments as above."""
    changed = mean_around((degraded - clean).abs().mean(1), 2)[:, None].div(_FULL).clamp(max=1)
    around = mean_around(clean, _AROUND)
    colours = [image - image.mean(1, keepdim=True) for image in (clean, around)]
    return (degraded.mean(1, keepdim=True) + torch.lerp(*colours, changed)).clamp(0, 1), None


RULES: dict[str, Callable[[torch.Tensor, torch.Tensor], Kept]] = {  # of haze none made a picture better
    "rain": lay_white,
    "snow": lay_white,
    "motion_blur": move,
    "raindrop": show_surroundings,
    "low_light": dim,
}
