"""Trains structure correction: python -m training.structure_correction training/recipes/structure-compact.yaml
--model compact --photos DIR

The generator and its codec are frozen. The paper's module learns to correct what they predict in one step from the
latent of a simulated degraded image, noised to a random time (GenDeg, arXiv 2411.17687, Section 3.3); the layered one
learns from sampled images too, see `training/layered_correction.py`. The recipe's `form` says which. A module that the
model holds already is trained on, if it has the recipe's form and sizes. The result is the whole pipeline with the
module in it. `--minutes` are those of learning; making what it learns from comes before them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from gendeg.checkpoints import load_pipeline
from gendeg.pipeline import GenDegPipeline
from gendeg.scheduler import BridgeScheduler
from gendeg.structure_correction import LayeredCorrection, StructureCorrection
from runtime.errors import UserError
from training.command_line import PAIRS, command_line, read_recipe, stage_minutes
from training.generated_pairs import generate_pairs, one_step
from training.generator.pipeline_folder import settings_of, write_pipeline
from training.layered_correction import AdversarialPair, Discriminator, GeneratedPairs, LayeredLoss
from training.loop import LoopSettings, processes, train, unless_a_later_stage_began
from training.pairs import PHRASES, BalancedSampler, stored_pairs, training_pairs


class Samples(Dataset):
    """Endless batches of stored pairs, drawn by `shares` (see `BalancedSampler`), by the seed and their first index.

    clean, degraded (float [B, 3, H, W] in [0, 1]), degradation and phrase (indices into DEGRADATIONS and PHRASES), mu,
    sigma, ease (uniform in [0, 1]) and noise_seed, for `one_step`, [B].
    """

    def __init__(self, arrays: dict[str, np.ndarray], shares: dict[str, float], seed: int):
        self.arrays, self.seed = arrays, seed
        self.sampler = BalancedSampler(arrays["degradation"], shares)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        rng, count = np.random.default_rng((self.seed, indices[0])), len(indices)
        chosen = self.sampler.draw(count, rng)
        batch = {name: torch.from_numpy(self.arrays[name][chosen]) for name in ("phrase", "mu", "sigma")}
        batch["degradation"] = torch.from_numpy(self.arrays["degradation"][chosen]).long()
        return batch | {
            **{name: torch.from_numpy(self.arrays[name][chosen]).float() / 255 for name in ("clean", "degraded")},
            "ease": torch.from_numpy(rng.random(count, np.float32)),
            "noise_seed": torch.from_numpy(rng.integers(2**62, size=count)),
        }


class CorrectionLoss:
    """weight * || y_t + S(x, y_t) - y ||; also logs how many dB the correction gains.

    The norm is each pixel's own, then averaged: one norm of the whole image would be that of the drops and edges which
    nothing can correct, and the fine errors everywhere else would hardly count.
    """

    def __init__(self, pipeline: GenDegPipeline):
        self.pipeline = pipeline

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clean, degraded = batch["clean"], batch["degraded"]
        phrases = [PHRASES[i] for i in batch["phrase"].tolist()]
        intensities = (batch["mu"].tolist(), batch["sigma"].tolist())
        seeds = batch["noise_seed"].tolist()
        known = batch["degradation"], phrases, *intensities, batch["ease"], seeds
        generated, weight = one_step(self.pipeline, clean, degraded, *known)
        corrected = model(clean * 2 - 1, generated * 2 - 1).float()
        before, after = ((image - (degraded * 2 - 1)).square().mean(1) for image in (generated * 2 - 1, corrected))
        gain = 10 * (before.mean((1, 2)) / after.detach().mean((1, 2))).log10() * (batch["ease"] >= 0.7)
        loss = (weight.to(after) * (after + 1e-6).sqrt().mean((1, 2))).mean()
        return loss, {"gain_of_the_easy_30_percent": gain.sum() / (batch["ease"] >= 0.7).sum().clamp(min=1)}


@command_line
def main() -> None:
    model = {"default": "compact", "help": "bundled name, folder or Hub repository"}
    recipe, args = read_recipe(__doc__, {"--model": model, **PAIRS})
    pipeline = load_pipeline(args.model, dtype=torch.float32, device=processes().device)
    sizes = dict(recipe["model"])
    if sizes.pop("form") == "layered":
        kind = LayeredCorrection
        if not isinstance(pipeline.scheduler, BridgeScheduler):
            raise UserError(
                "Layered structure correction learns from samples of a bridge; this model starts from noise. Take a "
                "recipe of the paper's form, such as training/recipes/structure-published.yaml."
            )
    else:
        kind = StructureCorrection
    pairs = training_pairs(recipe, args, recipe["pairs"]["size"])
    arrays = stored_pairs(pairs, recipe["pairs"]["count"], args.output.parent, recipe["workers"])
    torch.manual_seed(recipe["seed"])
    module = kind(**sizes)
    if pipeline.structure_correction is not None:
        try:
            module.load_state_dict(pipeline.structure_correction.state_dict())
            print("Training goes on from the model's own structure correction.")
        except RuntimeError:
            print("The model's own structure correction is of another form or size: training starts anew.")
    print(f"structure correction: {sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters")
    if kind is LayeredCorrection:
        file = args.output / f"generated-{pairs.name(recipe['pairs']['count'])}.pt"
        model, data = layered(pipeline, arrays, module, recipe, file)
    else:
        model, data = module, Samples(arrays, recipe["shares"], recipe["seed"])
    save = partial(save_pipeline, pipeline=pipeline, folder=args.output / "pipeline")
    for number, stage in enumerate(recipe["stages"], 1):
        loss, groups = losses(pipeline, model, stage)
        loop = LoopSettings.of(stage["loop"], stage_minutes(recipe, stage, args))
        save_stage = unless_a_later_stage_began(save, args.output, number)
        train(model, loss, data, loop, args.output / f"stage-{number}", save_stage, groups)


def layered(
    pipeline: GenDegPipeline,
    arrays: dict[str, np.ndarray],
    module: LayeredCorrection,
    recipe: dict[str, Any],
    file: Path,
) -> tuple[AdversarialPair, GeneratedPairs]:
    """The layered form with its discriminator, and the pictures it learns from, generated once and kept in `file`."""
    arrays = {field: values[: recipe["generated"]] for field, values in arrays.items()}
    generated = generate_pairs(pipeline, arrays, file, recipe["seed"])
    known = ("clean", "degraded", "degradation", "mu", "sigma")
    pairs = {name: torch.from_numpy(np.array(arrays[name])) for name in known}
    pairs = {name: values.to(processes().device) for name, values in (pairs | generated).items()}
    return AdversarialPair(module, Discriminator()), GeneratedPairs(pairs, recipe["shares"], recipe["seed"])


def losses(
    pipeline: GenDegPipeline, model: nn.Module, stage: dict[str, Any]
) -> tuple[Callable[..., Any], list[dict[str, Any]] | None]:
    """What a stage of a recipe asks of the model, and the groups of its parameters."""
    if not isinstance(model, AdversarialPair):
        return CorrectionLoss(pipeline), None
    loss = dict(stage["loss"])
    groups = model.parameter_groups(loss.pop("discriminator_scale", 1.0))
    loss = LayeredLoss(**loss)
    model.discriminator.requires_grad_(loss.asks_discriminator)  # several processes wait for all that learns
    return loss, groups


def save_pipeline(module: nn.Module, pipeline: GenDegPipeline, folder: Path) -> None:
    """Write the pipeline with the module, or the module of an `AdversarialPair`, in it."""
    module = module.module if isinstance(module, AdversarialPair) else module
    write_pipeline(pipeline.components | {"structure_correction": module}, settings_of(pipeline), folder)


if __name__ == "__main__":
    sys.exit(main())
