"""NAFNet: a U-shaped network of gated convolution blocks without activation functions.

Chen et al., "Simple Baselines for Image Restoration" (arXiv 2204.04676), section 4. Parameter names, numbers and
padding are those of the published network, so its checkpoints load strictly and give the same results. With six input
and three output channels it is also the paper's structure correction module (GenDeg, arXiv 2411.17687).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, pad

from restorers.layers import LayerNorm2d, halves, halves_depthwise, round_up
from restorers.whole_image import statistic


class NAFBlock(nn.Module):
    """y = x + beta conv3(SCA(gate(conv2(conv1(LN x))))), then y + gamma conv5(gate(conv4(LN y))); [B, C, H, W] kept."""

    def __init__(self, channels: int):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The same sums in another order: factors on channels go into the weights, and see `halves`.
        first, second = halves_depthwise(self.norm1(x), self.conv1, self.conv2)
        gated, beta, gamma = first * second, self.beta.flatten(), self.gamma.flatten()
        attention = statistic(self, lambda: self.sca(gated))
        weight = self.conv3.weight.flatten(1) * beta[:, None] * attention.flatten(1)[:, None]
        x = x + _linear(gated, weight, self.conv3.bias * beta)
        normed = self.norm2(x)
        first, second = (conv2d(normed, *expand) for expand in halves(self.conv4))
        return x + conv2d(first * second, self.conv5.weight * gamma[:, None, None, None], self.conv5.bias * gamma)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """1x1 convolution of [B, C, H, W] by weights of each image, [B, D, C], and bias [D]: [B, D, H, W]."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.baddbmm(bias, pixels, weight.mT).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class NAFNet(nn.Module):
    """The whole network; the defaults are the published width 64.

    Args:
        img_channel: channels of the input.
        out_channel: channels of the output; default: as many as come in. Only then is the input added to the output.
        width: channels at full resolution; doubled at each of the len(enc_blk_nums) coarser levels.
        enc_blk_nums, middle_blk_num, dec_blk_nums: blocks of each level, finest encoder and coarsest decoder first.

    Attributes:
        arguments: those above, for `NAFNet(**arguments)`.
        channels: of input and output.
        multiple: what height and width are padded to a multiple of.
        overlap: pixels that neighbouring tiles must share for each to see enough: measured, see `restore`.
    """

    architecture = "nafnet"
    overlap = 224

    def __init__(
        self,
        img_channel: int = 3,
        out_channel: int | None = None,
        width: int = 64,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        middle_blk_num: int = 1,
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
    ):
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise ValueError("NAFNet needs as many decoder levels as encoder levels.")
        out_channel = out_channel or img_channel
        self.arguments: dict[str, Any] = {
            "img_channel": img_channel,
            "out_channel": out_channel,
            "width": width,
            "enc_blk_nums": list(enc_blk_nums),
            "middle_blk_num": middle_blk_num,
            "dec_blk_nums": list(dec_blk_nums),
        }
        self.multiple = 2 ** len(enc_blk_nums)
        self.floats_per_pixel = 6 * width + 64
        self.channels = (img_channel, out_channel)
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, out_channel, 3, padding=1)
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        self.ups, self.downs = nn.ModuleList(), nn.ModuleList()
        for blocks in enc_blk_nums:
            self.encoders.append(nn.Sequential(*(NAFBlock(width) for _ in range(blocks))))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, stride=2))
            width *= 2
        self.middle_blks = nn.Sequential(*(NAFBlock(width) for _ in range(middle_blk_num)))
        for blocks in dec_blk_nums:
            self.ups.append(nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)))
            width //= 2
            self.decoders.append(nn.Sequential(*(NAFBlock(width) for _ in range(blocks))))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Degraded [B, img_channel, H, W] in [0, 1] to restored [B, out_channel, H, W], about [0, 1], not clamped.

        Any size: zeros are added right and bottom, as in the published network, and cut off again.
        """
        height, width = image.shape[-2:]
        x = pad(image, (0, round_up(width, self.multiple) - width, 0, round_up(height, self.multiple) - height))
        padded = x = x.contiguous(memory_format=torch.channels_last)
        x = self.intro(x)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
        x = self.ending(x)
        if x.shape[1] == padded.shape[1]:
            x = x + padded
        return x[..., :height, :width]
