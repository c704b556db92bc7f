"""Trains the estimator of degradations: python -m training.estimator training/recipes/estimator-compact.yaml
--photos DIR

From simulated pairs and published ones (--pairs), whose degradation and intensity are known: it sees the degraded image
alone, or a clean one, and names both (gendeg/estimator.py).
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from gendeg.estimator import CLEAN, KINDS, DegradationEstimator
from runtime.files import whole_files
from training.command_line import PAIRS, check_recipe, command_line, read_recipe
from training.loop import LoopSettings, train
from training.pairs import BalancedSampler, stored_pairs, training_pairs
from training.photos import smooth_field, with_grain

_INTENSITY_WEIGHT = 10.0  # an error of .1 counts as much as one nat of what it is


class LabelledImages(Dataset):
    """Endless batches of degraded and clean images; a batch depends on the seed and its first index.

    Args:
        arrays: as `stored_pairs` gives them: clean, degraded, uint8 [N, 3, size, size]; degradation, mu, sigma.
        clean_share: of the samples; a part of them has grain, or is nothing but a sky or a wall.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], clean_share: float, seed: int):
        self.arrays, self.clean_share, self.seed = arrays, clean_share, seed
        self.sampler = BalancedSampler(arrays["degradation"], {})

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """image: float [B, 3, size, size] in [-1, 1]; kind: index into KINDS; mu, sigma."""
        rng, count = np.random.default_rng((self.seed, indices[0])), len(indices)
        chosen = self.sampler.draw(count, rng)
        images = torch.from_numpy(self.arrays["degraded"][chosen]).float() / 255
        kinds = torch.from_numpy(self.arrays["degradation"][chosen].astype(np.int64))
        numbers = {name: torch.from_numpy(self.arrays[name][chosen]).float() for name in ("mu", "sigma")}
        for i in np.flatnonzero(rng.random(count) < self.clean_share):
            images[i] = torch.from_numpy(self.arrays["clean"][chosen[i]]).float() / 255
            if rng.random() < 0.3:
                images[i] = with_grain(images[i] if rng.random() < 0.5 else smooth_field(images.shape[-1], rng), rng)
            kinds[i] = KINDS.index(CLEAN)
        return {"image": 2 * (images.flip(3) if rng.random() < 0.5 else images) - 1, "kind": kinds, **numbers}


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Cross-entropy of the kind + the absolute errors of mu and sigma of the true one, of degraded images."""
    logits, intensities = (output.float() for output in model(batch["image"]))
    degraded = batch["kind"] < KINDS.index(CLEAN)
    true = intensities[torch.arange(len(logits)), batch["kind"].clamp(max=KINDS.index(CLEAN) - 1)]
    errors = (true - torch.stack([batch["mu"], batch["sigma"]], dim=1)).abs() * degraded[:, None]
    mu_error, sigma_error = errors.sum(0) / degraded.sum().clamp(min=1)
    value = cross_entropy(logits, batch["kind"], label_smoothing=0.05) + _INTENSITY_WEIGHT * (mu_error + sigma_error)
    right = (logits.argmax(1) == batch["kind"]).float().mean()
    return value, {"right": right, "mu_error": mu_error.detach(), "sigma_error": sigma_error.detach()}


def save(model: DegradationEstimator, folder: Path) -> None:
    """Write it as `gendeg.estimator.load_estimator` reads it, in float16."""
    with whole_files(folder) as part:
        copy.deepcopy(model).half().save_pretrained(part)


@command_line
def main() -> None:
    recipe, args = read_recipe(__doc__, PAIRS)
    check_recipe(recipe, ("seed", "workers", "model", "pairs", "clean_share", "loop"), "an estimator")
    began = time.monotonic()
    pairs = training_pairs(recipe, args, recipe["pairs"]["size"])
    arrays = stored_pairs(pairs, recipe["pairs"]["count"], args.output.parent, recipe["workers"])
    torch.manual_seed(recipe["seed"])
    model = DegradationEstimator(**recipe["model"])
    print(f"estimator: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    data = LabelledImages(arrays, recipe["clean_share"], recipe["seed"])
    settings = LoopSettings.of(recipe["loop"], args.minutes)
    save_here = partial(save, folder=args.output / "estimator")
    train(model, loss, data, settings, args.output, save_here, began=began)


if __name__ == "__main__":
    sys.exit(main())
