"""The paper's training, from Stable Diffusion 1.5: what `python -m training.generator` does when a recipe names one.

GenDeg (arXiv 2411.17687), Sections 3.1 and 3.2: Stable Diffusion's UNet with four more input channels, for the latent
of the clean image, learns to predict the noise in the latent of the degraded one, told by the text and the intensity.
Autoencoder and text encoder stay frozen; UNet and intensity projection are trained, and both averaged (the paper
averages the UNet alone). The result is a pipeline folder in the manner of an imported checkpoint (gendeg/importer.py).
"""

from __future__ import annotations

import argparse
import csv
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from gendeg.checkpoints import with_preset
from gendeg.importer import RESOLUTION
from gendeg.intensity import IntensityProjection, intensity
from gendeg.mixture import phrase
from gendeg.pipeline import GenDegPipeline, predict
from runtime.errors import UserError
from runtime.images import open_image, write_image
from training.codec import to_model_range
from training.generator.pipeline_folder import settings_of, write_pipeline
from training.log import write_csv
from training.loop import LoopSettings, processes, train
from training.pair_folders import PairFolders
from training.pairs import ConditionDropout

# ---------------------------------------------------------------------------------------------------------- model


def initial_pipeline(source: str) -> GenDegPipeline:
    """Stable Diffusion 1.5 as a GenDeg pipeline that does not know yet what the clean image and the intensity are for.

    Args:
        source: folder or Hub repository in diffusers' layout.

    Raises:
        UserError: if there is none, or it holds another model; the message says which.
    """
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    try:
        scheduler = DDPMScheduler.from_pretrained(source, subfolder="scheduler")
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
        text_encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", dtype=torch.float32)
        vae = AutoencoderKL.from_pretrained(source, subfolder="vae", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", dtype=torch.float32)
    except Exception as error:  # the libraries raise almost anything on damaged files, and without a network
        raise UserError(
            f"There is no Stable Diffusion in {source!r}: neither a folder that holds scheduler, tokenizer, "
            f"text_encoder, vae and unet, nor such a repository that can be read from the Hub."
        ) from error
    width = text_encoder.config.hidden_size
    if (
        unet.config.in_channels != vae.config.latent_channels
        or unet.config.cross_attention_dim != width
        or unet.config.addition_embed_type is not None
        or scheduler.config.prediction_type != "epsilon"
    ):
        raise UserError(
            f"{source!r} is no Stable Diffusion 1: that has a UNet of {vae.config.latent_channels} input channels, one "
            f"text encoder, and predicts noise."
        )
    widen_input(unet)
    pipeline = GenDegPipeline(
        vae.requires_grad_(False).eval(),
        text_encoder.requires_grad_(False).eval(),
        tokenizer,
        IntensityProjection(tokenizer.model_max_length, width),
        unet,
        EulerAncestralDiscreteScheduler.from_config(scheduler.config),
        resolution=RESOLUTION,
    )
    pipeline = with_preset(pipeline, "fast")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def widen_input(unet: UNet2DConditionModel) -> None:
    """Double the input channels; the added ones, for the clean latent, have zero weights and so change nothing."""
    narrow = unet.conv_in
    wide = nn.Conv2d(2 * narrow.in_channels, narrow.out_channels, narrow.kernel_size, padding=narrow.padding)
    wide.weight.copy_(torch.cat([narrow.weight, torch.zeros_like(narrow.weight)], dim=1))
    wide.bias.copy_(narrow.bias)
    unet.conv_in = wide
    unet.register_to_config(in_channels=wide.in_channels)


class NoisePredictor(nn.Module):
    """Everything that is trained, in one module: the pipeline's own UNet and intensity projection."""

    def __init__(self, pipeline: GenDegPipeline):
        super().__init__()
        self.unet, self.intensity_projection = pipeline.unet, pipeline.intensity_projection

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        clean_latents: torch.Tensor,
        text: torch.Tensor,
        mu: torch.Tensor,
        sigma: torch.Tensor,
    ) -> torch.Tensor:
        """Latents [B, C, h, w], timesteps, mu and sigma [B] (NaN: not given), text [B, L, width] to noise."""
        return predict(self.unet, latents, timestep, clean_latents, self.intensity_projection(text, mu, sigma))


# ----------------------------------------------------------------------------------------------------------- data


class Pair(NamedTuple):
    """Files of a clean and a degraded image, caption and phrase for `GenDegPipeline.prompt`, intensity if given."""

    clean: str
    degraded: str
    caption: str
    phrase: str
    mu: float | None
    sigma: float | None


def read_pairs(folders: list[Path]) -> list[Pair]:
    """All pairs of the folders (see `PairFolders`), checked for what training needs to know of each.

    A row of `metadata.jsonl` holds `prompt`, or `degradation` and, if there is one, `caption`; and possibly `mu` and
    `sigma` of the pair at the size of training.

    Raises:
        UserError: if a folder holds no pairs, or a pair has no prompt or no sensible intensity.
    """
    known = PairFolders(
        folders, check=lambda row: (*_caption_and_phrase(row), *_given_intensity(row)), scenes="training"
    )
    return [
        Pair(str(clean), str(degraded), *_caption_and_phrase(row), *_given_intensity(row))
        for (clean, degraded), row in zip(known.files, known.rows, strict=True)
    ]


def _caption_and_phrase(row: dict[str, Any]) -> tuple[str, str]:
    if not all(isinstance(row.get(name) or "", str) for name in ("prompt", "caption", "source_dataset")):
        raise UserError("prompt, caption and source_dataset must be text.")
    if row.get("prompt"):
        return "", row["prompt"]
    if row.get("degradation") is None:
        raise UserError("What degradation is it? A row in metadata.jsonl must give its degradation, or a prompt.")
    return row.get("caption") or "", phrase(row["degradation"], row.get("source_dataset"))


def _given_intensity(row: dict[str, Any]) -> tuple[float | None, float | None]:
    given = (row.get("mu"), row.get("sigma"))
    if not all(v is None or (isinstance(v, (int, float)) and 0 <= v < math.inf) for v in given):
        raise UserError(f"mu and sigma must be numbers of at least 0, not {given[0]} and {given[1]}.")
    return given


def load_pair(pair: Pair, size: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """A pair as training sees it: both images resized whole to size x size, whatever their aspect ratio.

    Returns:
        (clean, degraded, mu, sigma): uint8 [3, size, size], and the intensity: the given one, else that of these.

    Raises:
        UserError: if an image cannot be read.
    """
    images = [open_image(file) for file in (pair.clean, pair.degraded)]
    arrays = [np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1) for image in images]
    mu, sigma = map(float, intensity(*(torch.from_numpy(array / np.float32(255))[None] for array in arrays)))
    return *arrays, mu if pair.mu is None else pair.mu, sigma if pair.sigma is None else pair.sigma


class PromptedPairs(Dataset):
    """Endless training samples; sample i depends on (seed, i) alone.

    Items: clean, degraded (uint8 [3, size, size], half of them mirrored), tokens [L], mu, sigma (NaN: not given),
    keep_image (0 or 1), timestep, noise and posterior_noise (normal, [C, h, w]).

    Args:
        pairs: from `read_pairs`.
        pipeline: for its tokenizer and the shape of its latents.
        dropout: shares of samples that lose conditions, see `ConditionDropout`.
        timesteps: how many the noise schedule has.
    """

    def __init__(
        self,
        pairs: list[Pair],
        pipeline: GenDegPipeline,
        size: int,
        dropout: dict[str, float],
        timesteps: int,
        seed: int,
    ):
        self.pairs, self.size, self.timesteps, self.seed = pairs, size, timesteps, seed
        self.prompts = [pipeline.prompt(pair.caption, pair.phrase) for pair in pairs]
        self.tokenizer, self.dropout = pipeline.tokenizer, ConditionDropout(dropout)
        side = size // 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        self.shape = (2, pipeline.vae.config.latent_channels, side, side)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        i = int(rng.integers(len(self.pairs)))
        clean, degraded, mu, sigma = load_pair(self.pairs[i], self.size)
        mirrored = slice(None, None, -1 if rng.random() < 0.5 else 1)
        lost = {name for name, lost in self.dropout.draw(1, rng).items() if lost[0]}
        tokens = self.tokenizer(
            "" if "text" in lost else self.prompts[i],
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise, posterior_noise = torch.randn(self.shape, generator=generator)
        return {
            "clean": torch.from_numpy(clean[..., mirrored].copy()),
            "degraded": torch.from_numpy(degraded[..., mirrored].copy()),
            "tokens": tokens.input_ids[0],
            "mu": torch.tensor(float("nan") if "mu" in lost else mu),
            "sigma": torch.tensor(float("nan") if "sigma" in lost else sigma),
            "keep_image": torch.tensor(0.0 if "image" in lost else 1.0),
            "timestep": torch.tensor(int(rng.integers(self.timesteps))),
            "noise": noise,
            "posterior_noise": posterior_noise,
        }


# -------------------------------------------------------------------------------------------------------- process


class NoiseLoss:
    """Mean squared error of the predicted noise, all timesteps alike."""

    def __init__(self, pipeline: GenDegPipeline, scheduler: DDPMScheduler):
        self.pipeline, self.scheduler = pipeline, scheduler

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        vae = self.pipeline.vae
        with torch.no_grad():
            condition = vae.encode(to_model_range(batch["clean"])).latent_dist.mode().float()
            condition = condition * batch["keep_image"].reshape(-1, 1, 1, 1)
            posterior = vae.encode(to_model_range(batch["degraded"])).latent_dist
            latents = posterior.mean.float() + posterior.std.float() * batch["posterior_noise"]
            text = self.pipeline.text_encoder(batch["tokens"]).last_hidden_state.float()
        noisy = self.scheduler.add_noise(latents * vae.config.scaling_factor, batch["noise"], batch["timestep"])
        predicted = model(noisy, batch["timestep"], condition, text, batch["mu"], batch["sigma"])
        return nn.functional.mse_loss(predicted.float(), batch["noise"]), {}


class Validation:
    """Degrades the clean images of held-out pairs at their own intensities, with the preset "fast".

    Every time it writes a row of `intensity.csv`, the mean |asked - reached| of mu and sigma, and a sheet of images:
    clean, degraded in the data, degraded by the model.

    Args:
        pairs: from `read_pairs`; they all make one batch.
        folder: where the files go.
    """

    def __init__(self, pairs: list[Pair], pipeline: GenDegPipeline, size: int, folder: Path):
        self.pipeline, self.folder = pipeline, folder
        clean, degraded, self.mu, self.sigma = zip(*(load_pair(pair, size) for pair in pairs), strict=True)
        self.images = [torch.from_numpy(np.stack(images)).float() / 255 for images in (clean, degraded)]
        self.prompts = [pipeline.prompt(pair.caption, pair.phrase) for pair in pairs]

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        pipeline, count = self.pipeline, len(self.prompts)
        clean_latents = pipeline.encode(self.images[0].to(pipeline.device))
        generated = pipeline.decode(
            pipeline.denoise(
                clean_latents,
                pipeline.encode_context(self.prompts, self.mu, self.sigma),
                pipeline.encode_context([""] * count, None, None),
                pipeline.config.num_inference_steps,
                pipeline.config.guidance_scale,
                pipeline.config.image_guidance_scale,
                [torch.Generator().manual_seed(number) for number in range(count)],
            )
        )
        rendered = pipeline.decode(clean_latents * pipeline.vae.config.scaling_factor)
        reached = [values.cpu() for values in intensity(rendered, generated)]
        errors = [
            float((values - torch.tensor(asked)).abs().mean())
            for values, asked in zip(reached, (self.mu, self.sigma), strict=True)
        ]
        file = self.folder / "intensity.csv"
        rows = [["step", "mu_error", "sigma_error"]]
        if file.exists():  # a resumed run may come to a step once more
            lines = csv.reader(file.read_text(encoding="utf-8", errors="replace").splitlines())
            rows += [row for row in lines if len(row) == 3 and row[0].isdecimal() and int(row[0]) < step]
        write_csv(file, [*rows, [step, *(f"{error:.6f}" for error in errors)]])
        images = torch.stack([*self.images, generated.cpu()])  # [3, B, 3, H, W]
        sheet = images.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        write_image(Image.fromarray((sheet * 255).round().byte().numpy()), self.folder / f"{step:07}.jpg")


# ----------------------------------------------------------------------------------------------------------- main


def run(recipe: dict[str, Any], args: argparse.Namespace) -> None:
    """Train by the recipe into `args.output`/pipeline; validation goes to `args.output`/validation.

    Raises:
        UserError: for options, folders or pairs that do not fit; the message says which.
    """
    if args.codec or args.photos:
        raise UserError("This recipe starts from Stable Diffusion and pairs; --codec and --photos are of no use to it.")
    if not args.pairs:
        raise UserError("This recipe learns from pairs. Name their folder: --pairs DIR, again for each further one.")
    pairs = read_pairs(args.pairs)
    # Evenly spread over the pairs, so that every folder and kind has some. Their scenes may occur in other pairs.
    count = recipe["validation_pairs"]
    if count < 1:
        raise UserError("The recipe must hold out one pair at least: validation_pairs.")
    every = len(pairs) // count
    if every < 2:
        raise UserError(f"There are {len(pairs)} pairs, too few to hold {count} out of them.")
    held_out = range(0, every * count, every)
    torch.manual_seed(recipe["seed"])
    pipeline = initial_pipeline(args.initial or recipe["stable_diffusion"])
    size, multiple = recipe["size"], pipeline.size_multiple
    if size % multiple:
        raise UserError(f"The recipe's size, {size}, must be a multiple of {multiple} for this model.")
    pipeline.to(processes().device)
    if recipe["gradient_checkpointing"]:
        pipeline.unet.enable_gradient_checkpointing()
    model = NoisePredictor(pipeline)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    data = PromptedPairs(
        [pair for number, pair in enumerate(pairs) if number not in held_out],
        pipeline,
        size,
        recipe["dropout"],
        scheduler.config.num_train_timesteps,
        recipe["seed"],
    )
    train(
        model,
        NoiseLoss(pipeline, scheduler),
        data,
        LoopSettings.of(recipe["loop"], args.minutes),
        args.output,
        partial(_save, pipeline=pipeline, folder=args.output / "pipeline"),
        [
            {"params": list(pipeline.unet.parameters())},
            {"params": list(pipeline.intensity_projection.parameters()), "scale": recipe["projection_scale"]},
        ],
        Validation([pairs[number] for number in held_out], pipeline, size, args.output / "validation"),
    )


def _save(_: NoisePredictor, pipeline: GenDegPipeline, folder: Path) -> None:
    """The model's parts are the pipeline's own."""
    write_pipeline(pipeline.components, settings_of(pipeline), folder, max_shard_size="5GB")
