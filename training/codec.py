"""Trains the compact profile's codec: python -m training.codec training/recipes/codec-compact.yaml --photos DIR

Clean and degraded images alike, since both must survive the round trip; loss: mean absolute error.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from gendeg.codec import PatchCodec
from runtime.files import whole_files
from training.command_line import PAIRS, command_line, read_recipe
from training.loop import LoopSettings, train
from training.pairs import stored_pairs, training_pairs


class _Images(Dataset):
    """Endless images of stored pairs, clean and degraded in turn, half of the batches mirrored, half turned."""

    def __init__(self, arrays: dict[str, np.ndarray], seed: int):
        self.arrays, self.seed = arrays, seed

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, indices[0]))
        chosen = rng.integers(len(self.arrays["mu"]), size=len(indices))
        images = np.concatenate([self.arrays["clean"][chosen[::2]], self.arrays["degraded"][chosen[1::2]]])
        mirrored, turned = rng.random(2) < 0.5
        images = images[..., ::-1] if mirrored else images
        return {"image": torch.from_numpy(np.ascontiguousarray(images.swapaxes(2, 3) if turned else images))}


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
    recipe, args = read_recipe(__doc__, PAIRS)
    began = time.monotonic()
    settings = LoopSettings.of(recipe["loop"], args.minutes)
    pairs = training_pairs(recipe, args, recipe["pairs"]["size"])
    arrays = stored_pairs(pairs, recipe["pairs"]["count"], args.output.parent, recipe["workers"])
    codec = PatchCodec(**recipe["model"])
    first = np.concatenate([arrays[name][:1000] for name in ("clean", "degraded")])
    codec.initialise_from(to_model_range(torch.from_numpy(first)))
    save_here = partial(save, folder=args.output)
    train(codec, loss, _Images(arrays, settings.seed), settings, args.output, save_here, began=began)


if __name__ == "__main__":
    sys.exit(main())
