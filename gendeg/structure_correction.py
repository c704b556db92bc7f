"""Structure correction: the module (SCM) that lines a generated image up with its clean one again.

A codec loses fine structure, so that a generated image differs from the clean one by more than its degradation. The SCM
is a NAFNet that sees both images and adds what was lost (GenDeg, arXiv 2411.17687, Section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from restorers.architectures import network_from_state_dict
from restorers.nafnet import NAFNet
from runtime.errors import UserError


class StructureCorrection(NAFNet, ModelMixin, ConfigMixin):
    """A NAFNet with six input and three output channels, under its published parameter names.

    Args:
        width: channels at full resolution.
        enc_blk_nums, middle_blk_num, dec_blk_nums: blocks of each level; the defaults are the published ones.
    """

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
