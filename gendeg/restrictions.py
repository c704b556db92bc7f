"""What a degradation can do to colours (`Degradation.restriction`), and generated images that keep to it.

Snow and rain lay white light over a scene and darken nothing. Haze lays grey over it, and in a drop the colours of the
scene run together: both may be brighter or darker than what they cover, and paler, but of the same hue. Simulated pairs
keep to that closely (`python -m training.evaluate colours`); a small generator does not, and makes bluish clumps, dark
specks and confetti.
"""

from __future__ import annotations

import torch


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


def _share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """The a in [0, 1] of each pixel for which a * whole is nearest to part; both [B, 3, H, W], result [B, 1, H, W]."""
    along = (part * whole).sum(1, keepdim=True)
    return (along / whole.square().sum(1, keepdim=True).clamp(min=1e-4)).clamp(0, 1)


# By what `Degradation.restriction` says.
RESTRICTIONS = {"white": lay_white, "paler": keep_hue}
