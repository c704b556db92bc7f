"""Structure correction: modules that give back to a generated image what its codec lost.

A codec loses fine structure, so that a generated image differs from the clean one by more than its degradation. The
paper's module (SCM) is a NAFNet that sees both images and adds what was lost (GenDeg, arXiv 2411.17687, Section 3.3);
it blurs rain, snow and dark texture. The compact profile's works in layers, and in all six degradations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from torch.nn.functional import pad, pixel_shuffle, silu

from gendeg.degradations import DEGRADATIONS
from restorers.architectures import network_from_state_dict
from restorers.nafnet import NAFNet
from runtime.errors import UserError


class StructureCorrection(NAFNet, ModelMixin, ConfigMixin):
    """The paper's: a NAFNet with six input and three output channels, under its published parameter names.

    Args:
        width: channels at full resolution.
        enc_blk_nums, middle_blk_num, dec_blk_nums: blocks of each level; the defaults are the published ones.
    """

    degradations: Collection[str] = ("haze", "motion_blur", "raindrop")  # that it corrects unless a call says otherwise
    begins_with_detail = False

    @register_to_config
    def __init__(
        self,
        width: int = 64,
        enc_blk_nums: Sequence[int] = (2, 2, 4, 8),
        middle_blk_num: int = 12,
        dec_blk_nums: Sequence[int] = (2, 2, 2, 2),
    ):
        super().__init__(6, 3, width, enc_blk_nums, middle_blk_num, dec_blk_nums)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> StructureCorrection:
        """Build the module these weights belong to; its sizes follow from their names and shapes.

        Raises:
            UserError: if they are not those of a NAFNet with six input and three output channels.
        """
        network = network_from_state_dict(state_dict)
        channels = (network.intro.in_channels, network.ending.out_channels) if isinstance(network, NAFNet) else None
        if channels != (6, 3):
            raise UserError(
                "These weights are no structure correction: that is a NAFNet with 6 input, 3 output channels."
            )
        sizes = {k: v for k, v in network.arguments.items() if k not in ("img_channel", "out_channel")}
        module = cls(**sizes)
        module.load_state_dict(network.state_dict())
        return module.eval()

    def forward(self, clean: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """Clean and generated images [B, 3, H, W] in [-1, 1], any size, to the corrected generated images.

        Not clamped.
        """
        return generated + super().forward(torch.cat([clean, generated], dim=1))

    def correct(self, clean: torch.Tensor, generated: torch.Tensor, *_: object) -> torch.Tensor:
        """`forward`, whatever the degradation and the random generator; see `LayeredCorrection.correct`."""
        return self(clean, generated)


class LayeredCorrection(ModelMixin, ConfigMixin):
    """The compact profile's: says how much of the generated change stays, and what is laid over in which colour.

        y' = x + g (y - x) + a (c - x)

    With clean image x, generated image y (with what detail `gendeg.detail` has found again in it), and for each pixel g
    in [0, 2], a in [-1, 1] and a colour c. So the scene comes from the photograph itself, in all its detail, and a
    flake is opaque and white where it ought to be. A small UNet sees both images and noise, from which it makes the
    grain and the edges that the codec has lost; scales and shifts of its channels tell it the degradation. Untrained
    it leaves the generated image as it is.

    Args:
        widths: channels at full, half, quarter ... resolution.
        noise_channels: of white noise that it sees beside the images.
        degradations: what it is used for, unless it is asked for elsewhere; it learns from all.
    """

    begins_with_detail = True  # with what `gendeg.detail` has found again

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 96),
        noise_channels: int = 2,
        degradations: Sequence[str] = tuple(DEGRADATIONS),
    ):
        super().__init__()
        pairs = list(pairwise(widths))
        self.first = nn.Conv2d(6 + noise_channels, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_Block(width) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.ups = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.decoders = nn.ModuleList(_Block(fine) for fine, _ in pairs)
        self.last = nn.Conv2d(widths[0], 5, 3, padding=1)
        nn.init.zeros_(self.last.weight), nn.init.zeros_(self.last.bias)

    def forward(
        self, clean: torch.Tensor, generated: torch.Tensor, degradation: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """The corrected generated images, not clamped.

        Args:
            clean, generated: [B, 3, H, W] in [-1, 1], any size.
            degradation: [B], index into DEGRADATIONS.
            noise: standard normal, [B, noise_channels, H, W].
        """
        height, width = clean.shape[2:]
        multiple = 2 ** len(self.downs)
        seen = torch.cat([clean, generated - clean, noise], dim=1)
        x = self.first(pad(seen, (0, -width % multiple, 0, -height % multiple), mode="replicate"))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=False):
            skips.append(encoder(x, degradation))
            x = down(skips[-1])
        x = self.encoders[-1](x, degradation)
        for decoder, up in zip(reversed(self.decoders), reversed(self.ups), strict=True):
            x = decoder(pixel_shuffle(up(x), 2) + skips.pop(), degradation)
        layers = self.last(x)[..., :height, :width].tanh()
        kept, opacity, colour = 1 + layers[:, :1], layers[:, 1:2], layers[:, 2:]
        return clean + kept * (generated - clean) + opacity * (colour - clean)

    @property
    def degradations(self) -> Collection[str]:
        return self.config.degradations

    def correct(
        self,
        clean: torch.Tensor,
        generated: torch.Tensor,
        degradation: str,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """`forward` for images of one degradation, by its name; `generator`, or one each, draws the noise."""
        noise = self.config.noise_channels, *clean.shape[2:]
        noise = randn_tensor((len(clean), *noise), generator, clean.device, clean.dtype)
        number = torch.full((len(clean),), list(DEGRADATIONS).index(degradation), device=clean.device)
        return self(clean, generated, number, noise)


class _Block(nn.Module):
    """Two convolutions beside a shortcut; between them each channel's scale and shift depend on the degradation."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.modulation = nn.Embedding(len(DEGRADATIONS), 2 * width)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, x: torch.Tensor, degradation: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(degradation)[..., None, None].chunk(2, dim=1)
        return x + self.conv2(silu(self.conv1(silu(x)) * (1 + scale) + shift))
