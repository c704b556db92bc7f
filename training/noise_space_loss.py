"""What does noise-space adaptation ask of restorer and denoiser? "Denoising as Adaptation" (arXiv 2406.18516).

A denoiser that sees what the restorer makes of a simulated and of a real photograph predicts noise better the better
both are restored (Section 3). Its error goes back through these conditions into the restorer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import nn

MARGIN = 0.1  # of the triplet loss
_EPSILON = 1e-3  # of the Charbonnier loss
_STEPS, _FIRST_BETA, _LAST_BETA = 1000, 1e-6, 1e-2  # linear noise schedule
_TIMES = 1000.0  # the denoiser is told signal shares as times from 0 to this


def draw_signal_shares(count: int, rng: np.random.Generator) -> np.ndarray:
    """gamma of `count` samples: the signal's share of the power, uniform between two neighbours of the schedule.

    Returns:
        Floats in (0, 1), [count]; 1: no noise.
    """
    gamma = np.concatenate([[1.0], np.cumprod(1 - np.linspace(_FIRST_BETA, _LAST_BETA, _STEPS))])
    step = rng.integers(1, _STEPS + 1, count)
    return rng.uniform(gamma[step], gamma[step - 1])


def noised(clean: torch.Tensor, noise: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """sqrt(gamma) clean + sqrt(1 - gamma) noise; images [B, 3, H, W], gamma [B]."""
    gamma = gamma[:, None, None, None]
    return gamma.sqrt() * clean + (1 - gamma).sqrt() * noise


def shuffled(first: torch.Tensor, second: torch.Tensor, swap: torch.Tensor) -> torch.Tensor:
    """Both conditions as one, [B, 6, H, W], in the other order where `swap` ([B], bool) says so.

    A denoiser that cannot tell which of them is the simulated one cannot leave the real one aside.
    """
    swap = swap[:, None, None, None]
    return torch.cat([torch.where(swap, second, first), torch.where(swap, first, second)], dim=1)


def adaptation_weight(weight: float, progress: float) -> float:
    """The noise loss's weight: from 0 at progress 0 to nearly `weight` at 1, where it stays."""
    return weight * (2 / (1 + math.exp(-5 * min(1.0, progress))) - 1)


class Denoiser(nn.Module):
    """Predicts the noise of a clean image, with two restored images as conditions.

    Args:
        unet: nine channels in, three out.
    """

    def __init__(self, unet: UNet2DModel):
        super().__init__()
        self.unet = unet

    def forward(self, noisy: torch.Tensor, conditions: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        """Args: [B, 3, H, W]; [B, 6, H, W]; [B]. Returns the noise, [B, 3, H, W]."""
        return self.unet(torch.cat([noisy, conditions], dim=1), _TIMES * gamma).sample


class Adaptation(nn.Module):
    """Restorer and denoiser as the one module that the training loop knows."""

    def __init__(self, restorer: nn.Module, denoiser: Denoiser):
        super().__init__()
        self.restorer, self.denoiser = restorer, denoiser

    def forward(self, losses: Callable[..., Any], batch: dict[str, torch.Tensor]) -> Any:
        """`losses` of this module and a batch: what several processes average must come through here."""
        return losses(self, batch)


@dataclass(frozen=True)
class AdaptationLoss:
    """Charbonnier loss of the simulated pairs + weight * (noise loss + triplet loss) / 2.

    Attributes:
        weight: of the denoiser's part, once it has faded in; 0: no adaptation.
        shuffle: whether the denoiser's two conditions change places at random.
        contrast: whether the conditions must serve better than those with each other's residuals (triplet loss).
    """

    weight: float = 0.2
    shuffle: bool = True
    contrast: bool = True

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch, and its parts to log.

        Args:
            model: an `Adaptation`.
            batch: degraded, clean, real, target: images [B, 3, H, W] in [0, 1]; target is what is noised, the clean
                image or an unpaired one; noise: Gaussian, of their shape; gamma, progress: [B]; swap: [B], bool.
        """
        return model(self._losses, batch)

    def _losses(
        self, model: Adaptation, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if not self.weight:
            restored = model.restorer(batch["degraded"]).float()
            loss = charbonnier(restored, batch["clean"])
            return loss, {"restoration": loss.detach()}
        inputs = torch.cat([batch["degraded"], batch["real"]])
        restored = model.restorer(inputs).float()
        restoration = charbonnier(restored[: len(batch["clean"])], batch["clean"])
        swap = batch["swap"] & self.shuffle
        conditions = shuffled(*(2 * restored - 1).chunk(2), swap)
        noise, target, gamma = batch["noise"], 2 * batch["target"] - 1, batch["gamma"]
        noisy = noised(target, noise, gamma)
        error = _error(model.denoiser(noisy, conditions, gamma), noise)
        triplet, numbers = torch.zeros(()), {"noise": error.detach().mean()}
        if self.contrast:
            of_simulated, of_real = (restored - inputs).chunk(2)
            negatives = inputs + torch.cat([of_real, of_simulated])
            negatives = shuffled(*(2 * negatives - 1).chunk(2), swap)
            triplet = triplet_loss(error, _error(model.denoiser(noisy, negatives, gamma), noise))
            numbers["triplet"] = triplet.detach()
        weight = adaptation_weight(self.weight, float(batch["progress"].mean()))
        noise_loss = (error.mean() + triplet.to(error)) / 2
        return restoration + weight * noise_loss, {"restoration": restoration.detach(), **numbers}


def charbonnier(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Smooth absolute error of images in [0, 1], as the paper has it: of images in [-1, 1]."""
    return ((2 * (restored - clean)).square() + _EPSILON**2).sqrt().mean()


def triplet_loss(error: torch.Tensor, error_with_negatives: torch.Tensor) -> torch.Tensor:
    """Noise must be predicted better by MARGIN than with wrong residuals; errors [B]."""
    return (error - error_with_negatives + MARGIN).clamp(min=0).mean()


def _error(predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return (predicted.float() - noise).square().mean((1, 2, 3))
