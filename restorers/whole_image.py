"""How is a part of an image treated as the whole image is? What a network draws from all pixels is drawn once.

Channel attention that averages over the image (NAFNet, arXiv 2204.04676), attention between channels over all pixels
(Restormer, arXiv 2111.09881) and prompts mixed by the image's mean (PromptIR, arXiv 2306.13090) would differ from tile
to tile, and so would the tiles' brightness and colour.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token

import torch
from torch import nn

_current: ContextVar[WholeImage | None] = ContextVar("whole_image", default=None)


class WholeImage:
    """`with WholeImage() as whole:` every call of a network in the same thread is about one and the same image.

    The first call, with a view of the whole image, decides every `statistic`; later ones, with parts, use those.

    Attributes:
        part: (top, bottom, left, right) of what the network is called with, in heights and widths of the image: all of
            it is (0, 1, 0, 1). What is mirrored outside the image lies beyond 1.
    """

    def __init__(self) -> None:
        self.part = (0.0, 1.0, 0.0, 1.0)
        self._statistics: dict[nn.Module, torch.Tensor] = {}

    def __enter__(self) -> WholeImage:
        self._token: Token[WholeImage | None] = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def statistic(layer: nn.Module, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `compute` draws from all pixels that the layer is given, or drew from the whole image."""
    whole = _current.get()
    if whole is None:
        return compute()
    if layer not in whole._statistics:
        whole._statistics[layer] = compute()
    return whole._statistics[layer]


def part() -> tuple[float, float, float, float]:
    """`WholeImage.part`; everything where none is in force."""
    whole = _current.get()
    return whole.part if whole else (0.0, 1.0, 0.0, 1.0)
