"""Trains structure correction: python -m training.structure_correction training/recipes/structure-compact.yaml
--model compact --photos DIR

The generator and its codec are frozen. They turn the latent of a simulated degraded image, noised to a random time,
into an image in one step, and the module learns to correct that image (GenDeg, arXiv 2411.17687, Section 3.3). A module
that the model holds already is trained on, if it has the recipe's sizes. The result is the whole pipeline with the
module in it.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from gendeg.checkpoints import load_pipeline
from gendeg.pipeline import GenDegPipeline, predict
from gendeg.scheduler import BridgeScheduler
from gendeg.structure_correction import StructureCorrection
from training.command_line import command_line, read_recipe
from training.generator.pipeline_folder import settings_of, write_pipeline
from training.loop import LoopSettings, train
from training.pairs import PHRASES, Lottery, SimulatedPairs, stored_pairs
from training.photos import Photos


class Samples(Dataset):
    """Endless samples of stored pairs, drawn by `shares` (see `Lottery`); sample i depends on (seed, i) alone.

    Items: clean, degraded (float [3, H, W] in [0, 1]), phrase (index into PHRASES), mu, sigma, ease (uniform in
    [0, 1]) and noise_seed, for `one_step`.
    """

    def __init__(self, arrays: dict[str, np.ndarray], shares: dict[str, float], seed: int):
        self.arrays, self.seed = arrays, seed
        self.lottery = Lottery(arrays["degradation"], shares)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        i = self.lottery.draw(rng)
        images = {name: self.arrays[name][i].copy() for name in ("clean", "degraded")}
        numbers = {name: torch.tensor(self.arrays[name][i]) for name in ("phrase", "mu", "sigma")}
        return {
            **{name: torch.from_numpy(image).float() / 255 for name, image in images.items()},
            **numbers,
            "ease": torch.tensor(rng.random(), dtype=torch.float32),
            "noise_seed": torch.tensor(int(rng.integers(2**62))),
        }


@torch.no_grad()
def one_step(
    pipeline: GenDegPipeline,
    clean: torch.Tensor,
    degraded: torch.Tensor,
    phrases: list[str],
    mu: list[float],
    sigma: list[float],
    ease: torch.Tensor,
    seeds: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise degraded images to a time and let the generator predict them from there, in one step.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1], sides multiples of `pipeline.size_multiple`.
        ease: [B] in [0, 1], 0 at the hardest time (all noise, or all clean), 1 at the easiest.
        seeds: of each sample's noise.

    Returns:
        (predicted images [B, 3, H, W] in [0, 1], weights [B] of their errors: abar_t, or the bridge's t).
    """
    scheduler, scale = pipeline.scheduler, pipeline.vae.config.scaling_factor
    condition = pipeline.encode(clean)
    target = scale * pipeline.encode(degraded)
    context = pipeline.encode_context(phrases, mu, sigma)
    generators = [torch.Generator(target.device).manual_seed(seed) for seed in seeds]
    if isinstance(scheduler, BridgeScheduler):
        time = ease * scheduler.config.num_train_timesteps
        noisy = scheduler.add_noise(condition * scale, target, scheduler.draw_noise(target, generators), time)
        seen = scheduler.network_input(noisy, condition * scale, time)
        output = predict(pipeline.unet, seen, time, condition, context)
        return pipeline.decode(scheduler.predicted(output, noisy, condition * scale, time)), ease
    time = ((1 - ease) * (scheduler.config.num_train_timesteps - 1)).round().long()
    noise = torch.cat([torch.randn(target[:1].shape, generator=g, device=g.device) for g in generators]).to(target)
    noisy = scheduler.add_noise(target, noise, time)
    abar = scheduler.alphas_cumprod.to(target)[time].reshape(-1, 1, 1, 1)
    epsilon = predict(pipeline.unet, noisy, time, condition, context)
    return pipeline.decode((noisy - (1 - abar).sqrt() * epsilon) / abar.sqrt()), abar.flatten()


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
        generated, weight = one_step(self.pipeline, clean, degraded, phrases, *intensities, batch["ease"], seeds)
        corrected = model(clean * 2 - 1, generated * 2 - 1).float()
        before, after = ((image - (degraded * 2 - 1)).square().mean(1) for image in (generated * 2 - 1, corrected))
        gain = 10 * (before.mean((1, 2)) / after.detach().mean((1, 2))).log10() * (batch["ease"] >= 0.7)
        loss = (weight.to(after) * (after + 1e-6).sqrt().mean((1, 2))).mean()
        return loss, {"gain_of_the_easy_30_percent": gain.sum() / (batch["ease"] >= 0.7).sum().clamp(min=1)}


@command_line
def main() -> None:
    recipe, args = read_recipe(
        __doc__, {"--model": {"default": "compact", "help": "bundled name, folder or Hub repository"}}
    )
    pipeline = load_pipeline(args.model, dtype=torch.float32)
    pairs = SimulatedPairs(Photos(args.photos), recipe["pairs"]["size"], recipe["seed"])
    arrays = stored_pairs(pairs, recipe["pairs"]["count"], args.output.parent, recipe["pairs"]["workers"])
    torch.manual_seed(recipe["seed"])
    module = StructureCorrection(**recipe["model"])
    if pipeline.structure_correction is not None:
        try:
            module.load_state_dict(pipeline.structure_correction.state_dict())
            print("Training goes on from the model's own structure correction.")
        except RuntimeError:
            print("The model's own structure correction has other sizes than the recipe's: training starts anew.")
    print(f"structure correction: {sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters")
    data = Samples(arrays, recipe["shares"], recipe["seed"])
    save = partial(save_pipeline, pipeline=pipeline, folder=args.output / "pipeline")
    train(module, CorrectionLoss(pipeline), data, LoopSettings(**recipe["loop"]), args.output, save)


def save_pipeline(module: StructureCorrection, pipeline: GenDegPipeline, folder: Path) -> None:
    """Write the pipeline with the module in it."""
    write_pipeline(pipeline.components | {"structure_correction": module}, settings_of(pipeline), folder)


if __name__ == "__main__":
    sys.exit(main())
