"""Models that are whole but tiny and untrained, and the app that serves them; for tests, benchmarks and fuzzing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import app
from gendeg import GenDegPipeline, checkpoints
from gendeg.degradations import DEGRADATIONS
from gendeg.importer import NOISE_SCHEDULE
from gendeg.intensity import IntensityProjection
from restorers import registry, save_restorer
from restorers.nafnet import NAFNet
from restorers.promptir import PromptIR
from restorers.swin import SwinRestorer
from training.benchmarks.create_dataset import stub_model
from training.generator.tokenizer import train_tokenizer


def pipeline(folder: Path) -> Path:
    """Make a folder of a random-weight pipeline whose codec reconstructs photographs."""
    photo = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None]
    stub_model(folder, photo / 127.5 - 1)
    return folder


def paper_pipeline(folder: Path) -> Path:
    """Make one of the paper's process: AutoencoderKL, noise to latent, three-way guidance."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(77)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    scheduler = EulerAncestralDiscreteScheduler(**NOISE_SCHEDULE)
    projection = IntensityProjection(tokens=77, width=16)
    pipe = GenDegPipeline(vae, CLIPTextModel(text), tokenizer, projection, unet, scheduler, resolution=64)
    pipe.save_pretrained(folder)
    return folder


def restorers(folder: Path) -> Path:
    """Make a folder of random-weight restorers under the bundled names."""
    torch.manual_seed(0)
    for network in (
        NAFNet(width=4, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1)),
        PromptIR(dim=8, num_blocks=(1, 1, 1, 1), prompt_dims=(4, 4, 8), prompt_sizes=(4, 4, 4)),
        SwinRestorer(encoder_kwargs={"embed_dim": 8, "num_heads": (1, 1, 1, 1), "window_size": 2}, stem_width=4),
    ):
        save_restorer(network, folder / network.architecture, list(DEGRADATIONS))
    return folder


@contextmanager
def served(pipeline: Path | None, restorers: Path | None, uploads: Path) -> Iterator[str]:
    """Address of the running app, of these models or of its own; its files lie in `uploads`."""
    with pytest.MonkeyPatch.context() as patch:
        # An app that ends deletes its files; they must not be the next one's, which has the same photographs.
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        if pipeline and restorers:
            patch.setenv("GENDEG_MODEL", str(pipeline))
            patch.setattr(registry, "BUNDLED", restorers)
            for module in (registry, checkpoints):
                patch.setattr(module, "MODELS", restorers / "none")
            patch.delenv("GENDEG_CAPTIONS", raising=False)
        demo = app.build()
        _, url, _ = app.launch(demo, prevent_thread_lock=True, quiet=True)
        yield url
        demo.close()
