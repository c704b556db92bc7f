"""The compact profile's codec: image <-> latent, eight times smaller on each side.

Stands where Stable Diffusion's AutoencoderKL stands in the paper's profile. Every 8x8x3 patch is projected on its
principal components (a linear shortcut that alone reconstructs well), and convolutional branches beside it, which
start at zero, learn what neighbouring patches tell about each other.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PATCH = 8


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class _ResBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = _zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(nn.functional.silu(self.conv1(nn.functional.silu(x))))


class PatchCodec(ModelMixin, ConfigMixin):
    """Deterministic autoencoder with latents of about unit variance.

    Args:
        latent_channels: numbers kept of each patch's 192.
        width: channels of the branches at the latent's resolution (halved at each finer one).
        depth: residual blocks of each branch at the latent's resolution.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 48, width: int = 128, depth: int = 3, scaling_factor: float = 1.0):
        super().__init__()
        patch_values = 3 * PATCH * PATCH
        self.project = nn.Conv2d(patch_values, latent_channels, 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width // 2, 3, padding=1),
            _ResBlock(width // 2),
            nn.Conv2d(width // 2, width, 2, stride=2),
            *(_ResBlock(width) for _ in range(depth)),
            _zero(nn.Conv2d(width, latent_channels, 3, padding=1)),
        )
        self.unproject = nn.Conv2d(latent_channels, patch_values, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            *(_ResBlock(width) for _ in range(depth)),
            nn.Conv2d(width, 2 * width, 1),
            nn.PixelShuffle(2),
            _ResBlock(width // 2),
            nn.Conv2d(width // 2, width, 1),
            nn.PixelShuffle(2),
            _ResBlock(width // 4),
            _zero(nn.Conv2d(width // 4, 12, 3, padding=1)),
            nn.PixelShuffle(2),
        )

    @apply_forward_hook  # an offloaded codec comes to the GPU for this
    def encode(self, images: torch.Tensor) -> AutoencoderTinyOutput:
        """Images [B, 3, H, W] in [-1, 1], H and W multiples of 8, to `.latents` [B, C, H / 8, W / 8]."""
        return AutoencoderTinyOutput(latents=self.project(pixel_unshuffle(images, PATCH)) + self.encoder(images))

    @apply_forward_hook
    def decode(self, latents: torch.Tensor) -> DecoderOutput:
        """Latents [B, C, H / 8, W / 8] to `.sample`: images [B, 3, H, W], about [-1, 1], not clamped."""
        return DecoderOutput(sample=pixel_shuffle(self.unproject(latents), PATCH) + self.decoder(latents))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(images).latents).sample

    @torch.no_grad()
    def initialise_from(self, images: torch.Tensor) -> None:
        """Set the linear shortcut to the whitened principal components of the patches of `images` [B, 3, H, W]."""
        patches = pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = patches.mean(0)
        variances, components = torch.linalg.eigh(torch.cov((patches - mean).T))
        components = components.flip(1)[:, : self.config.latent_channels]
        deviations = variances.flip(0)[: self.config.latent_channels].sqrt()
        self.project.weight.copy_((components / deviations).T[..., None, None])
        self.project.bias.copy_(-(components / deviations).T @ mean)
        self.unproject.weight.copy_((components * deviations)[..., None, None])
        self.unproject.bias.copy_(mean)
