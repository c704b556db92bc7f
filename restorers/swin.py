"""SwinRestorer: a Swin encoder from timm and a light convolutional decoder that gathers all its levels.

The encoder (Liu et al., "Swin Transformer", arXiv 2103.14030) sees the image as 4x4 patches at four resolutions. The
decoder goes back up by bilinear steps and NAFNet's blocks, and takes fine detail from a convolutional stem at full and
half resolution, which knows no patches: so no patch borders show in the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from restorers.layers import LayerNorm2d, pad_to_multiple
from restorers.nafnet import NAFBlock
from runtime.errors import UserError
from runtime.torchvision_free import import_module

PATCH = 4
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which pretrained encoders expect


class SwinRestorer(nn.Module):
    """The whole network; the defaults are a compact one with encoder weights of its own.

    Args:
        encoder: name of a timm Swin model with patches of 4 pixels.
        encoder_kwargs: what to change about it: embed_dim, depths, num_heads, window_size, mlp_ratio, ...
        stem_width: channels of the decoder at full resolution; half resolution has twice as many.
        decoder_width: channels of the decoder at the encoder's resolutions.
        decoder_blocks: NAFNet's blocks at each of the decoder's six resolutions; the stem has one at each of two.
        pretrained: fetch timm's weights of this encoder from the Hugging Face Hub.

    Attributes:
        arguments: those above but the last, for `SwinRestorer(**arguments)`.
        channels: of input and output.
        multiple: what height and width are padded to a multiple of, so that every attention window is full. Train on
            crops of this size or multiples of it, or mirrored content is what the network learns from.
        overlap: pixels that neighbouring tiles must share for each to see enough: measured, see `restore`.

    Raises:
        UserError: if timm is not installed, knows no such encoder, or cannot fetch its weights.
    """

    architecture = "swin"
    overlap = 128
    channels = (3, 3)

    def __init__(
        self,
        encoder: str = "swin_tiny_patch4_window7_224",
        encoder_kwargs: Mapping[str, Any] | None = None,
        stem_width: int = 16,
        decoder_width: int = 64,
        decoder_blocks: int = 2,
        pretrained: bool = False,
    ):
        super().__init__()
        if encoder_kwargs is None and not pretrained:
            encoder_kwargs = {"embed_dim": 40, "depths": (2, 2, 4, 2), "num_heads": (2, 4, 8, 8), "window_size": 4}
        encoder_kwargs = {
            key: list(value) if isinstance(value, tuple) else value for key, value in (encoder_kwargs or {}).items()
        }
        self.arguments: dict[str, Any] = {
            "encoder": encoder,
            "encoder_kwargs": encoder_kwargs,
            "stem_width": stem_width,
            "decoder_width": decoder_width,
            "decoder_blocks": decoder_blocks,
        }
        self.encoder = _timm_encoder(encoder, encoder_kwargs, pretrained)
        channels = self.encoder.feature_info.channels()
        windows = {size for name, module in self.encoder.named_modules() for size in getattr(module, "window_size", ())}
        self.multiple = PATCH * 2 ** (len(channels) - 1) * max(windows)
        if any(max(windows) % window for window in windows) or self.encoder.feature_info.reduction()[0] != PATCH:
            raise UserError("SwinRestorer needs an encoder with patches of 4 pixels and one window size.")
        self.floats_per_pixel = 10 * stem_width + (9 * decoder_width + 20 * channels[0]) // PATCH**2

        def blocks(width: int) -> nn.Sequential:
            return nn.Sequential(*(NAFBlock(width) for _ in range(decoder_blocks)))

        self.register_buffer("mean", torch.tensor(_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).reshape(1, 3, 1, 1), persistent=False)
        self.stem = nn.Sequential(nn.Conv2d(3, stem_width, 3, padding=1), NAFBlock(stem_width))
        self.stem_half = nn.Sequential(nn.Conv2d(stem_width, 2 * stem_width, 2, stride=2), NAFBlock(2 * stem_width))
        self.laterals = nn.ModuleList(
            nn.Sequential(LayerNorm2d(count), nn.Conv2d(count, decoder_width, 1)) for count in channels
        )
        self.levels = nn.ModuleList(blocks(decoder_width) for _ in channels)
        self.to_half = nn.Conv2d(decoder_width, 2 * stem_width, 1)
        self.blocks_half = blocks(2 * stem_width)
        self.to_full = nn.Conv2d(2 * stem_width, stem_width, 1)
        self.blocks_full = blocks(stem_width)
        self.head = nn.Conv2d(stem_width, 3, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # training starts from the image itself
        nn.init.zeros_(self.head.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Degraded [B, 3, H, W] in [0, 1] to restored [B, 3, H, W], about [0, 1], not clamped.

        Any size: the image is padded by reflection, right and bottom, and cut again.
        """
        height, width = image.shape[-2:]
        image = pad_to_multiple(image, self.multiple).contiguous(memory_format=torch.channels_last)
        normalised = (image - self.mean) / self.std
        fine = self.stem(normalised)
        half = self.stem_half(fine)
        features = [feature.permute(0, 3, 1, 2) for feature in self.encoder(normalised)]
        x = None
        for feature, lateral, level in reversed(list(zip(features, self.laterals, self.levels, strict=True))):
            lateral_x = lateral(feature)
            x = level(lateral_x if x is None else _double(x) + lateral_x)
        x = self.blocks_half(_double(self.to_half(x)) + half)
        x = self.blocks_full(_double(self.to_full(x)) + fine)
        return (self.head(x) + image)[..., :height, :width]


def _double(x: torch.Tensor) -> torch.Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear")


def _timm_encoder(name: str, kwargs: Mapping[str, Any], pretrained: bool) -> nn.Module:
    """A timm Swin without its head, for any image size that its windows divide."""
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise UserError("The Swin restorer needs timm: pip install timm.") from error
    settings = {"strict_img_size": False, "always_partition": True, "drop_path_rate": 0.0, **kwargs}
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **settings)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise UserError(f"timm cannot build the Swin encoder {name!r} with {dict(kwargs)}: {error}") from error
    except OSError as error:
        raise UserError(f"The pretrained weights of {name!r} could not be fetched from the Hub: {error}") from error
