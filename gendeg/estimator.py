"""What is wrong with this photograph, and how much? A small network names the degradation and estimates its intensity.

So a real photograph can say what is asked of the generator: make it like that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn
from torch.nn.functional import silu, softplus

from gendeg.degradations import DEGRADATIONS
from gendeg.photos import SHORT_SIDE
from runtime.errors import UserError
from runtime.images import IN_TURN, open_image, upright
from runtime.paths import ASSETS

BUNDLED = ASSETS / "checkpoints" / "estimator"
CLEAN = "clean"
KINDS = (*DEGRADATIONS, CLEAN)
_WINDOW = 128  # pixels: the size of the crops that it has learned from
_GROUPS = 8


@dataclass(frozen=True)
class Estimate:
    """What a photograph shows.

    Attributes:
        degradation: by name; None: it looks clean.
        mu, sigma: of its degradation map, as if the clean photograph were known, at a short side of 256 pixels; 0 where
            it looks clean.
        probabilities: of every degradation, by name, and of "clean".
    """

    degradation: str | None
    mu: float
    sigma: float
    probabilities: dict[str, float]

    def __str__(self) -> str:
        """A sentence for people."""
        share = max(self.probabilities.values())
        if self.degradation is None:
            return f"It looks clean ({share:.0%})."
        label = DEGRADATIONS[self.degradation].label.lower()
        return f"It looks like {label} ({share:.0%}), μ about {self.mu:.2f}, σ about {self.sigma:.2f}."


class DegradationEstimator(ModelMixin, ConfigMixin):
    """Residual convolutions at ever coarser sizes; of each size, mean and deviation of every channel over all places.

    Args:
        widths: channels at a quarter, an eighth ... of the resolution.
        blocks: at each resolution.
    """

    @register_to_config
    def __init__(self, widths: Sequence[int] = (48, 96, 128), blocks: int = 2):
        super().__init__()
        self.first = nn.Conv2d(3, widths[0], 6, stride=4, padding=1)
        self.levels = nn.ModuleList(nn.Sequential(*(_Block(width) for _ in range(blocks))) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.norm = nn.LayerNorm(2 * sum(widths))
        self.kind = nn.Linear(2 * sum(widths), len(KINDS))
        self.intensity = nn.Linear(2 * sum(widths), 2 * len(DEGRADATIONS))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W] in [-1, 1] to (logits of KINDS [B, 7], mu and sigma of each degradation [B, 6, 2])."""
        features = self.features(images)
        return self.kind(features), softplus(self.intensity(features) - 2).unflatten(1, (-1, 2))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What both answers are read from: images [B, 3, H, W] in [-1, 1] to [B, 2 * sum(widths)]."""
        x, statistics = self.first(images), []
        for number, level in enumerate(self.levels):
            x = level(self.downs[number - 1](x) if number else x)
            statistics += [x.mean((2, 3)), (x.float().var((2, 3)) + 1e-5).sqrt().to(x.dtype)]
        return self.norm(torch.cat(statistics, dim=1))

    @torch.inference_mode()
    def estimate(self, image: Image.Image) -> Estimate:
        """What a photograph of any size shows: from windows all over it, at the scale of mu and sigma."""
        windows = _windows(image).to(self.device, self.dtype)
        logits, intensities = self(windows)
        probabilities = logits.float().softmax(1).mean(0)
        kind = KINDS[int(probabilities.argmax())]
        named = dict(zip(KINDS, probabilities.tolist(), strict=True))
        if kind == CLEAN:
            return Estimate(None, 0.0, 0.0, named)
        mus, sigmas = intensities.float()[:, KINDS.index(kind)].T
        mu = mus.mean()
        sigma = ((sigmas**2 + mus**2).mean() - mu**2).clamp(min=0).sqrt()  # of all windows' maps together
        return Estimate(kind, float(mu), float(sigma), named)


@cache
def load_estimator(folder: Path = BUNDLED) -> DegradationEstimator:
    """The bundled estimator, or that in another folder, in float32 on the CPU.

    Raises:
        UserError: if there is none.
    """
    try:
        return DegradationEstimator.from_pretrained(folder, local_files_only=True).float().eval()
    except (OSError, ValueError) as error:
        raise UserError(f"There is no estimator in {folder}. Train one: python -m training.estimator.") from error


def estimate_file(path: str) -> Estimate:
    """What an image file shows, by the bundled estimator.

    Raises:
        UserError: if it cannot be opened.
    """
    with IN_TURN:
        return load_estimator().estimate(open_image(path))


def _windows(image: Image.Image) -> torch.Tensor:
    """[N, 3, 128, 128] in [-1, 1]: evenly spread over the photograph, which they overlap by half or more."""
    image = upright(image).convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    # What is four times as long as wide, a screenshot of a page, say, is seen in parts of it.
    width, height = (min(4 * SHORT_SIDE, max(SHORT_SIDE, round(side * scale))) for side in image.size)
    array = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3))
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 127.5 - 1
    tops, lefts = (_starts(side) for side in (height, width))
    return torch.stack([pixels[:, top : top + _WINDOW, left : left + _WINDOW] for top in tops for left in lefts])


def _starts(side: int) -> list[int]:
    count = -(-(side - _WINDOW) // (_WINDOW // 2)) + 1
    return np.linspace(0, side - _WINDOW, count).round().astype(int).tolist()


class _Block(nn.Module):
    """Two convolutions beside a shortcut; the second begins as nothing."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(silu(self.conv1(silu(self.norm(x)))))
