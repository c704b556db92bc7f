"""What lies beyond the borders of an image? Its mirror image, as far as that goes."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def extended(image: torch.Tensor, columns: tuple[int, int], rows: tuple[int, int]) -> torch.Tensor:
    """Images [B, C, H, W] with as many columns and rows before and after them: mirrored, or, if small, repeated."""
    height, width = image.shape[2:]
    asked = (*columns, *rows)
    mirrored = [min(n, side - 1) for n, side in zip(asked, (width, width, height, height), strict=True)]
    image = F.pad(image, mirrored, mode="reflect")
    return F.pad(image, [n - m for n, m in zip(asked, mirrored, strict=True)], mode="replicate")


def around(image: torch.Tensor, reach: int) -> torch.Tensor:
    """Images [B, C, H, W] with `reach` rows and columns more on each side."""
    return extended(image, (reach, reach), (reach, reach))


def mean_around(image: torch.Tensor, reach: int) -> torch.Tensor:
    """Means [B, C, H, W] over squares that reach so many pixels to each side."""
    rows = F.avg_pool2d(around(image, reach), (2 * reach + 1, 1), stride=1)
    return F.avg_pool2d(rows, (1, 2 * reach + 1), stride=1)


def convolved(image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Images [B, C, H, W] convolved with weights [C, K, K], or [1, K, K] for all; K is odd."""
    height, width = image.shape[2:]
    half = weights.shape[-1] // 2
    padded = around(image, half)
    size = [math.ceil(side / 32) * 32 for side in padded.shape[2:]]  # such lengths transform fast
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(weights, s=size)
    return torch.fft.irfft2(spectrum, s=size)[..., 2 * half : 2 * half + height, 2 * half : 2 * half + width]
