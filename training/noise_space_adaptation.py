"""Adapts a restorer to real photographs without clean counterparts: python -m training.noise_space_adaptation
training/recipes/noise-space-compact.yaml --restorer nafnet --photos DIR --real DIR

"Denoising as Adaptation" (arXiv 2406.18516). The restorer goes on learning from simulated and published pairs as
training/restorer.py does; a denoiser that is conditioned on what it makes of a simulated and of a real photograph is
trained beside it, and its error is led back into the restorer (training/noise_space_loss.py). Then the denoiser has
done its work: restoring costs what it did before. It is kept for `training.evaluate noise-space`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from torch.utils.data import Dataset
from tqdm import tqdm

from restorers.folder import save_restorer
from restorers.registry import Restorer, load_restorer
from runtime.errors import UserError
from runtime.files import whole_files
from training.command_line import PAIRS, check_recipe, command_line, read_recipe
from training.loop import LoopSettings, train
from training.made_once import made_once
from training.noise_space_loss import Adaptation, AdaptationLoss, Denoiser, draw_signal_shares
from training.pair_folders import PairFolders, holds_pairs
from training.pairs import Crops, check_shares, stored_pairs, training_pairs
from training.photos import Photos

REMEDIES = {"adaptation": {"weight": 0.0}, "shuffling": {"shuffle": False}, "contrast": {"contrast": False}}
OPTIONS = {
    **PAIRS,
    "--restorer": {"required": True, "help": "to adapt: bundled name, file, folder or Hub repository"},
    "--real": {
        "type": Path,
        "action": "append",
        "required": True,
        "help": "folder of real degraded photographs, or of pairs, whose clean sides are not looked at and whose "
        "held-back scenes are left out; may be given several times, and each is drawn from equally often",
    },
    "--references": {
        "type": Path,
        "action": "append",
        "help": "folder of clean photographs that belong to nothing: the denoiser then learns from these",
    },
    "--without": {"nargs": "+", "choices": list(REMEDIES), "default": [], "help": "for ablation"},
}


class AdaptationBatches(Dataset):
    """Endless batches for `AdaptationLoss`; a batch depends on the seed and its first index.

    Args:
        pairs: batches of degraded and clean crops, [B, 3, size, size] in [0, 1].
        real: crops of real photographs, uint8 [N, 3, size, size].
        references: crops of clean photographs that belong to nothing, of the same shape; None: the pairs' clean images
            are the denoiser's targets.
        fade_in_samples: after so many the adaptation has its full weight.
    """

    def __init__(
        self, pairs: Crops, real: torch.Tensor, references: torch.Tensor | None, fade_in_samples: int, seed: int
    ):
        self.pairs, self.real, self.references = pairs, real, references
        self.fade_in_samples, self.seed = fade_in_samples, seed

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        count, rng = len(indices), np.random.default_rng((self.seed, indices[0], 1))  # another one than the pairs'
        batch = self.pairs.__getitems__(indices)
        batch["real"] = _drawn(self.real, count, rng)
        batch["target"] = batch["clean"] if self.references is None else _drawn(self.references, count, rng)
        return batch | {
            "noise": torch.from_numpy(rng.standard_normal(batch["clean"].shape, np.float32)),
            "gamma": torch.from_numpy(draw_signal_shares(count, rng)).float(),
            "swap": torch.from_numpy(rng.random(count) < 0.5),
            "progress": torch.full((count,), min(1.0, indices[0] / self.fade_in_samples)),
        }


def _drawn(crops: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
    """Random ones, half of the batches mirrored, in [0, 1]."""
    chosen = crops[torch.from_numpy(rng.integers(len(crops), size=count))].float() / 255
    return chosen.flip(3) if rng.random() < 0.5 else chosen


def real_photographs(folder: Path) -> Photos:
    """Those of a folder: all of them; of a folder of pairs the degraded sides of the scenes that training may see.

    Raises:
        UserError: if it holds none.
    """
    folder = folder.expanduser()
    if not holds_pairs(folder):
        return Photos(folder)
    photos = Photos()
    photos.files = [degraded for _, degraded in PairFolders([folder], scenes="training").files]
    if not photos.files:
        raise UserError(f"All scenes in {folder} are held back for evaluation.")
    return photos


def stored_crops(sources: Sequence[Photos], count: int, size: int, parent: Path, seed: int) -> torch.Tensor:
    """`count` random squares, equally many of each source, made once and kept in a file below `parent`.

    Returns:
        uint8 [N, 3, size, size].
    """

    def make() -> dict[str, torch.Tensor]:
        crops = []
        for number, photos in enumerate(sources):
            rng = np.random.default_rng((seed, number))
            for _ in tqdm(range(-(-count // len(sources))), desc="cutting photographs", unit="crop", delay=2):
                crops.append(torch.from_numpy(photos.random_crop(size, rng).copy()).permute(2, 0, 1))
        return {"crops": torch.stack(crops)}

    name = hashlib.sha256(f"{seed} {[photos.name for photos in sources]}".encode()).hexdigest()[:8]
    return made_once(parent / f"crops-{size}-{count}-{name}.pt", make, "photographs are cut")["crops"]


@command_line
def main() -> None:
    recipe, args = read_recipe(__doc__, OPTIONS)
    loss = _loss(recipe, args.without, bool(args.references))
    began = time.monotonic()
    restorer = load_restorer(args.restorer, device="cpu")
    torch.manual_seed(recipe["seed"])
    unet = UNet2DModel(in_channels=9, out_channels=3, **recipe["denoiser"])
    model = Adaptation(restorer.network.float().requires_grad_(), Denoiser(unet))
    model.denoiser.requires_grad_(loss.weight > 0)  # several processes wait for all that learns
    for part in (model.restorer, model.denoiser):
        print(f"{type(part).__name__}: {sum(p.numel() for p in part.parameters()) / 1e6:.2f} M parameters")
    size, seed, parent = recipe["size"], recipe["seed"], args.output.parent
    real = stored_crops([real_photographs(folder) for folder in args.real], recipe["real_crops"], size, parent, seed)
    references = None
    if args.references:
        references = stored_crops([Photos(args.references)], recipe["real_crops"], size, parent, seed)
    pairs = training_pairs(recipe, args, size, unnamed=True)
    arrays = stored_pairs(pairs, recipe["pairs"], parent, recipe["workers"])
    crops = Crops(arrays, size, recipe["shares"], recipe["clean_share"], recipe["exposure_share"], seed)
    data = AdaptationBatches(crops, real, references, recipe["fade_in_samples"], seed)
    groups = [
        {"params": list(model.restorer.parameters())},
        {"params": [p for p in model.denoiser.parameters() if p.requires_grad], "scale": recipe["denoiser_scale"]},
    ]
    facts = {"adapted_from": restorer.name, "recipe": args.recipe.name, "without": args.without}

    def save(model: Adaptation) -> None:
        _save(model, args.output, restorer, facts)

    settings = LoopSettings.of(recipe["loop"], args.minutes)
    groups = [group for group in groups if group["params"]]
    train(model, loss, data, settings, args.output / "training", save, groups, began=began)


def _save(model: Adaptation, folder: Path, restorer: Restorer, facts: Mapping[str, Any]) -> None:
    """The adapted restorer, and the denoiser for evaluation."""
    save_restorer(model.restorer, folder / "restorer", restorer.trained_for, **facts)
    with whole_files(folder / "denoiser") as part:
        model.denoiser.unet.save_pretrained(part)


def _loss(recipe: dict[str, Any], without: Sequence[str], with_references: bool) -> AdaptationLoss:
    """What the recipe's `loss` and the command line ask for.

    Raises:
        UserError: for what is no recipe of an adaptation.
    """
    parts = ("seed", "workers", "denoiser", "denoiser_scale", "size", "pairs", "real_crops", "fade_in_samples", "loop")
    check_recipe(recipe, (*parts, "clean_share", "exposure_share", "shares"), "an adaptation")
    check_shares(recipe["shares"])
    settings = {"weight": recipe["weight"]} if "weight" in recipe else {}
    for name in without:
        settings |= REMEDIES[name]
    # The residuals' swap compares two photographs with their own clean one: there is none.
    return AdaptationLoss(**settings | ({"contrast": False} if with_references else {}))


if __name__ == "__main__":
    sys.exit(main())
