"""How do the authors' files become a pipeline folder? Through diffusers' converters of Stable Diffusion's own layout.

python -m gendeg.importer gendeg.ckpt --structure-correction nafnet_sd.ckpt --output FOLDER

The generator's file holds Stable Diffusion v1 in its original layout with a UNet of eight input channels, that UNet's
exponential moving average, which is the copy to use (`model_ema.`, the dots of the names left out), and the two
projections of the intensity (GenDeg, arXiv 2411.17687, Section 3.2).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gendeg.checkpoints import quiet, with_preset
from gendeg.intensity import IntensityProjection
from gendeg.pipeline import GenDegPipeline
from gendeg.structure_correction import StructureCorrection
from runtime.errors import UserError
from runtime.weights import check_tensors, read_state_dict

TOKENIZER = "openai/clip-vit-large-patch14"
State = dict[str, torch.Tensor]
# What differs from the classes' defaults in Stable Diffusion v1.5, with four more input channels for the clean latent.
FULL_SIZE: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 64,
        "in_channels": 8,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,  # diffusers' name for the number of heads
        "cross_attention_dim": 768,
    },
    "vae": {
        "sample_size": 512,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "scaling_factor": 0.18215,
    },
    "text_encoder": {  # CLIP ViT-L/14
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
}
NOISE_SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
RESOLUTION = 512
_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
_LISTED = 3


def import_checkpoint(
    generator: str | Path,
    structure_correction: str | Path | None = None,
    tokenizer: str | Path = TOKENIZER,
    sizes: Mapping[str, Mapping[str, Any]] = FULL_SIZE,
) -> GenDegPipeline:
    """Read the authors' files into a pipeline on the CPU, in the files' precision, with the preset "fast".

    Args:
        generator: gendeg.ckpt; or the same names in a .safetensors file.
        structure_correction: nafnet_sd.ckpt; None: a pipeline without structure correction.
        tokenizer: folder or Hub repository of CLIP's tokenizer, which the files do not hold.
        sizes: arguments of UNet2DConditionModel, AutoencoderKL and CLIPTextConfig, by component.

    Raises:
        UserError: for a file that is missing, damaged, would run code or holds other weights; the message says which.
    """
    text_config = CLIPTextConfig(**sizes["text_encoder"])
    words = _read_tokenizer(tokenizer, text_config)
    correction = None
    if structure_correction is not None:
        file = Path(structure_correction)
        weights = _read(file)
        try:
            correction = StructureCorrection.from_state_dict(weights)
        except UserError as error:
            raise UserError(f"{file.name}: {error}") from error
    with init_empty_weights():
        networks: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel(**sizes["unet"]),
            "vae": AutoencoderKL(**sizes["vae"]),
            "text_encoder": CLIPTextModel(text_config),
        }
    networks["intensity_projection"] = IntensityProjection(text_config.max_position_embeddings, text_config.hidden_size)
    _fill(networks, Path(generator))
    pipeline = GenDegPipeline(
        **networks,
        tokenizer=words,
        scheduler=EulerAncestralDiscreteScheduler(**NOISE_SCHEDULE),
        structure_correction=correction,
        resolution=RESOLUTION,
    )
    return with_preset(pipeline, "fast")


def save_imported(pipeline: GenDegPipeline, output: Path) -> None:
    """Write the pipeline as a folder, which appears when it is complete; an empty one may be there already.

    Raises:
        UserError: if it cannot be written; the message says why.
    """
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        pipeline.save_pretrained(part)
        if output.exists():
            output.rmdir()
        os.replace(part, output)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{output} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------- reading


_TOKENIZER_FORMS = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_TOKENIZER_FILES = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


def _read_tokenizer(source: str | Path, text: CLIPTextConfig) -> CLIPTokenizer:
    try:
        # Left to find out itself that there is no network, transformers tries for minutes, then knows no words.
        folder = source if Path(source).is_dir() else snapshot_download(str(source), allow_patterns=_TOKENIZER_FILES)
        if not any(all((Path(folder) / name).is_file() for name in names) for names in _TOKENIZER_FORMS):
            raise FileNotFoundError(f"{folder} holds no tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=text.max_position_embeddings)
    except Exception as error:  # the libraries raise almost anything on damaged files, and without a network
        raise UserError(
            f"The tokenizer {str(source)!r} cannot be read. Name a folder that holds CLIP's vocab.json and merges.txt: "
            f"--tokenizer FOLDER."
        ) from error
    if len(tokenizer) != text.vocab_size:
        raise UserError(
            f"The tokenizer {str(source)!r} knows {len(tokenizer)} tokens, the text encoder {text.vocab_size}."
        )
    return tokenizer


def _fill(networks: Mapping[str, nn.Module], file: Path) -> None:
    """Give the networks the weights of the generator's file; tensors stay on disk until they are needed.

    Raises:
        UserError: if names or shapes are not exactly those of the networks.
    """
    state = _read(file)
    missing: list[str] = []
    surplus: list[str] = []
    misshapen: list[str] = []
    for component, network in networks.items():
        part = _take(component, state, missing)
        try:
            weights = _convert(component, network, part)
        except KeyError as error:  # the converters take some names for granted
            missing.append(str(error.args[0]))
            continue
        expected = network.state_dict()
        used = {tensor.data_ptr() for name, tensor in weights.items() if name in expected}
        surplus += [name for name, tensor in part.items() if tensor.data_ptr() not in used]
        if part:
            missing += [f"{component}.{name}" for name in expected if name not in weights]
        misshapen += [
            f"{component}.{name} (expected {list(expected[name].shape)}, found {list(tensor.shape)})"
            for name, tensor in weights.items()
            if name in expected and tensor.shape != expected[name].shape
        ]
        if not (missing or surplus or misshapen):
            try:
                check_tensors({name: weights[name] for name in expected})
            except UserError as error:
                raise UserError(f"{file.name}, {component}: {error}") from error
            network.load_state_dict(weights, assign=True)
            network.eval()
    # The noise schedule and counters are vectors and numbers of the model itself; the scheduler states the former.
    surplus += [name for name, tensor in state.items() if "." in name and tensor.ndim > 0]
    complaints = (("missing", missing), ("unknown", surplus), ("of another size", misshapen))
    if missing or surplus or misshapen:
        lists = "; ".join(f"{title}: {_shortened(names)}" for title, names in complaints if names)
        raise UserError(f"{file.name} does not hold the generator. {lists[0].upper()}{lists[1:]}.")


def _read(file: Path) -> State:
    """All tensors of a file."""
    content = read_state_dict(file)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise UserError(f"{file.name} holds no weights: its state_dict is a {type(state).__name__}.")
    return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _take(component: str, state: State, missing: list[str]) -> State:
    """Remove a component's tensors from the state, under their original names; of the UNet the averaged copy."""
    if component == "intensity_projection":
        names = [name for name in state if name.startswith(("stats_proj.", "cc_projection."))]
    else:
        names = [name for name in state if name.startswith(_PREFIXES[component])]
    if not names:
        missing.append(f"{_PREFIXES.get(component, 'stats_proj. and cc_projection.')}*")
    part = {name: state.pop(name) for name in names}
    part.pop(f"{_PREFIXES['text_encoder']}text_model.embeddings.position_ids", None)  # 0 to 76, no weights
    for name in part if component == "unet" else ():
        averaged = "model_ema." + name.removeprefix("model.").replace(".", "")
        if averaged in state:
            part[name] = state.pop(averaged)
        else:
            missing.append(averaged)
    return part


def _convert(component: str, network: nn.Module, part: State) -> State:
    """Original names to the network's own."""
    if component == "unet":
        weights = convert_ldm_unet_checkpoint(part, network.config)
    elif component == "vae":
        weights = convert_ldm_vae_checkpoint(part, network.config)
    elif component == "text_encoder":
        weights = convert_ldm_clip_checkpoint(part)
        if not hasattr(network, "text_model"):  # which of both depends on the version of transformers
            weights = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    else:
        weights = part
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


def _shortened(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


# --------------------------------------------------------------------------------------------------------- command


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0; 2 after a sentence on stderr; 130 after Ctrl-C."""
    args = _parser().parse_args(arguments)
    quiet()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    try:
        if args.output.exists() and not (args.output.is_dir() and not any(args.output.iterdir())):
            raise UserError(f"{args.output} is there already. Choose a new folder.")
        if args.push_to_hub:
            check_repository(args.push_to_hub)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        pipeline = import_checkpoint(args.generator, args.structure_correction, args.tokenizer)
        save_imported(pipeline, args.output)
        print(f'Imported into {args.output}. Use it by that name: load_pipeline("{args.output}").')
        if args.push_to_hub:
            try:
                push_folder(args.output, args.push_to_hub)
            except KeyboardInterrupt:
                upload = f"hf upload {args.push_to_hub} {args.output}"
                print(f"import: Stopped; {args.output} is complete. To upload it: {upload}", file=sys.stderr)
                return 130
    except UserError as error:
        print(f"import: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of the output's parents; all else is answered where it happens
        print(f"import: {args.output} cannot be written: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("import: Stopped; nothing was written.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gendeg.importer", description="Makes a pipeline folder of the authors' files."
    )
    parser.add_argument("generator", type=Path, help="the authors' gendeg.ckpt")
    parser.add_argument(
        "--structure-correction", type=Path, metavar="FILE", help="the authors' nafnet_sd.ckpt (default: without)"
    )
    parser.add_argument("--tokenizer", default=TOKENIZER, help="folder or Hub repository (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the folder there")
    return parser


def check_repository(name: str) -> None:
    """Complain before long work about what cannot be the name of a Hub repository.

    Raises:
        UserError: unless it is owner/name, or a name alone.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push-to-hub: {name!r} is no name of a repository, owner/name.") from error


def push_folder(folder: Path, repository: str, what: str = "pipeline", **options: Any) -> None:
    """Upload a folder to a Hub repository, which is created where there is none, and say so.

    Args:
        what: it holds, in words.
        options: `repo_type`, where it is no model's, and others of `HfApi.upload_folder`.

    Raises:
        UserError: if the Hub does not take it; the message says why, and how to try again.
    """
    api = HfApi()
    try:
        api.create_repo(repository, repo_type=options.get("repo_type"), exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, **options)
    except Exception as error:  # which class a failed connection has depends on the version of the Hub's client
        reason = str(error).partition("\n")[0].rstrip(".")
        again = "run the same command again" if options else f"upload it with `hf upload {repository} {folder}`"
        raise UserError(
            f"The {what} is complete in {folder}, but the Hub did not take it: {reason}. "
            f"Log in with `hf auth login`, then {again}."
        ) from error
    print(f"Uploaded to {repository}.")


if __name__ == "__main__":
    sys.exit(main())
