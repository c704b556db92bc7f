"""How strong is a degradation? The degradation map, its mean and deviation, and their way into the text context.

GenDeg (arXiv 2411.17687), Section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

MU_MAX = 0.7
SIGMA_MAX = 0.4
NUM_BINS = 128
NULL_BIN = NUM_BINS  # the 129th bin: no intensity given


def degradation_map(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """|clean - degraded|, for tensors of one shape [..., 3, H, W]: float in [0, 1], or uint8."""
    if clean.shape != degraded.shape:
        raise ValueError(f"Clean and degraded image differ in size: {tuple(clean.shape)} and {tuple(degraded.shape)}.")
    return torch.maximum(clean, degraded) - torch.minimum(clean, degraded)  # uint8 cannot be negative


def intensity(clean: torch.Tensor, degraded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population standard deviation of the degradation map, over height, width and channels.

    Args:
        clean, degraded: float tensors [B, 3, H, W] in [0, 1].

    Returns:
        (mu [B], sigma [B]), in the units of the images.
    """
    flat = degradation_map(clean, degraded).flatten(1)
    return flat.mean(1), flat.std(1, unbiased=False)


def intensity_of_pair(clean: torch.Tensor, degraded: torch.Tensor) -> tuple[float, float]:
    """The same of one pair [3, H, W], float in [0, 1] or uint8; bytes are counted, so that fifty megapixels fit."""
    if clean.dtype != torch.uint8:
        mu, sigma = intensity(clean[None], degraded[None])
        return float(mu), float(sigma)
    return intensity_of_bytes(degradation_map(clean, degraded))


def intensity_of_bytes(values: torch.Tensor) -> tuple[float, float]:
    """Mean and deviation, in [0, 1], of uint8 values of a degradation map; of any shape."""
    share = torch.bincount(values.flatten(), minlength=256).double() / values.numel()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mu = (share * levels).sum()
    return float(mu), float((share * (levels - mu).square()).sum().sqrt())


def numbers(values: Sequence[float | None]) -> torch.Tensor:
    """Intensities, one for each image, as a tensor [B]; None, what is not asked, as NaN."""
    return torch.tensor([float("nan") if value is None else float(value) for value in values])


def to_bin(value: torch.Tensor, maximum: float) -> torch.Tensor:
    """Index of the right-open bin of width maximum / 128 that holds each value; beyond the range, the last bin.

    Raises:
        ValueError: for a negative value or one that is not a number.
    """
    value = torch.as_tensor(value, dtype=torch.float64)
    if not bool(((value >= 0) & value.isfinite()).all()):
        raise ValueError("An intensity (mu or sigma) must be a finite number of at least 0.")
    # Single precision rounds a bin edge by up to 128 * 2**-24 = 7.6e-6 bins: without the slack, one bin too low.
    return (value / maximum * NUM_BINS + 1e-5).floor().clamp(max=NUM_BINS - 1).long()


class IntensityProjection(ModelMixin, ConfigMixin):
    """Writes (mu, sigma) into the text context that the UNet attends to.

    One-hot bins [B, 2, 129] -> `stats_proj` -> [B, tokens, 2], beside the text embeddings -> `cc_projection`.
    At the start `cc_projection` passes the text through unchanged.

    Args:
        tokens: length of the text context (CLIP: 77).
        width: channels of the text context (CLIP ViT-L/14: 768).
    """

    @register_to_config
    def __init__(self, tokens: int = 77, width: int = 768):
        super().__init__()
        self.stats_proj = nn.Linear(NUM_BINS + 1, tokens)
        self.cc_projection = nn.Linear(width + 2, width)
        with torch.no_grad():
            self.cc_projection.weight[:, :width] = torch.eye(width)
            self.cc_projection.bias.zero_()

    def forward(
        self, text_embeddings: torch.Tensor, mu: torch.Tensor | None = None, sigma: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Join text and intensity.

        Args:
            text_embeddings: [B, tokens, width].
            mu, sigma: [B], at least 0; None, or NaN for single samples, means "not given" (the null bin).

        Returns:
            Context [B, tokens, width].
        """
        batch = text_embeddings.shape[0]
        bins = torch.stack([_bins(mu, MU_MAX, batch), _bins(sigma, SIGMA_MAX, batch)], dim=1)
        one_hot = nn.functional.one_hot(bins, NUM_BINS + 1).to(text_embeddings)
        stats = self.stats_proj(one_hot).transpose(1, 2)
        return self.cc_projection(torch.cat([text_embeddings, stats], dim=-1))


def _bins(value: torch.Tensor | None, maximum: float, batch: int) -> torch.Tensor:
    if value is None:
        return torch.full((batch,), NULL_BIN)
    value = torch.as_tensor(value, dtype=torch.float64).cpu().expand(batch)
    missing = value.isnan()
    return torch.where(missing, NULL_BIN, to_bin(value.masked_fill(missing, 0.0), maximum))


# How far `match_intensity` may go: beyond, a picture shows it.
_GAIN = (0.7, 1.4)
_EXPONENT = (0.7, 1.5)


def match_intensity(
    clean: torch.Tensor, degraded: torch.Tensor, mu: Sequence[float | None], sigma: Sequence[float | None]
) -> torch.Tensor:
    """Bring degraded images nearer to the asked intensity by a tone curve of their degradation map.

    A pixel's residual r becomes gain * (m / mean m)^(exponent - 1) * r, with m the mean of |r| over its colours: the
    gain moves mu, an exponent above 1 spares what is little degraded and so raises sigma. Places and colours of the
    degradation stay. Both numbers are bounded, so an intensity that is far away is approached, not reached.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        mu, sigma: asked, one each; None leaves it as it is.

    Returns:
        Degraded images like `degraded`.
    """
    matched = [image[None] for image in degraded]
    for i, asked in enumerate(zip(mu, sigma, strict=True)):
        if asked == (None, None):
            continue
        x, y = clean[i : i + 1], degraded[i : i + 1]
        mu_asked, sigma_asked = (
            float(own) if value is None else value for value, own in zip(asked, intensity(x, y), strict=True)
        )
        size = (y - x).abs().mean(1, keepdim=True)
        size = (size / size.mean().clamp(min=1e-6)).clamp(min=1e-3)
        lowest = torch.inf
        for exponent in [1.0] if asked[1] is None else torch.linspace(*_EXPONENT, 17).tolist():
            residual, gain = size ** (exponent - 1) * (y - x), 1.0
            for _ in range(5):  # values that leave [0, 1] are cut off, so a gain does not move mu in proportion
                candidate = (x + gain * residual).clamp(0, 1)
                reached_mu, reached_sigma = (float(value) for value in intensity(x, candidate))
                gain = min(max(gain * mu_asked / max(reached_mu, 1e-6), _GAIN[0]), _GAIN[1])
            miss = abs(reached_mu - mu_asked) + abs(reached_sigma - sigma_asked)
            if miss < lowest:
                lowest, matched[i] = miss, candidate
    return torch.cat(matched)
