"""Trains the compact profile's codec: python -m training.codec training/recipes/codec-compact.yaml --photos DIR

Clean and simulated degraded images alike, since both must survive the round trip; loss: mean absolute error.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from gendeg.codec import PatchCodec
from runtime.files import whole_files
from training.command_line import command_line, read_recipe
from training.loop import LoopSettings, train
from training.pairs import SimulatedPairs, stored_pairs
from training.photos import Photos


class _Images(Dataset):
    """Endless images of stored pairs, clean and degraded equally often."""

    def __init__(self, arrays: dict[str, np.ndarray], seed: int):
        self.arrays, self.seed = arrays, seed

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        images = self.arrays["clean" if index % 2 else "degraded"]
        image = images[rng.integers(len(images))]
        if rng.random() < 0.5:
            image = image[:, :, ::-1]
        if rng.random() < 0.5:
            image = image.transpose(0, 2, 1)
        return {"image": torch.from_numpy(image.copy())}


def to_model_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, H, W] to float in [-1, 1]."""
    return images.float() / 127.5 - 1


def loss(codec: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    images = to_model_range(batch["image"])
    error = codec(images) - images
    mean_squared = (error.detach() / 2).square().mean((1, 2, 3))
    return error.abs().mean(), {"psnr": (-10 * mean_squared.log10()).mean()}


def save(codec: PatchCodec, folder: Path) -> None:
    """Write the codec as a folder that `PatchCodec.from_pretrained` reads, among other files."""
    with whole_files(folder) as part:
        codec.save_pretrained(part)


@command_line
def main() -> None:
    recipe, args = read_recipe(__doc__)
    settings = LoopSettings(**recipe["loop"])
    pairs = recipe["pairs"]
    arrays = stored_pairs(
        SimulatedPairs(Photos(args.photos), pairs["size"], settings.seed),
        pairs["count"],
        args.output.parent,
        pairs["workers"],
    )
    codec = PatchCodec(**recipe["model"])
    first = np.concatenate([arrays[name][: min(1000, pairs["count"])] for name in ("clean", "degraded")])
    codec.initialise_from(to_model_range(torch.from_numpy(first)))
    train(codec, loss, _Images(arrays, settings.seed), settings, args.output, partial(save, folder=args.output))


if __name__ == "__main__":
    sys.exit(main())
