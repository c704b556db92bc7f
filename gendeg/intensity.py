"""How strong is a degradation? The degradation map, its mean and deviation, and their way into the text context.

GenDeg (arXiv 2411.17687), Section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

MU_MAX = 0.7
SIGMA_MAX = 0.4
NUM_BINS = 128
NULL_BIN = NUM_BINS  # the 129th bin: no intensity given


def degradation_map(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """|clean - degraded|, for float tensors of one shape [..., 3, H, W] in [0, 1]."""
    if clean.shape != degraded.shape:
        raise ValueError(f"Clean and degraded image differ in size: {tuple(clean.shape)} and {tuple(degraded.shape)}.")
    return (clean - degraded).abs()


def intensity(clean: torch.Tensor, degraded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population standard deviation of the degradation map, over height, width and channels.

    Args:
        clean, degraded: float tensors [B, 3, H, W] in [0, 1].

    Returns:
        (mu [B], sigma [B]), in the units of the images.
    """
    flat = degradation_map(clean, degraded).flatten(1)
    return flat.mean(1), flat.std(1, unbiased=False)


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


def asked_intensity(
    clean: torch.Tensor,
    degraded: torch.Tensor,
    mu: Sequence[float | None] | None = None,
    sigma: Sequence[float | None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is asked of each image; where that is None, its own intensity, sigma in proportion to an asked mu.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        mu, sigma: asked, one each.

    Returns:
        mu, sigma: [B], at least 0.0001.
    """
    own_mu, own_sigma = (value.clamp(min=1e-4) for value in intensity(clean, degraded))
    asked_mu, asked_sigma = (_given(values, own_mu) for values in (mu, sigma))
    asked_mu = torch.where(asked_mu.isnan(), own_mu, asked_mu).clamp(min=1e-4)
    asked_sigma = torch.where(asked_sigma.isnan(), own_sigma * asked_mu / own_mu, asked_sigma).clamp(min=1e-4)
    return asked_mu, asked_sigma


def _given(values: Sequence[float | None] | None, like: torch.Tensor) -> torch.Tensor:
    """Numbers as a tensor, NaN where there is none."""
    if values is None:
        return torch.full_like(like, torch.nan)
    return like.new_tensor([torch.nan if value is None else value for value in values])


class Nearest:
    """Keeps, of each image of a batch, the version whose intensity is nearest to the asked mu and sigma, [B] each.

    An error of mu counts twice: it is what one sees first.

    Attributes:
        images: [B, 3, H, W], of those that were offered.
    """

    def __init__(self, mu: torch.Tensor, sigma: torch.Tensor):
        self.mu, self.sigma = mu, sigma
        self.miss = torch.full_like(mu, torch.inf)
        self.images: torch.Tensor | None = None

    def offer(self, clean: torch.Tensor, degraded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare new versions [B, 3, H, W] in [0, 1] with the nearest so far; returns their mu and sigma, [B]."""
        mu, sigma = asked_intensity(clean, degraded)
        miss = 2 * (mu - self.mu).abs() + (sigma - self.sigma).abs()
        nearer = (miss < self.miss)[:, None, None, None]
        self.images = degraded if self.images is None else torch.where(nearer, degraded, self.images)
        self.miss = torch.minimum(miss, self.miss)
        return mu, sigma


# How far `match_intensity` may go: beyond, a picture shows it.
_GAIN = (0.7, 1.4)
_EXPONENT = (0.7, 1.5)
_GENTLE = (0.95, 1.05)  # for both, where a picture would show it sooner


def match_intensity(
    clean: torch.Tensor,
    degraded: torch.Tensor,
    mu: Sequence[float | None],
    sigma: Sequence[float | None],
    restrict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    gentle: bool = False,
) -> torch.Tensor:
    """Bring degraded images nearer to the asked intensity by a tone curve of their degradation map.

    A pixel's residual r becomes gain * (m / mean m)^(exponent - 1) * r, with m the mean of |r| over its colours: the
    gain moves mu, an exponent above 1 spares what is little degraded and so raises sigma. Places and colours of the
    degradation stay. Both numbers are bounded, so an intensity that is far away is approached, not reached.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        mu, sigma: asked, one each; None leaves it as it is.
        restrict: what results must obey: brings [B, 3, H, W] of (clean, degraded) back to that.
        gentle: go less far: the scene would show through blur and drops, and what is bright become dark in the dark.

    Returns:
        Degraded images like `degraded`.
    """

    def bounded(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        return (restrict(clean[None], degraded[None])[0] if restrict else degraded).clamp(0, 1)

    gains, exponents = (_GENTLE, _GENTLE) if gentle else (_GAIN, _EXPONENT)
    matched = degraded.clone()
    for i, (asked_mu, asked_sigma) in enumerate(zip(mu, sigma, strict=True)):
        if asked_mu is None and asked_sigma is None:
            continue
        now_mu, now_sigma = (float(v) for v in intensity(clean[i : i + 1], degraded[i : i + 1]))
        asked_mu = now_mu if asked_mu is None else asked_mu
        choice = [1.0] if asked_sigma is None else torch.linspace(*exponents, 17).tolist()
        asked_sigma = now_sigma if asked_sigma is None else asked_sigma
        residual = degraded[i] - clean[i]
        magnitude = residual.abs().mean(0)
        magnitude = (magnitude / magnitude.mean().clamp(min=1e-6)).clamp(min=1e-3)
        best = None
        for exponent in choice:
            shaped = residual * magnitude ** (exponent - 1)
            gain = 1.0
            for _ in range(4):  # values that leave [0, 1] are cut off, so a gain does not move mu in proportion
                candidate = bounded(clean[i], clean[i] + gain * shaped)
                reached = float((candidate - clean[i]).abs().mean())
                gain = min(max(gain * asked_mu / max(reached, 1e-6), gains[0]), gains[1])
            candidate = bounded(clean[i], clean[i] + gain * shaped)
            reached_mu, reached_sigma = (float(v) for v in intensity(clean[i : i + 1], candidate[None]))
            miss = abs(reached_mu - asked_mu) + abs(reached_sigma - asked_sigma)
            if best is None or miss < best[0]:
                best = miss, candidate
        matched[i] = best[1]
    return matched
