"""How is the compact profile's generator trained? From random initialisation, by its recipe, in stages.

Pairs are encoded once by the trained codec, then the UNet, the text encoder and the intensity projection
learn to predict the bridge's residual. The result is a whole pipeline folder. Training runs in stages of growing image
size, each of which starts from the averaged weights of the one before.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from gendeg.codec import PatchCodec
from gendeg.intensity import NUM_BINS, IntensityProjection
from gendeg.pipeline import GenDegPipeline, predict
from gendeg.scheduler import BridgeScheduler
from runtime.errors import UserError
from training.command_line import stage_minutes, stages_to_train
from training.generator.bridge_loss import BridgeLoss, fit_bridge
from training.generator.latent_pairs import LatentPairs, encode_pairs
from training.generator.pipeline_folder import write_pipeline
from training.generator.tokenizer import CAPTIONS, train_tokenizer
from training.loop import LoopSettings, train, unless_a_later_stage_began
from training.pairs import PHRASES, stored_pairs, training_pairs


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
        make_intensities_heard(self.intensity_projection)
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


def make_intensities_heard(projection: IntensityProjection) -> None:
    """Begin with bins as cosines, of another frequency for each token and about as loud as the text; none is silence.

    From its usual beginning, weights of a tenth of that, nothing of mu and sigma was heard at t = 0 after 45,000
    samples.
    """
    place = (torch.arange(NUM_BINS) + 0.5) / NUM_BINS
    frequency = torch.arange(projection.config.tokens)[:, None]
    with torch.no_grad():
        projection.stats_proj.weight.zero_()
        projection.stats_proj.weight[:, :NUM_BINS] = torch.cos(torch.pi * frequency * place) / (1 + frequency) ** 0.5
        projection.stats_proj.bias.zero_()
        projection.cc_projection.weight[:, projection.config.width :].normal_()


def run(recipe: dict[str, Any], args: argparse.Namespace) -> None:
    """Train the compact profile into `args.output`/pipeline.

    Raises:
        UserError: for options or folders that do not fit; the message says which.
    """
    if (args.codec is None) == (args.initial is None):
        raise UserError("Name either the codec's folder (--codec), or a pipeline to start from (--initial).")
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
        began = time.monotonic()
        pairs = training_pairs(recipe, args, stage["size"])
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
        minutes = stage_minutes(recipe, stage, args)
        data = LatentPairs(
            latents, recipe["shares"], recipe["dropout"], tokens, null_tokens, scheduler, recipe["seed"] + number
        )
        loop, folder = LoopSettings.of(stage["loop"], minutes), args.output / f"stage-{number}"
        train(model, loss, data, loop, folder, save, began=began)


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


def load_weights(model: Generator, pipeline: GenDegPipeline) -> None:
    """Put a pipeline's weights into the training module.

    Raises:
        UserError: if they are of other sizes.
    """
    for name in ("unet", "text_encoder", "intensity_projection"):
        weights = {key: value.float() for key, value in getattr(pipeline, name).state_dict().items()}
        try:
            getattr(model, name).load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"--initial: its {name} has other sizes than the recipe's.") from error
