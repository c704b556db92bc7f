"""The compact profile's codec: image <-> latent, eight times smaller on each side.

Stands where Stable Diffusion's AutoencoderKL stands in the paper's profile. Every 8x8x3 patch is projected on its
principal components (a linear shortcut that alone reconstructs well), and convolutional branches beside it, which
start at zero, learn what neighbouring patches tell about each other.

The patches are those of a time-domain lapped transform (Tran, Liang and Tu, "Lapped transform via time-domain pre- and
post-filtering", IEEE Transactions on Signal Processing 51, 2003): an orthogonal filter across the patches' borders
comes before the projection, its inverse after it. What a generator gets wrong in a latent then fades out over 16
pixels instead of ending in a square of 8, and fewer components hold more of an image.
"""

from __future__ import annotations

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PATCH = 8


def lapping() -> torch.Tensor:
    """The filter across a border, of the type-II lapped orthogonal transform: orthogonal, [PATCH, PATCH].

    It leaves what is symmetric about the border alone; at an image's own border, mirrored, there is nothing to do.
    """
    half = PATCH // 2
    index, unit = torch.arange(half).double() + 0.5, torch.eye(half).double()
    dct2 = torch.cos(math.pi / half * index * index.floor()[:, None]) * math.sqrt(2 / half)
    dct2[0] /= math.sqrt(2)
    dct4 = torch.cos(math.pi / half * index * index[:, None]) * math.sqrt(2 / half)
    flip = unit.flip(0)
    butterfly = torch.cat([torch.cat([unit, flip], 1), torch.cat([flip, -unit], 1)]) / math.sqrt(2)
    return (butterfly @ torch.block_diag(unit, flip @ dct2.T @ dct4 @ flip) @ butterfly).float()


def _across_borders(images: torch.Tensor, filtering: torch.Tensor) -> torch.Tensor:
    """`filtering`, [PATCH, PATCH], over the pixels around every border between two patches of [B, 3, H, W]."""
    half = PATCH // 2
    for _ in range(2):
        images = images.mT
        inner = images[..., half:-half]
        inner = inner.unflatten(-1, (inner.shape[-1] // PATCH, PATCH)) @ filtering.to(images).mT
        images = torch.cat([images[..., :half], inner.flatten(-2), images[..., -half:]], -1)
    return images


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
        self.register_buffer("lapping", lapping())
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
        return AutoencoderTinyOutput(latents=self.project(self._patches(images)) + self.encoder(images))

    @apply_forward_hook
    def decode(self, latents: torch.Tensor) -> DecoderOutput:
        """Latents [B, C, H / 8, W / 8] to `.sample`: images [B, 3, H, W], about [-1, 1], not clamped."""
        patches = pixel_shuffle(self.unproject(latents), PATCH)
        return DecoderOutput(sample=_across_borders(patches, self.lapping.mT) + self.decoder(latents))

    def _patches(self, images: torch.Tensor) -> torch.Tensor:
        return pixel_unshuffle(_across_borders(images, self.lapping), PATCH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(images).latents).sample

    @torch.no_grad()
    def initialise_from(self, images: torch.Tensor) -> None:
        """Set the linear shortcut to the whitened principal components of the patches of `images` [B, 3, H, W]."""
        patches = self._patches(images).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = patches.mean(0)
        variances, components = torch.linalg.eigh(torch.cov((patches - mean).T))
        components = components.flip(1)[:, : self.config.latent_channels]
        deviations = variances.flip(0)[: self.config.latent_channels].sqrt()
        self.project.weight.copy_((components / deviations).T[..., None, None])
        self.project.bias.copy_(-(components / deviations).T @ mean)
        self.unproject.weight.copy_((components * deviations)[..., None, None])
        self.unproject.bias.copy_(mean)
