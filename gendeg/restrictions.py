"""What a degradation can make (`Degradation.restrictions`), and generated images that keep to it.

Snow and rain lay white light over a scene and darken nothing. Haze lays grey over it, and in a drop the colours of the
scene run together: both may be brighter or darker than what they cover, and paler, but of the same hue. Simulated pairs
keep to that closely (`python -m training.evaluate colours`); a small generator does not, and makes bluish clumps, dark
specks and confetti. Surface tension gives drops smooth outlines; those of a small generator are ragged, and what it
shows in them is noise rather than a refracted scene.
"""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d

_DROP = 0.2  # change, in mu + sigma, beyond which a pixel belongs to a drop


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


def round_drops(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """Give drops a smooth outline and smooth contents; what lies between them is the clean image.

    A drop is where the brightness has changed more than by a fifth of mu + sigma, by the majority of the pixels
    around; it shows the average of what the degraded image has within it nearby.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    change = (degraded - clean).abs()
    limit = _DROP * (change.mean((1, 2, 3)) + change.std((1, 2, 3)))[:, None, None, None]
    drops = (_around((degraded - clean).mean(1, keepdim=True), 3).abs() > limit).float()
    for _ in range(3):
        drops = (_around(drops, 7) > 0.5).float()
    contents = degraded
    for _ in range(2):
        contents = _around(drops * contents, 3) / _around(drops, 3).clamp(min=0.1)
    return clean + _around(drops, 3) * (contents - clean)


def _around(images: torch.Tensor, side: int) -> torch.Tensor:
    """The mean of the square around each pixel, as far as it lies within the image."""
    return avg_pool2d(images, side, stride=1, padding=side // 2, count_include_pad=False)
