"""Trains a restorer: python -m training.restorer training/recipes/restorer-nafnet.yaml --photos DIR [--pairs DIR ...]

One network for all degradations, from degraded crops to clean ones. Pairs are simulated from clean photographs,
published (--pairs) or made by a generator (--generated; `training.create_dataset` makes them), by shares that the
recipe gives for each degradation. Training runs in stages of growing crops.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from gendeg.degradations import DEGRADATIONS
from restorers.architectures import NETWORKS
from restorers.folder import save_restorer
from restorers.registry import load_restorer
from runtime.errors import UserError
from training.command_line import (
    FIRST_STAGE,
    PAIRS,
    check_recipe,
    command_line,
    read_recipe,
    stage_minutes,
    stages_to_train,
)
from training.loop import LoopSettings, train, unless_a_later_stage_began
from training.pairs import Crops, check_shares, stored_pairs, training_pairs

_PSNR_FLOOR = 1e-4  # mean squared error, 40 dB: a sample that is better does not count more


def charbonnier(output: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Smooth absolute error, [B]."""
    return ((output - clean).square() + 1e-6).sqrt().mean((1, 2, 3))


def absolute(output: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Absolute error, [B]; PromptIR's published loss."""
    return (output - clean).abs().mean((1, 2, 3))


def negative_psnr(output: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Minus the PSNR in dB, over 10, [B]; NAFNet's published loss. Weak and strong degradations count alike."""
    return ((output - clean).square().mean((1, 2, 3)) + _PSNR_FLOOR).log10()


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "charbonnier": charbonnier,
    "l1": absolute,
    "psnr": negative_psnr,
}


class RestorationLoss:
    """One of LOSSES over a batch; also logs the mean gain in PSNR over the degraded images, in dB."""

    def __init__(self, name: str):
        self.loss = LOSSES[name]

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = model(batch["degraded"]).float()
        before, after = (negative_psnr(image.detach(), batch["clean"]) for image in (batch["degraded"], output))
        return self.loss(output, batch["clean"]).mean(), {"gain": 10 * (before - after).mean()}


@command_line
def main() -> None:
    initial = {"help": "restorer to start from instead of random weights: bundled name, file or folder"}
    generated = PAIRS["--pairs"] | {"help": "folder of pairs by a generator, may be given several times"}
    recipe, args = read_recipe(__doc__, {**PAIRS, "--generated": generated, "--initial": initial, **FIRST_STAGE})
    _check(recipe)
    torch.manual_seed(recipe["seed"])
    settings = dict(recipe["model"])
    model = NETWORKS[settings.pop("architecture")](**settings)
    if args.initial:
        initial = load_restorer(args.initial, device="cpu")
        try:
            model.load_state_dict(initial.network.state_dict())
        except RuntimeError as error:
            raise UserError(f"{args.initial} is no restorer of the recipe's sizes: {error}") from error
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{model.architecture}: {parameters / 1e6:.2f} M parameters")
    save = partial(
        save_restorer,
        folder=args.output / "restorer",
        trained_for=list(DEGRADATIONS),
        recipe=args.recipe.name,
        parameters=parameters,
    )
    for number, stage in stages_to_train(recipe, args):
        began = time.monotonic()
        pairs = training_pairs(
            recipe, args, stage["size"], defocused_share=stage.get("defocused_share", 0.0), unnamed=True
        )
        arrays = stored_pairs(pairs, stage["pairs"], args.output.parent, recipe["workers"])
        shares, seed = recipe["shares"], recipe["seed"] + number
        data = Crops(arrays, stage["crop"], shares, recipe["clean_share"], recipe["exposure_share"], seed)
        loss = RestorationLoss(stage["loss"])
        folder = args.output / f"stage-{number}"
        minutes = stage_minutes(recipe, stage, args)
        save_stage = unless_a_later_stage_began(save, args.output, number)
        settings = LoopSettings.of(stage["loop"], minutes)
        train(model, loss, data, settings, folder, save_stage, began=began)


def _check(recipe: dict[str, Any]) -> None:
    """Find what is wrong with a recipe now, not after the stages before it have been trained."""
    parts = ("seed", "workers", "model", "clean_share", "exposure_share", "shares", "stages")
    check_recipe(recipe, parts, "a restorer")
    architecture = recipe["model"].get("architecture")
    if architecture not in NETWORKS:
        raise UserError(f"There is no architecture {architecture!r}; there are {', '.join(NETWORKS)}.")
    check_shares(recipe["shares"])
    for stage in recipe["stages"]:
        if stage.get("loss") not in LOSSES:
            raise UserError(f"There is no loss {stage.get('loss')!r}; there are {', '.join(LOSSES)}.")


if __name__ == "__main__":
    sys.exit(main())
