"""What do the networks share? Layer norm over channels, the halves of gates, and padding by reflection.

The networks compute in channels-last memory order, where the channels of a pixel lie side by side: layer norm over
them is then one fused pass, and the convolutions need no reordering.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import conv2d


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel of [B, C, H, W]; returns channels-last memory order."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def halves(conv: nn.Conv2d) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weight and bias of the first and of the second half of the output channels.

    Made apart, the halves of a gate lie in memory on their own; cut apart, they are interleaved pixel by pixel, and
    work on so few channels at a time takes longer than the convolution.
    """
    return [_part(conv, number, 2) for number in range(2)]


def halves_depthwise(x: torch.Tensor, expand: nn.Conv2d, depthwise: nn.Conv2d) -> list[torch.Tensor]:
    """Both halves of depthwise(expand(x)), a 1x1 and a 3x3 depthwise convolution: two of [B, C, H, W], see `halves`."""
    return [depthwise_part(x, expand, depthwise, number, 2) for number in range(2)]


def depthwise_part(x: torch.Tensor, expand: nn.Conv2d, depthwise: nn.Conv2d, number: int, count: int) -> torch.Tensor:
    """The channels of depthwise(expand(x)) in `count` equal parts, of which only part `number` is computed."""
    weight, bias = _part(depthwise, number, count)
    return conv2d(conv2d(x, *_part(expand, number, count)), weight, bias, padding=1, groups=len(weight))


def _part(conv: nn.Conv2d, number: int, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    return conv.weight.chunk(count)[number], None if conv.bias is None else conv.bias.chunk(count)[number]


def reflected(start: int, stop: int, size: int) -> torch.Tensor:
    """Indices into an axis of `size` for positions start .. stop - 1, mirrored at both ends as often as it takes.

    The border pixel itself is not repeated, as in `torch.nn.functional.pad(mode="reflect")`.
    """
    positions = torch.arange(start, stop)
    if size == 1:
        return torch.zeros_like(positions)
    period = 2 * (size - 1)
    positions = positions % period
    return torch.minimum(positions, period - positions)


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad [B, C, H, W] by reflection, right and bottom, until `multiple` divides both sides; any size works."""
    height, width = image.shape[-2:]
    padded_height, padded_width = round_up(height, multiple), round_up(width, multiple)
    if padded_height != height:
        image = image.index_select(2, reflected(0, padded_height, height).to(image.device))
    if padded_width != width:
        image = image.index_select(3, reflected(0, padded_width, width).to(image.device))
    return image


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
