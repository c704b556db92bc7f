"""Time and memory of importing the authors' files at full size, with random weights in their place.

python -m training.benchmarks.importer [--folder DIR]

Needs about 13 GB of disk in DIR (default: where temporary files go). The files are laid out like the published ones;
the names are our own account of them, which the tests hold against diffusers' converters.
"""

from __future__ import annotations

import argparse
import json
import mmap
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from gendeg.importer import FULL_SIZE
from gendeg.intensity import IntensityProjection
from gendeg.structure_correction import StructureCorrection

# Pattern -> replacement, applied in this order.
_UNET_NAMES = {
    r"(resnets\.\d+)\.norm1\.": r"\1.in_layers.0.",
    r"(resnets\.\d+)\.conv1\.": r"\1.in_layers.2.",
    r"(resnets\.\d+)\.time_emb_proj\.": r"\1.emb_layers.1.",
    r"(resnets\.\d+)\.norm2\.": r"\1.out_layers.0.",
    r"(resnets\.\d+)\.conv2\.": r"\1.out_layers.3.",
    r"(resnets\.\d+)\.conv_shortcut\.": r"\1.skip_connection.",
    r"^mid_block\.resnets\.0\.": "middle_block.0.",
    r"^mid_block\.attentions\.0\.": "middle_block.1.",
    r"^mid_block\.resnets\.1\.": "middle_block.2.",
    r"^conv_in\.": "input_blocks.0.0.",
    r"^time_embedding\.linear_1\.": "time_embed.0.",
    r"^time_embedding\.linear_2\.": "time_embed.2.",
    r"^conv_norm_out\.": "out.0.",
    r"^conv_out\.": "out.2.",
}
_VAE_NAMES = {
    r"mid_block\.resnets\.0\.": "mid.block_1.",
    r"mid_block\.resnets\.1\.": "mid.block_2.",
    r"mid_block\.attentions\.0\.": "mid.attn_1.",
    r"\.group_norm\.": ".norm.",
    r"\.to_([qkv])\.": r".\1.",
    r"\.to_out\.0\.": ".proj_out.",
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
    r"down_blocks\.(\d+)\.resnets": r"down.\1.block",
    r"down_blocks\.(\d+)\.downsamplers\.0": r"down.\1.downsample",
    r"up_blocks\.(\d+)\.resnets": r"up.\1.block",
    r"up_blocks\.(\d+)\.upsamplers\.0": r"up.\1.upsample",
}


def original_unet(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The UNet's weights under the names of Stable Diffusion's own code, without a prefix."""
    # There, all layers of a direction are counted through: resnets (with attention), then what resamples.
    per_block = unet.config.layers_per_block + 1
    attends = [kind.startswith("CrossAttn") for kind in unet.config.up_block_types]

    def place(match: re.Match[str]) -> str:
        side, block, kind, layer = match[1], int(match[2]), match[3], int(match[4])
        number = block * per_block + layer
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * per_block}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{(block + 1) * per_block - 1}.{1 + attends[block]}.conv"
        index = 0 if kind == "resnets" else 1
        return f"input_blocks.{number + 1}.{index}" if side == "down" else f"output_blocks.{number}.{index}"

    renamed = {}
    for name, tensor in unet.state_dict().items():
        for pattern, replacement in _UNET_NAMES.items():
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+samplers|resnets|attentions)\.(\d+)(\.conv\b)?", place, name)
        renamed[name] = tensor
    return renamed


def original_vae(vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """The autoencoder's weights under the names and in the shapes of Stable Diffusion's own code, without a prefix."""
    last = len(vae.config.up_block_types) - 1
    renamed = {}
    for name, tensor in vae.state_dict().items():
        if re.search(r"attentions\.0\.to_.*weight", name):
            tensor = tensor[:, :, None, None]  # convolutions there
        for pattern, replacement in _VAE_NAMES.items():
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"\.up\.(\d+)", lambda match: f".up.{last - int(match[1])}", name)  # from fine to coarse there
        renamed[name] = tensor
    return renamed


def original_text_encoder(text_encoder: CLIPTextModel) -> dict[str, torch.Tensor]:
    """The text encoder's weights under the names of the transformers of that time, without a prefix."""
    weights = text_encoder.state_dict()
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights.items()}


def original_layout(networks: Mapping[str, nn.Module], averaged_unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """All tensors of the authors' generator file.

    Args:
        networks: unet, vae, text_encoder, intensity_projection.
        averaged_unet: the exponential moving average of the UNet.
    """
    positions = torch.arange(networks["text_encoder"].config.max_position_embeddings)[None]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    text = "cond_stage_model.transformer."
    return {
        "betas": betas,
        "alphas_cumprod": torch.cumprod(1 - betas, 0),
        **{f"model.diffusion_model.{name}": tensor for name, tensor in original_unet(networks["unet"]).items()},
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(1000),
        **{
            f"model_ema.diffusion_model{name.replace('.', '')}": tensor
            for name, tensor in original_unet(averaged_unet).items()
        },
        **{f"first_stage_model.{name}": tensor for name, tensor in original_vae(networks["vae"]).items()},
        f"{text}text_model.embeddings.position_ids": positions,
        **{f"{text}{name}": tensor for name, tensor in original_text_encoder(networks["text_encoder"]).items()},
        **networks["intensity_projection"].state_dict(),
    }


def write_random(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a file of random numbers in the shapes of `state`, in place: memory need not hold the whole."""
    empty = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()}
    with torch.serialization.skip_data():
        torch.save({"state_dict": empty, "epoch": 1, "global_step": 1}, path)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):  # what is changed in memory changes on disk
        for tensor in torch.load(path, mmap=True, weights_only=True)["state_dict"].values():
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)


def write_tokenizer(folder: Path, size: int) -> None:
    """Write a tokenizer of as many made-up tokens."""
    tokens = [*(f"<{number}>" for number in range(size - 2)), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files are written for the time of the run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        generator, correction, output = folder / "gendeg.ckpt", folder / "nafnet_sd.ckpt", folder / "imported"
        text = CLIPTextConfig(**FULL_SIZE["text_encoder"])
        with init_empty_weights():
            unet = UNet2DConditionModel(**FULL_SIZE["unet"])
            networks = {
                "unet": unet,
                "vae": AutoencoderKL(**FULL_SIZE["vae"]),
                "text_encoder": CLIPTextModel(text),
                "intensity_projection": IntensityProjection(text.max_position_embeddings, text.hidden_size),
            }
            module = StructureCorrection()
        write_random(original_layout(networks, unet), generator)
        write_random(module.state_dict(), correction)
        write_tokenizer(folder / "tokenizer", text.vocab_size)
        command = [sys.executable, "-m", "gendeg.importer", generator, "--output", output]
        command += ["--structure-correction", correction, "--tokenizer", folder / "tokenizer"]
        started = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(f"read {(generator.stat().st_size + correction.stat().st_size) / 1e9:.2f} GB, wrote {size / 1e9:.2f} GB")
        print(f"{seconds:.1f} s, peak resident memory {peak:.2f} GiB, pages of the mapped file included")


if __name__ == "__main__":
    main()
