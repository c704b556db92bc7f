"""How close is a restored image to the clean one? PSNR and SSIM, as restoration papers report them, on RGB."""

from __future__ import annotations

import torch
from skimage.metrics import structural_similarity

WINDOW = 11  # pixels: the side of SSIM's Gaussian window of deviation 1.5, and of the smallest image it can judge


def psnr(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image over all its pixels and colours.

    Args:
        restored, clean: float tensors [B, 3, H, W] in [0, 1].

    Returns:
        [B], in dB; infinite for equal images.

    Raises:
        ValueError: if the two are no such tensors of one size.
    """
    _check(restored, clean)
    return -10 * (restored.float() - clean.float()).square().mean((1, 2, 3)).log10()


def ssim(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, the mean over its pixels and its three colours.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), with its constants.

    Args:
        restored, clean: float tensors [B, 3, H, W] in [0, 1], no side shorter than WINDOW.

    Returns:
        [B], 1 for equal images.

    Raises:
        ValueError: if the two are no such tensors of one size.
    """
    _check(restored, clean)
    if min(clean.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels.")
    return torch.tensor(
        [
            structural_similarity(
                one.float().cpu().numpy(), other.float().cpu().numpy(), channel_axis=0, data_range=1,
                gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            )
            for one, other in zip(restored, clean, strict=True)
        ]
    )  # fmt: skip


def _check(restored: torch.Tensor, clean: torch.Tensor) -> None:
    if not (restored.is_floating_point() and clean.is_floating_point()):
        raise ValueError(f"Images must hold floats in [0, 1], not {restored.dtype} and {clean.dtype}.")
    if restored.shape != clean.shape or clean.ndim != 4 or clean.shape[1] != 3:
        raise ValueError(
            f"Restored and clean images must be [B, 3, H, W] of one size, not {list(restored.shape)} and "
            f"{list(clean.shape)}."
        )
