"""What a degradation can do to colours (`Degradation.restriction`), and generated images that keep to it.

Snow and rain lay white light over a scene and darken nothing. Haze lays grey over it, which may be brighter or darker
than what it covers, and paler, but of the same hue. Water is clear: a drop is brighter or darker than what it covers,
and has most of its colour. Simulated pairs keep to that closely (`python -m training.evaluate colours`); a small
generator does not, and makes bluish clumps, dark specks, confetti and pebbles.
"""

from __future__ import annotations

import torch

_CLEAR = 0.6  # least saturation of what is seen through water, as a share of the photograph's
_GAUDY = 2.0  # how many times as strong a colour becomes at most where a drop is brighter than the photograph


def lay_white(clean: torch.Tensor, degraded: torch.Tensor, over: torch.Tensor | None = None) -> torch.Tensor:
    """The image nearest to `degraded` that is white of some opacity, its own at each pixel, over `clean`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        over: what the same white is laid over instead: `clean` without the codec's errors, which `degraded` has too.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    over = clean if over is None else over
    return over + _share(degraded - clean, 1 - clean) * (1 - over)


def keep_hue(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """The image as bright as `degraded` that has the hue of `clean` at each pixel, as pale as is nearest to `degraded`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    grey, degraded_grey = (image.mean(1, keepdim=True) for image in (clean, degraded))
    colour = clean - grey
    return (degraded_grey + _share(degraded - degraded_grey, colour) * colour).clamp(0, 1)


def keep_colour(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """The image as bright as `degraded` with the colours of `clean` at each pixel, hardly paler.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    grey, degraded_grey = (image.mean(1, keepdim=True) for image in (clean, degraded))
    colour = (clean - grey) * (degraded_grey / grey.clamp(min=0.01)).clamp(max=_GAUDY)
    return (degraded_grey + _share(degraded - degraded_grey, colour).clamp(min=_CLEAR) * colour).clamp(0, 1)


def _share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """The a in [0, 1] of each pixel for which a * whole is nearest to part; both [B, 3, H, W], result [B, 1, H, W]."""
    along = (part * whole).sum(1, keepdim=True)
    return (along / whole.square().sum(1, keepdim=True).clamp(min=1e-4)).clamp(0, 1)


# By what `Degradation.restriction` says.
RESTRICTIONS = {"white": lay_white, "paler": keep_hue, "clear": keep_colour}
