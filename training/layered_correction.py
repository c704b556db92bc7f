"""How does layered structure correction learn? By what is paired, and by a discriminator where many answers are right.

Generated pictures come from `training/generated_pairs.py`. The earlier the generator began, the less the true degraded
image determines what it made: L1 and matched features (pix2pixHD, arXiv 1711.11585) are weighed by how late that was,
and the discriminator's opinion by how early.
A conditional PatchGAN (arXiv 1611.07004) with spectral normalisation (arXiv 1802.05957) and hinge losses asks for
flakes, streaks, drops and grain like true ones in all; mean and deviation of the degradation map must stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import leaky_relu, relu
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import Dataset

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from gendeg.structure_correction import LayeredCorrection
from training.pairs import BalancedSampler

_GAIN = 2  # after each layer: spectral normalisation and the rectifier leave half of a signal
_HINGE_WEIGHT = 0.1  # the loop clips the gradients of both sides together; the discriminator must not use up all


class Discriminator(nn.Module):
    """Tells true degraded images from corrected ones, place by place, at two scales.

    Args:
        width: channels of its first layer.
    """

    def __init__(self, width: int = 32):
        super().__init__()

        def down(inputs: int, outputs: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))

        def same(inputs: int, outputs: int, size: int = 3) -> nn.Module:
            return spectral_norm(nn.Conv2d(inputs, outputs, size, padding=size // 2))

        self.fine = nn.ModuleList([down(6, width), down(width, 2 * width), same(2 * width, 2 * width)])
        self.coarse = nn.ModuleList([down(2 * width, 4 * width), same(4 * width, 4 * width)])
        self.heads = nn.ModuleList([same(2 * width, 1, 1), same(4 * width, 1, 1)])
        self.expected = nn.ModuleList(
            [spectral_norm(nn.Embedding(len(DEGRADATIONS), channels)) for channels in (2 * width, 4 * width)]
        )

    def forward(
        self, degraded: torch.Tensor, clean: torch.Tensor, degradation: torch.Tensor, size: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Opinions and features.

        Args:
            degraded, clean: [B, 3, H, W] in [-1, 1].
            degradation: [B], index into DEGRADATIONS.
            size: mu + sigma of the pair, [B]; changes are shown at one size whether they are weak or strong.

        Returns:
            ([B, places], above 0: true; features [B, C, h, w] of each layer).
        """
        x = torch.cat([(degraded - clean) / (2 * size + 0.02)[:, None, None, None], clean], dim=1)
        opinions, features = [], []
        for layers, head, expected in zip((self.fine, self.coarse), self.heads, self.expected, strict=True):
            for layer in layers:
                x = _GAIN * leaky_relu(layer(x), 0.2)
                features.append(x)
            fits = torch.einsum("bchw,bc->bhw", x, expected(degradation))  # projection discriminator, 1802.05637
            opinions.append((head(x)[:, 0] + fits).flatten(1))
        return torch.cat(opinions, dim=1), features


class AdversarialPair(nn.Module):
    """Module and discriminator as the one module that the training loop knows."""

    def __init__(self, module: LayeredCorrection, discriminator: Discriminator):
        super().__init__()
        self.module, self.discriminator = module, discriminator

    def forward(self, losses: Callable[..., Any], batch: dict[str, torch.Tensor]) -> Any:
        """`losses` of this pair and a batch: what several processes average must come through here."""
        return losses(self, batch)

    def parameter_groups(self, discriminator_scale: float) -> list[dict[str, object]]:
        """For `training.loop.train`: the discriminator learns `discriminator_scale` times as fast."""
        betas = (0.5, 0.99)
        return [
            {"params": list(self.module.parameters()), "betas": betas},
            {"params": list(self.discriminator.parameters()), "scale": discriminator_scale, "betas": betas},
        ]


class GeneratedPairs(Dataset):
    """Endless batches of pairs and what was generated of them; a batch depends on the seed and its first index.

    Args:
        pairs: clean, degraded, generated: uint8 [N, 3, size, size]; degradation, mu, sigma, weight: [N]; batches lie on
            their device.
        shares: how often each degradation is drawn, see `training.pairs.BalancedSampler`.
    """

    def __init__(self, pairs: Mapping[str, torch.Tensor], shares: Mapping[str, float], seed: int):
        self.pairs, self.seed = pairs, seed
        self.sampler = BalancedSampler(pairs["degradation"].cpu().numpy(), shares)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Clean, degraded, generated: float [B, 3, size, size] in [-1, 1], half of the batches mirrored; the others
        [B]."""
        rng = np.random.default_rng((self.seed, indices[0]))
        chosen = torch.from_numpy(self.sampler.draw(len(indices), rng))
        batch = {name: values[chosen.to(values.device)] for name, values in self.pairs.items()}
        mirrored = [3] if rng.random() < 0.5 else []
        images = {n: (batch[n].float() / 127.5 - 1).flip(mirrored) for n in ("clean", "degraded", "generated")}
        return batch | images | {"degradation": batch["degradation"].long()}


class LayeredLoss:
    """weight * (L1 + matched features) + (1 - weight) * opinion, moved intensities, and the discriminator's own loss.

    Args:
        paired_weight, intensity_weight, matching_weight, opinion_weight: of the first four, in the order L1,
            intensities, features, opinion. Without the last two no discriminator is asked, and none learns.
    """

    def __init__(
        self,
        paired_weight: float,
        intensity_weight: float,
        matching_weight: float = 0.0,
        opinion_weight: float = 0.0,
    ):
        self.paired_weight, self.matching_weight = paired_weight, matching_weight
        self.opinion_weight, self.intensity_weight = opinion_weight, intensity_weight
        self.asks_discriminator = bool(opinion_weight or matching_weight)

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return model(self._losses, batch)

    def _losses(
        self, model: AdversarialPair, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clean, degraded, generated, weight = (batch[n] for n in ("clean", "degraded", "generated", "weight"))
        noise = torch.randn(len(clean), model.module.config.noise_channels, *clean.shape[2:], device=clean.device)
        corrected = model.module(clean, generated, batch["degradation"], noise).float()
        off = (corrected - degraded).abs().mean((1, 2, 3))
        reached, wanted = (torch.stack(intensity(clean / 2, image / 2)) for image in (corrected, degraded))
        moved = (reached - wanted).abs().sum(0)
        loss = (self.paired_weight * weight * off).mean() + self.intensity_weight * moved.mean()
        with torch.no_grad():
            before, after = ((i - degraded).square().mean((1, 2, 3)) for i in (generated, corrected.clamp(-1, 1)))
            easy = weight >= 0.7
            gain = (10 * (before / after).log10() * easy).sum() / easy.sum().clamp(min=1)
        numbers = {"gain_of_the_easy_30_percent": gain, "off": off.mean(), "moved": moved.mean()}
        if not self.asks_discriminator:
            return loss, numbers
        discriminator, told = model.discriminator, (clean, batch["degradation"], batch["mu"] + batch["sigma"])
        discriminator.requires_grad_(False)
        opinion, features = discriminator(corrected, *told)
        discriminator.requires_grad_(True)
        both = torch.cat([degraded, corrected.detach()])
        opinions, features_of_both = discriminator(both, *(torch.cat([value, value]) for value in told))
        on_true, on_corrected = opinions.float().chunk(2)
        hinge = relu(1 - on_true).mean() + relu(1 + on_corrected).mean()

        true_features = (both.detach().chunk(2)[0] for both in features_of_both)
        unlike = sum((ours - true).abs().mean((1, 2, 3)) for ours, true in zip(features, true_features, strict=True))
        loss = loss + (self.matching_weight * weight * unlike).mean()
        loss = loss - self.opinion_weight * ((1 - weight) * opinion.mean(1)).mean()
        numbers |= {"on_true": on_true.mean(), "on_corrected": on_corrected.mean(), "unlike": (weight * unlike).mean()}
        return loss + _HINGE_WEIGHT * hinge, numbers
