"""Trains a generator: python -m training.generator training/recipes/generator-compact.yaml --photos DIR --codec DIR

Recipes that start from Stable Diffusion, as the paper does, are carried out by training/stable_diffusion.py. Here:
the compact profile from random initialisation. Simulated pairs are encoded once by the trained codec, then the UNet,
the text encoder and the intensity projection learn to predict the bridge's residual. The result is a whole pipeline
folder. Training runs in stages of growing image size, each of which starts from the averaged weights of the one before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from gendeg.codec import PatchCodec
from gendeg.importer import check_repository, push_folder
from gendeg.intensity import IntensityProjection
from gendeg.pipeline import GenDegPipeline, predict
from gendeg.scheduler import BridgeScheduler, bridge_times
from runtime.errors import UserError
from runtime.files import whole_file
from training import stable_diffusion
from training.adversarial import AdversarialLoss, AdversarialPair, Discriminator
from training.codec import to_model_range
from training.command_line import FIRST_STAGE, command_line, read_recipe, stages_to_train
from training.loop import LoopSettings, processes, train, unless_a_later_stage_began
from training.pairs import PHRASES, ConditionDropout, Lottery, SimulatedPairs, stored_pairs
from training.photos import Photos
from training.pipeline_folder import write_pipeline
from training.text import CAPTIONS, train_tokenizer

# ---------------------------------------------------------------------------------------------------------- model


class Generator(nn.Module):
    """Everything that is trained, in one module: UNet, text encoder, intensity projection."""

    def __init__(self, config: dict[str, Any], latent_channels: int, vocabulary: int, end_of_text: int):
        super().__init__()
        text = dict(config["text"])
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                bos_token_id=None,
                eos_token_id=end_of_text,
                projection_dim=text["hidden_size"],
                **text,
            )
        )
        tokens, width = text["max_position_embeddings"], text["hidden_size"]
        self.intensity_projection = IntensityProjection(tokens=tokens, width=width)
        self.unet = UNet2DConditionModel(
            in_channels=2 * latent_channels,
            out_channels=2 * latent_channels,
            cross_attention_dim=width,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=tokens * width + 2 * latent_channels,
            **config["unet"],
        )

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        clean_latents: torch.Tensor,
        tokens: torch.Tensor,
        mu: torch.Tensor,
        sigma: torch.Tensor,
    ) -> torch.Tensor:
        """Latents [B, C, h, w], timesteps, mu and sigma [B] (NaN: not given), token ids [B, L] to the output."""
        text = self.text_encoder(tokens).last_hidden_state
        return predict(self.unet, latents, timestep, clean_latents, self.intensity_projection(text, mu, sigma))


# ----------------------------------------------------------------------------------------------------------- data


class LatentPairs(Dataset):
    """Endless training samples of encoded pairs, but for the latents; sample i depends on (seed, i) alone.

    Args:
        latents: from `encode_pairs`.
        shares: how often each degradation is drawn, see `training.pairs.Lottery`.
        dropout: shares of samples that lose conditions, see `ConditionDropout`.
        tokens: token ids [captions + 1, phrases, L]; the first caption is none.
        null_tokens: token ids [L] of the empty prompt.
    """

    def __init__(
        self,
        latents: dict[str, torch.Tensor],
        shares: dict[str, float],
        dropout: dict[str, float],
        tokens: torch.Tensor,
        null_tokens: torch.Tensor,
        scheduler: BridgeScheduler,
        seed: int,
    ):
        self.like = torch.empty(1, *latents["clean"].shape[1:])
        self.scheduler = scheduler
        self.known = {name: latents[name] for name in ("phrase", "degradation", "mu", "sigma")}
        self.tokens, self.null_tokens, self.seed = tokens, null_tokens, seed
        self.dropout = ConditionDropout(dropout)
        self.lottery = Lottery(latents["degradation"].numpy(), shares)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        i = self.lottery.draw(rng)
        known = {name: values[i] for name, values in self.known.items()}
        caption = int(rng.integers(len(self.tokens))) if rng.random() < 0.3 else 0
        tokens = self.tokens[caption, known["phrase"]]
        lost = self.dropout.draw(rng)
        missing = torch.tensor(float("nan"))
        return {
            **known,
            "pair": torch.tensor(i),
            "tokens": self.null_tokens if "text" in lost else tokens,
            "prompt": tokens,
            "asked_mu": missing if "mu" in lost else known["mu"],
            "asked_sigma": missing if "sigma" in lost else known["sigma"],
            "has_image": torch.tensor("image" not in lost),
            "time": bridge_times(torch.tensor(rng.random(), dtype=torch.float32)),
            "noise": self.scheduler.draw_noise(self.like, torch.Generator().manual_seed(int(rng.integers(2**62))))[0],
            "noise_seed": torch.tensor(int(rng.integers(2**62))),
        }


class WithLatents:
    """A loss whose batches of `LatentPairs` get their latents only here, on the device that computes it.

    Args:
        loss: of (model, batch); batch: the samples' fields, and clean, degraded and condition (what the network sees
            of clean), [B, C, h, w].
        latents: from `encode_pairs`; kept on the GPU, where there is one.
    """

    def __init__(self, loss: Callable[..., Any], latents: dict[str, torch.Tensor]):
        device = processes().device
        self.loss = loss
        self.latents = {name: latents[name].to(device) for name in ("clean", "degraded")}

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clean, degraded = (self.latents[name][batch["pair"]].float() for name in ("clean", "degraded"))
        condition = clean * batch["has_image"][:, None, None, None]
        return self.loss(model, batch | {"clean": clean, "degraded": degraded, "condition": condition})


def encode_pairs(
    codec: PatchCodec, arrays: dict[str, np.ndarray], file: Path, recoloured_share: float = 0.0
) -> dict[str, torch.Tensor]:
    """Encode stored pairs, or read what an earlier run, or the first of several processes, encoded.

    Args:
        recoloured_share: share of the pairs whose colour channels change places, in both images alike: a flake stays
            white on water of any colour.

    Returns:
        clean, degraded: float16 [N, C, h, w]; mu, sigma: [N]; degradation, phrase: [N], indices into DEGRADATIONS and
        PHRASES.
    """
    with processes().main_process_first():
        if not _is_whole(file):
            _encode_pairs(codec, arrays, file, recoloured_share)
    return torch.load(file, weights_only=True, mmap=True)


def _is_whole(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        torch.load(file, weights_only=True, mmap=True)
    except Exception:  # torch raises almost anything on damaged files
        print(f"{file} is damaged: the pairs are encoded anew.")
        return False
    return True


@torch.no_grad()
def _encode_pairs(codec: PatchCodec, arrays: dict[str, np.ndarray], file: Path, recoloured_share: float) -> None:
    device = processes().device
    codec = codec.to(device)
    encoded = {}
    chunk = 64
    rng = np.random.default_rng(0)
    order = np.tile(np.arange(3), (len(arrays["mu"]), 1))
    order = np.where(rng.random((len(order), 1)) < recoloured_share, rng.permuted(order, axis=1), order)
    order = torch.from_numpy(order).to(device)
    for name in ("clean", "degraded"):
        parts = []
        for start in tqdm(range(0, len(arrays["mu"]), chunk), desc=f"encoding {name} images"):
            some = slice(start, start + chunk)
            images = torch.from_numpy(np.array(arrays[name][some])).to(device)
            images = images.gather(1, order[some, :, None, None].expand_as(images))
            parts.append(codec.encode(to_model_range(images)).latents.half().cpu())
        encoded[name] = torch.cat(parts)
    encoded |= {name: torch.from_numpy(np.array(arrays[name])) for name in ("mu", "sigma")}
    encoded |= {name: torch.from_numpy(np.array(arrays[name])).long() for name in ("degradation", "phrase")}
    with whole_file(file) as part:
        torch.save(encoded, part)
    codec.to("cpu")


# -------------------------------------------------------------------------------------------------------- process


def channel_energy(codec: PatchCodec, residual_std: torch.Tensor) -> torch.Tensor:
    """Energy, in pixels, of a residual with deviations `residual_std` [C] of the latent channels: [C]."""
    return (residual_std * codec.unproject.weight.detach().flatten(1).norm(dim=0)).square()


def fit_bridge(
    codec: PatchCodec, latents: dict[str, torch.Tensor], noise_scale: tuple[float, float], smooth_noise_scale: float
) -> BridgeScheduler:
    """A scheduler that knows the residual's size in every channel.

    The channels with the most energy in pixels (local means: haze, darkness) get the lower noise scale and the smooth
    noise, those at or below the median (patterns) the upper one and none.
    """
    some = slice(0, 4000)
    residual = latents["degraded"][some].float() - latents["clean"][some].float()
    rho = residual.square().mean((0, 2, 3)).sqrt()
    energy = channel_energy(codec, rho)
    low, high = noise_scale
    position = ((energy / energy.median()).log() / (energy.max() / energy.median()).log()).clamp(0, 1)
    return BridgeScheduler(
        residual_std=[round(v, 5) for v in rho.tolist()],
        noise_scale=[round(v, 3) for v in (high + (low - high) * position).tolist()],
        smooth_noise_scale=[round(v, 3) for v in (smooth_noise_scale * position).tolist()],
    )


class BridgeLoss:
    """Weighted squared error of the predicted residual, and error of the intensity that it means.

    Channels are weighed by the square root of their residual's energy in pixels: by the energy itself, patterns would
    be lost; evenly, the network would spend itself on what nobody sees.
    """

    def __init__(self, scheduler: BridgeScheduler, codec: PatchCodec, intensity_weight: float):
        self.scheduler, self.intensity_weight = scheduler, intensity_weight
        self.unproject = codec.unproject.weight.detach().flatten(1)  # latents to the pixels of a patch, [192, C]
        weights = channel_energy(codec, torch.tensor(scheduler.config.residual_std)).sqrt()
        self.weights = (weights / weights.mean()).reshape(1, -1, 1, 1)

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scheduler, device = self.scheduler, batch["clean"].device
        time = batch["time"] * scheduler.config.num_train_timesteps
        noisy = scheduler.add_noise(batch["clean"], batch["degraded"], batch["noise"], time)
        seen = scheduler.network_input(noisy, batch["clean"], time)
        output = model(seen, time, batch["condition"], batch["tokens"], batch["asked_mu"], batch["asked_sigma"]).float()
        predicted = scheduler.predicted(output, noisy, batch["clean"], time)
        # Squared error grows with the square of the intensity; weak degradations must count too. So must late times,
        # where little is left to predict.
        sample_weight = 0.1 / (batch["mu"] + batch["sigma"] + 0.05)
        error = ((predicted - batch["degraded"]) / scheduler.output_scale(time, noisy)).square()
        error = (self.weights.to(device) * error).mean((1, 2, 3))
        reached, wanted = (self.intensity(end - batch["clean"]) for end in (predicted, batch["degraded"]))
        off = (reached - wanted).abs().sum(1) * batch["time"]
        loss = (sample_weight * error).mean() + self.intensity_weight * off.mean()
        return loss, {"error": error.mean(), "intensity_error": off.mean()}

    def intensity(self, residual: torch.Tensor) -> torch.Tensor:
        """Mean and deviation [B, 2] of the degradation map that a residual in the latents means, but for clipping."""
        pixels = torch.einsum("pc,bchw->bphw", self.unproject.to(residual), residual).abs().flatten(1) / 2
        return torch.stack([pixels.mean(1), pixels.std(1)], dim=1)


# ----------------------------------------------------------------------------------------------------------- main


@command_line
def main() -> None:
    options = {
        "--codec": {"type": Path, "help": "folder of the trained codec"},
        "--initial": {"help": "what to start from: a pipeline folder; or Stable Diffusion 1.5, a folder or on the Hub"},
        "--pairs": {"type": Path, "action": "append", "help": "folder of pairs; may be given several times"},
        **FIRST_STAGE,
        "--push-to-hub": {"metavar": "OWNER/NAME", "help": "upload the result there"},
    }
    recipe, args = read_recipe(__doc__, options)
    if args.push_to_hub:
        check_repository(args.push_to_hub)
    run = stable_diffusion.run if "stable_diffusion" in recipe else run_bridge
    run(recipe, args)
    if args.push_to_hub and processes().is_main_process:
        push_folder(args.output / "pipeline", args.push_to_hub)


def run_bridge(recipe: dict[str, Any], args: argparse.Namespace) -> None:
    """Train the compact profile into `args.output`/pipeline.

    Raises:
        UserError: for options or folders that do not fit; the message says which.
    """
    if (args.codec is None) == (args.initial is None):
        raise UserError("Name either the codec's folder (--codec), or a pipeline to start from (--initial).")
    if args.pairs:
        raise UserError("--pairs is for recipes that start from Stable Diffusion; this one simulates its pairs.")
    initial = GenDegPipeline.from_pretrained(args.initial) if args.initial else None
    codec = (initial.vae.float() if initial else PatchCodec.from_pretrained(args.codec)).eval()
    length = recipe["model"]["text"]["max_position_embeddings"]
    tokenizer = initial.tokenizer if initial else train_tokenizer(length)
    prompts = [f"{c}, {p}" if c else p for c in ["", *CAPTIONS] for p in PHRASES]
    tokens = tokenizer(
        [*prompts, ""], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
    null_tokens, tokens = tokens[-1], tokens[:-1].reshape(len(CAPTIONS) + 1, len(PHRASES), length)

    torch.manual_seed(recipe["seed"])
    model = Generator(recipe["model"], codec.config.latent_channels, len(tokenizer), tokenizer.eos_token_id)
    if initial:
        load_weights(model, initial)
    scheduler = initial.scheduler if initial else None
    for number, stage in stages_to_train(recipe, args):
        pairs = SimulatedPairs(Photos(args.photos), stage["size"], recipe["seed"])
        arrays = stored_pairs(pairs, stage["pairs"], args.output.parent, recipe["workers"])
        share = recipe["recoloured_share"]
        file = args.output / f"latents-{pairs.name(stage['pairs'])}-recoloured-{share}.pt"
        latents = encode_pairs(codec, arrays, file, share)
        scheduler = scheduler or fit_bridge(codec, latents, **recipe["bridge"])
        save = partial(
            save_pipeline,
            codec=codec,
            tokenizer=tokenizer,
            scheduler=scheduler,
            defaults=recipe["pipeline"],
            folder=args.output / "pipeline",
        )
        save = unless_a_later_stage_began(save, args.output, number)
        loss = BridgeLoss(scheduler, codec, recipe["intensity_weight"])
        shares = recipe["shares"] | stage.get("shares", {})
        data = LatentPairs(latents, shares, recipe["dropout"], tokens, null_tokens, scheduler, recipe["seed"] + number)
        loop, folder = LoopSettings(**stage["loop"]), args.output / f"stage-{number}"
        if "adversarial" in stage:
            settings = dict(stage["adversarial"])
            pair = AdversarialPair(model, Discriminator(len(PHRASES)))
            groups = pair.parameter_groups(settings.pop("discriminator_scale"))
            temperature = recipe["pipeline"].get("temperature") or {}
            loss = AdversarialLoss(loss, codec.to(processes().device), temperature=temperature, **settings)
            loss = WithLatents(loss, latents)
            train(pair, loss, data, loop, folder, partial(_save_generator_of, save=save), groups)
        else:
            train(model, WithLatents(loss, latents), data, loop, folder, save)


def save_pipeline(
    model: Generator,
    codec: PatchCodec,
    tokenizer: Any,
    scheduler: BridgeScheduler,
    defaults: dict[str, Any],
    folder: Path,
) -> None:
    """Write a whole pipeline folder."""
    trained = {name: getattr(model, name) for name in ("unet", "text_encoder", "intensity_projection")}
    write_pipeline(trained | {"vae": codec, "tokenizer": tokenizer, "scheduler": scheduler}, defaults, folder)


def _save_generator_of(pair: AdversarialPair, save: Callable[[Generator], None]) -> None:
    save(pair.generator)


def load_weights(model: Generator, pipeline: GenDegPipeline) -> None:
    """Put a pipeline's weights into the training module."""
    for name in ("unet", "text_encoder", "intensity_projection"):
        getattr(model, name).load_state_dict({k: v.float() for k, v in getattr(pipeline, name).state_dict().items()})


if __name__ == "__main__":
    sys.exit(main())
