"""How does a degradation made at a small size reach a photograph's own? Joint upsampling: what survives of its detail.

With x the clean image at the small size, y the degraded one, X the photograph, H a high-pass (an image minus its 3x3
mean), box a mean over 7x7 and the colours, and up a bicubic resize:

    T = clamp(box(H(x) H(y)) / (box(H(x)^2) + 1e-4), 0, 1)        how much of the fine detail survives, at each pixel
    Y = up(y) + up(T) (X - up(x))

Haze, darkness and drops come to lie over full detail, and blur stays blur (compare guided filtering, TPAMI 2013).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F


def transfer_detail(
    photo: torch.Tensor,
    clean: torch.Tensor,
    degraded: torch.Tensor,
    progress: Callable[[float], None] | None = None,
) -> torch.Tensor:
    """Degrade a photograph as its small version was degraded.

    Args:
        photo: [3, H, W], uint8, or float in [0, 1].
        clean, degraded: float [3, h, w] in [0, 1]; the same scene without and with the degradation.
        progress: called with the share that is done.

    Returns:
        The degraded photograph, of the type and size of `photo`.
    """

    def up(image: torch.Tensor) -> torch.Tensor:
        return F.interpolate(image[None], photo.shape[1:], mode="bicubic", antialias=True)[0]

    def mean(image: torch.Tensor, side: int) -> torch.Tensor:
        return F.avg_pool2d(F.pad(image[None], [side // 2] * 4, mode="replicate"), side, stride=1)[0]

    x, y = (image - mean(image, 3) for image in (clean, degraded))
    surviving = mean((x * y).mean(0, keepdim=True), 7) / (mean(x.square().mean(0, keepdim=True), 7) + 1e-4)
    full = (photo.float() / 255 if photo.dtype == torch.uint8 else photo).to(clean.device)
    result = (up(degraded) + up(surviving.clamp(0, 1)) * (full - up(clean))).clamp(0, 1)
    if progress is not None:
        progress(1.0)
    return ((result * 255).round() if photo.dtype == torch.uint8 else result).to(photo)
