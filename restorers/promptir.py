"""PromptIR: a U-shaped transformer with attention between channels, whose decoder is told the degradation by prompts.

Potlapalli et al., "PromptIR: Prompting for All-in-One Blind Image Restoration" (arXiv 2306.13090), section 3; its
blocks are those of Restormer (arXiv 2111.09881). Parameter names and numbers are those of the published network, so
its checkpoints load strictly and give the same results.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import affine_grid, gelu, grid_sample, normalize

from restorers.layers import LayerNorm2d, depthwise_part, halves_depthwise, pad_to_multiple
from restorers.whole_image import part, statistic


def _named(name: str, layer: nn.Module) -> nn.Sequential:
    """A layer under the name that its parameters have in the published network."""
    return nn.Sequential(OrderedDict({name: layer}))


class ChannelAttention(nn.Module):
    """Attention between the channels of each head, over all pixels (MDTA); [B, C, H, W] kept.

    The attention matrix and the output projection are both C x C and act on the values one after the other, so they
    are multiplied first and the values, which are large, are visited once.
    """

    def __init__(self, channels: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixing = statistic(self, lambda: self._mixing(x))
        out = self._project(x, 2).permute(0, 2, 3, 1).flatten(1, 2) @ mixing
        if self.project_out.bias is not None:
            out = out + self.project_out.bias
        return out.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    def _project(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """Queries (0), keys (1) or values (2), [B, C, H, W]."""
        return depthwise_part(x, self.qkv, self.qkv_dwconv, number, 3)

    def _mixing(self, x: torch.Tensor) -> torch.Tensor:
        """How much of each channel's values goes into each channel of the output, [B, C, C]."""
        batch, channels = x.shape[:2]
        by_head = (batch, self.heads, channels // self.heads, -1)
        q, k = (self._project(x, number).permute(0, 2, 3, 1).flatten(1, 2) for number in (0, 1))  # [B, H W, C]
        products = q.mT.reshape(by_head) @ normalize(k, dim=1).mT.reshape(by_head).mT
        lengths = q.norm(dim=1).clamp(min=1e-12).reshape(by_head)
        attention = (products / lengths * self.temperature).softmax(dim=-1)  # [B, heads, C / heads, C / heads]
        project = self.project_out.weight.reshape(channels, self.heads, -1).transpose(0, 1)
        return (project @ attention).permute(0, 1, 3, 2).reshape(batch, channels, channels)


class GatedFeedForward(nn.Module):
    """gelu(half of the hidden channels) times the other half (GDFN); [B, C, H, W] kept."""

    def __init__(self, channels: int, expansion: float, bias: bool):
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = halves_depthwise(x, self.project_in, self.dwconv)
        return self.project_out(gelu(first) * second)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); [B, C, H, W] kept."""

    def __init__(self, channels: int, heads: int, expansion: float, bias: bool):
        super().__init__()
        self.norm1 = _named("body", LayerNorm2d(channels, eps=1e-5))
        self.attn = ChannelAttention(channels, heads, bias)
        self.norm2 = _named("body", LayerNorm2d(channels, eps=1e-5))
        self.ffn = GatedFeedForward(channels, expansion, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Prompt(nn.Module):
    """Learned maps, mixed according to the mean of the features and resized to them.

    Features [B, C, H, W] to a prompt [B, dim, H, W].
    """

    def __init__(self, dim: int, length: int, size: int, channels: int):
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, length, dim, size, size))
        self.linear_layer = nn.Linear(channels, length)
        self.conv3x3 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = statistic(self, lambda: self.linear_layer(x.mean(dim=(-2, -1))).softmax(dim=1))
        prompt = torch.einsum("bl,ldhw->bdhw", weights, self.prompt_param[0].to(weights.dtype))
        top, bottom, left, right = part()  # the maps are laid over the whole image, of which this may be a tile
        view = torch.tensor([[right - left, 0, right + left - 1], [0, bottom - top, bottom + top - 1]], device=x.device)
        grid = affine_grid(view.expand(len(x), 2, 3), [len(x), 1, *x.shape[-2:]], align_corners=False)
        prompt = grid_sample(prompt.float(), grid, padding_mode="border", align_corners=False).to(prompt.dtype)
        return self.conv3x3(prompt.contiguous(memory_format=torch.channels_last))


def _down(channels: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
    return _named("body", nn.Sequential(conv, nn.PixelUnshuffle(2)))


def _up(channels: int) -> nn.Module:
    conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
    return _named("body", nn.Sequential(conv, nn.PixelShuffle(2)))


class PromptIR(nn.Module):
    """The whole network; the defaults are the published configuration.

    Args:
        inp_channels, out_channels: of the images. The input is added to the output, so they must agree.
        dim: channels at full resolution; doubled at each of the three coarser levels.
        num_blocks: transformer blocks of the four levels, finest first (the first three in encoder and decoder).
        num_refinement_blocks: blocks at full resolution at the end.
        heads: attention heads of the four levels.
        ffn_expansion_factor: hidden channels of the feed-forward part, relative to its input.
        bias: whether the convolutions have one.
        prompt_dims, prompt_sizes, prompt_len: channels and sides of the prompts' maps, finest level first, and how
            many maps each has.
        unused_layers: also hold the layers that the published checkpoints carry but that the network never uses.

    Attributes:
        arguments: those above, for `PromptIR(**arguments)`.
        channels: of input and output.
        multiple: what height and width are padded to a multiple of.
        overlap: pixels that neighbouring tiles must share for each to see enough: measured, see `restore`.
    """

    architecture = "promptir"
    multiple = 8
    overlap = 160

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        prompt_dims: Sequence[int] = (64, 128, 320),
        prompt_sizes: Sequence[int] = (64, 32, 16),
        prompt_len: int = 5,
        unused_layers: bool = True,
    ):
        super().__init__()
        if inp_channels != out_channels:
            raise ValueError("PromptIR adds its input to its output: both need the same number of channels.")
        self.arguments: dict[str, Any] = {
            "inp_channels": inp_channels,
            "out_channels": out_channels,
            "dim": dim,
            "num_blocks": list(num_blocks),
            "num_refinement_blocks": num_refinement_blocks,
            "heads": list(heads),
            "ffn_expansion_factor": ffn_expansion_factor,
            "bias": bias,
            "prompt_dims": list(prompt_dims),
            "prompt_sizes": list(prompt_sizes),
            "prompt_len": prompt_len,
            "unused_layers": unused_layers,
        }
        self.floats_per_pixel = round(2 * dim * (3 + 5 * ffn_expansion_factor))

        def block(channels: int, heads: int) -> TransformerBlock:
            return TransformerBlock(channels, heads, ffn_expansion_factor, bias)

        def level(channels: int, heads: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(block(channels, heads) for _ in range(count)))

        dims = [dim, 2 * dim, 4 * dim, 8 * dim]
        self.channels = (inp_channels, out_channels)
        self.patch_embed = _named("proj", nn.Conv2d(inp_channels, dim, 3, padding=1, bias=False))
        self.prompt1, self.prompt2, self.prompt3 = (
            Prompt(prompt_dims[i], prompt_len, prompt_sizes[i], dims[i + 1]) for i in range(3)
        )
        self.encoder_level1 = level(dims[0], heads[0], num_blocks[0])
        self.down1_2 = _down(dims[0])
        self.encoder_level2 = level(dims[1], heads[1], num_blocks[1])
        self.down2_3 = _down(dims[1])
        self.encoder_level3 = level(dims[2], heads[2], num_blocks[2])
        self.down3_4 = _down(dims[2])
        self.latent = level(dims[3], heads[3], num_blocks[3])

        self.noise_level3 = block(dims[3] + prompt_dims[2], heads[2])
        self.reduce_noise_level3 = nn.Conv2d(dims[3] + prompt_dims[2], dims[2], 1, bias=bias)
        self.up4_3 = _up(dims[2])
        self.reduce_chan_level3 = nn.Conv2d(dims[1] + dims[2], dims[2], 1, bias=bias)
        self.decoder_level3 = level(dims[2], heads[2], num_blocks[2])

        self.noise_level2 = block(dims[2] + prompt_dims[1], heads[2])
        self.reduce_noise_level2 = nn.Conv2d(dims[2] + prompt_dims[1], dims[2], 1, bias=bias)
        self.up3_2 = _up(dims[2])
        self.reduce_chan_level2 = nn.Conv2d(2 * dims[1], dims[1], 1, bias=bias)
        self.decoder_level2 = level(dims[1], heads[1], num_blocks[1])

        self.noise_level1 = block(dims[1] + prompt_dims[0], heads[2])
        self.reduce_noise_level1 = nn.Conv2d(dims[1] + prompt_dims[0], dims[1], 1, bias=bias)
        self.up2_1 = _up(dims[1])
        self.decoder_level1 = level(dims[1], heads[0], num_blocks[0])
        self.refinement = level(dims[1], heads[0], num_refinement_blocks)
        self.output = nn.Conv2d(dims[1], out_channels, 3, padding=1, bias=bias)
        if unused_layers:
            self._add_unused_layers(dims, prompt_dims, bias)

    def _add_unused_layers(self, dims: Sequence[int], prompt_dims: Sequence[int], bias: bool) -> None:
        """The layers that published checkpoints carry for nothing; without them these would not load strictly."""
        reduced = (prompt_dims[0], prompt_dims[1], prompt_dims[2] * 4 // 5)
        for number in range(3):
            chnl_reduce = nn.Conv2d(prompt_dims[number], reduced[number], 1, bias=bias)
            reduce_noise_channel = nn.Conv2d(dims[number] + reduced[number], dims[number], 1, bias=bias)
            self.add_module(f"chnl_reduce{number + 1}", chnl_reduce)
            self.add_module(f"reduce_noise_channel_{number + 1}", reduce_noise_channel)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Degraded [B, 3, H, W] in [0, 1] to restored [B, 3, H, W], about [0, 1], not clamped.

        Any size: the image is padded by reflection, right and bottom, to a multiple of 8, and cut again.
        """
        height, width = image.shape[-2:]
        image = pad_to_multiple(image, self.multiple).contiguous(memory_format=torch.channels_last)
        level1 = self.encoder_level1(self.patch_embed(image))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.latent(self.down3_4(level3))

        x = self.reduce_noise_level3(self.noise_level3(torch.cat([x, self.prompt3(x)], dim=1)))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(x), level3], dim=1)))
        x = self.reduce_noise_level2(self.noise_level2(torch.cat([x, self.prompt2(x)], dim=1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], dim=1)))
        x = self.reduce_noise_level1(self.noise_level1(torch.cat([x, self.prompt1(x)], dim=1)))
        x = self.refinement(self.decoder_level1(torch.cat([self.up2_1(x), level1], dim=1)))
        return (self.output(x) + image)[..., :height, :width]
