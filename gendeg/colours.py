"""What a degradation can do to a colour (`Degradation.colours`), and generated images that keep to it.

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
    room = 1 - clean
    opacity = ((degraded - clean) * room).sum(1, keepdim=True) / room.square().sum(1, keepdim=True).clamp(min=1e-3)
    opacity = opacity.clamp(0, 1)
    over = clean if over is None else over
    return over + opacity * (1 - over)


def keep_hue(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """The image as bright as `degraded` that has the hue of `clean` at each pixel, as pale as is nearest to `degraded`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    grey, degraded_grey = (image.mean(1, keepdim=True) for image in (clean, degraded))
    colour = clean - grey
    kept = ((degraded - degraded_grey) * colour).sum(1, keepdim=True) / colour.square().sum(1, keepdim=True).clamp(
        min=1e-4
    )
    return (degraded_grey + kept.clamp(0, 1) * colour).clamp(0, 1)
