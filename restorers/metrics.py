"""How close is a restored image to the clean one? PSNR and SSIM, as restoration papers report them, on RGB.

Both are computed in strips along the longer side, so that an image of 100 megapixels takes no gigabytes of floats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity

WINDOW = 11  # pixels: the side of SSIM's Gaussian window of deviation 1.5, and of the smallest image it can judge
_STRIP = 1 << 20  # pixels of a strip; SSIM takes about 80 bytes for each


class Quality(NamedTuple):
    """PSNR in dB, infinite for equal images; SSIM, None if a side is shorter than WINDOW."""

    psnr: float
    ssim: float | None


def quality(restored: Image.Image, clean: Image.Image) -> Quality:
    """PSNR and SSIM of two RGB images.

    Raises:
        ValueError: if the two are not RGB and of one size.
    """
    if restored.size != clean.size or restored.mode != "RGB" or clean.mode != "RGB":
        raise ValueError(
            f"Restored and clean images must be RGB and of one size, not {restored.mode} {restored.size} and "
            f"{clean.mode} {clean.size}."
        )
    pair = (restored, clean, *clean.size)
    return Quality(_psnr(*pair), _ssim(*pair) if min(clean.size) >= WINDOW else None)


def named_quality(name: str, image: Image.Image, clean: Image.Image) -> dict[str, float | None]:
    """The same as {"<name>_psnr", "<name>_ssim"}, for tables; without a name, of the degraded image: "psnr", "ssim"."""
    prefix = f"{name}_" if name else ""
    return dict(zip((f"{prefix}psnr", f"{prefix}ssim"), quality(image, clean), strict=True))


def psnr(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image over all its pixels and colours.

    Args:
        restored, clean: tensors [B, 3, H, W] of floats in [0, 1] or of uint8.

    Returns:
        [B] on the CPU, in dB; infinite for equal images.

    Raises:
        ValueError: if the two are no such tensors of one size.
    """
    _check(restored, clean)
    height, width = clean.shape[-2:]
    return torch.tensor([_psnr(*pair, width, height) for pair in zip(restored, clean, strict=True)])


def ssim(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, the mean over its pixels and its three colours.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), with its constants.

    Args:
        restored, clean: tensors [B, 3, H, W] of floats in [0, 1] or of uint8, no side shorter than WINDOW.

    Returns:
        [B] on the CPU, 1 for equal images.

    Raises:
        ValueError: if the two are no such tensors of one size.
    """
    _check(restored, clean)
    height, width = clean.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels.")
    return torch.tensor([_ssim(*pair, width, height) for pair in zip(restored, clean, strict=True)])


def _psnr(restored: Image.Image | torch.Tensor, clean: Image.Image | torch.Tensor, width: int, height: int) -> float:
    squares = 0.0
    for box in _strips(width, height, overlap=0):
        squares += float(np.square(_cut(restored, box) - _cut(clean, box)).sum(dtype=np.float64))
    return -10 * math.log10(squares / (3 * width * height)) if squares else math.inf


def _ssim(restored: Image.Image | torch.Tensor, clean: Image.Image | torch.Tensor, width: int, height: int) -> float:
    total = 0.0
    for box in _strips(width, height, overlap=WINDOW - 1):
        left, top, right, bottom = box
        mean = structural_similarity(
            _cut(restored, box), _cut(clean, box),
            channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # over the places where the window lies inside the strip  # fmt: skip
        total += float(mean) * (right - left - WINDOW + 1) * (bottom - top - WINDOW + 1)
    return total / ((width - WINDOW + 1) * (height - WINDOW + 1))


def _cut(image: Image.Image | torch.Tensor, box: tuple[int, int, int, int]) -> np.ndarray:
    """A part (left, top, right, bottom) of an RGB image or a tensor [3, H, W], as floats [3, h, w] in [0, 1]."""
    if isinstance(image, Image.Image):
        return np.asarray(image.crop(box), dtype=np.float32).transpose(2, 0, 1) / 255
    left, top, right, bottom = box
    part = image[:, top:bottom, left:right].detach().cpu()
    return (part.float() / (1 if part.is_floating_point() else 255)).numpy()


def _strips(width: int, height: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) that cover an image along its longer side, each sharing pixels with the next."""
    long, short = max(width, height), min(width, height)
    step = max(1, _STRIP // short - overlap)
    for start in range(0, long - overlap, step):
        end = min(start + step + overlap, long)
        yield (start, 0, end, height) if width > height else (0, start, width, end)


def _check(restored: torch.Tensor, clean: torch.Tensor) -> None:
    for batch in (restored, clean):
        if not (batch.is_floating_point() or batch.dtype == torch.uint8):
            raise ValueError(f"Images must hold floats in [0, 1] or uint8, not {batch.dtype}.")
    if restored.shape != clean.shape or clean.ndim != 4 or clean.shape[1] != 3:
        raise ValueError(
            f"Restored and clean images must be [B, 3, H, W] of one size, not {list(restored.shape)} and "
            f"{list(clean.shape)}."
        )
