"""Where does a generator come from? The bundled one, a local folder, a Hugging Face Hub repository.

The authors' own file becomes such a folder by gendeg/importer.py.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import CLIPTextModel

from gendeg.folder import (
    INDEX,
    check_component_settings,
    check_folder,
    check_index,
    component_class,
    text_config,
    try_out,
)
from gendeg.memory import TILE_PIXELS, fits, network_sizes
from gendeg.pipeline import GenDegPipeline
from gendeg.scheduler import BridgeScheduler
from runtime.errors import UserError
from runtime.memory import free_memory, is_out_of_memory, release_memory
from runtime.paths import ASSETS, MODELS
from runtime.settings import read_json
from runtime.zero_gpu import zero_gpu

BUNDLED = ASSETS / "checkpoints"
_HUB_FILES = ("*.json", "*.safetensors", "*/merges.txt")
_DEFAULTS = {name: p.default for name, p in inspect.signature(GenDegPipeline.__init__).parameters.items()}


@dataclass(frozen=True)
class Preset:
    """How to sample: a diffusers scheduler, and defaults of a call."""

    scheduler: type[Any]
    num_inference_steps: int
    guidance_scale: float = _DEFAULTS["guidance_scale"]
    image_guidance_scale: float = _DEFAULTS["image_guidance_scale"]


# Both start at the last training timestep, where the noise is strongest, as the paper's sampler does.
PRESETS = {
    "fast": Preset(DPMSolverMultistepScheduler, 15),
    "paper": Preset(EulerAncestralDiscreteScheduler, 100),
}


@dataclass(frozen=True)
class Settings:
    """What a generator's call does unless it is told otherwise, and what it can do.

    Attributes:
        num_inference_steps, guidance_scale, image_guidance_scale, resolution: see `GenDegPipeline`.
        presets: names of PRESETS that it can sample by.
        structure_correction: whether it holds a structure correction module.
    """

    num_inference_steps: int | dict[str, int]
    guidance_scale: float | dict[str, float]
    image_guidance_scale: float
    resolution: int
    presets: tuple[str, ...]
    structure_correction: bool


def available_models() -> dict[str, str | Path]:
    """Generators that the app offers, the one it starts with first: name -> what `load_pipeline` takes.

    These are the one that GENDEG_MODEL names (bundled, folder or Hub repository), the bundled ones, and the folders in
    `models/` that hold a GenDegPipeline, which are called "models/<folder>".
    """
    known: dict[str, str | Path] = {f.parent.name: f.parent for f in sorted(BUNDLED.glob(f"*/{INDEX}"))}
    for file in sorted(MODELS.glob(f"*/{INDEX}")):
        try:
            kind = json.loads(file.read_text(encoding="utf-8"))["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logging.warning("%s is left out of the models: it cannot be read (%r).", file, error)
            continue
        if kind == GenDegPipeline.__name__:
            known[f"{MODELS.name}/{file.parent.name}"] = file.parent
    first = os.environ.get("GENDEG_MODEL") or "compact"
    for name, source in known.items():
        if name == first or (Path(first).is_dir() and Path(source).samefile(first)):
            return {name: source} | known
    return {first: first} | known


def read_settings(source: str | Path) -> Settings:
    """The settings of a generator that `load_pipeline` takes; its weights are not read.

    Raises:
        UserError: if there is no such generator, or one of its settings is not of the kind it must be.
    """
    source = _find(source)
    if Path(source).is_dir() and (Path(source) / INDEX).is_file():
        config = read_json(Path(source) / INDEX)
        check_index(config, str(source))
        check_component_settings(Path(source), config)
    else:
        try:
            config = GenDegPipeline.load_config(source)
        except (OSError, HFValidationError, ValueError) as error:
            raise UserError(_unknown(source)) from error
        check_index(config, str(source))
    own = (field.name for field in fields(Settings) if field.name not in ("presets", "structure_correction"))
    return Settings(
        **{name: config.get(name, _DEFAULTS[name]) for name in own},
        presets=() if component_class(config, "scheduler", INDEX) is BridgeScheduler else tuple(PRESETS),
        structure_correction=component_class(config, "structure_correction", INDEX) is not None,
    )


def load_pipeline(
    name_or_path: str | Path = "compact",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    preset: str | None = None,
    offload: bool | None = None,
    compile: bool | None = None,
) -> GenDegPipeline:
    """Load a generator, ready to call.

    On CUDA the networks lie channels-last, which its convolutions are fastest with; attention is torch's scaled dot
    product everywhere, as diffusers has it. What is not given is taken from an environment variable, then chosen:

    Args:
        name_or_path: "compact" (the bundled one), a folder that `save_pretrained` wrote, or a Hub repository.
        device: GENDEG_DEVICE; else CUDA where there is one, else the CPU.
        dtype: GENDEG_DTYPE (float16, bfloat16 or float32); else float16 on CUDA, float32 elsewhere. bfloat16 is not
            chosen by itself: its 8 significant bits are hardly finer than the 256 brightnesses of an image.
        preset: how to sample, see `with_preset`; default: as the generator was saved.
        offload: whether the networks lie in main memory, and on the GPU only while they are at work. GENDEG_OFFLOAD
            (0 or 1); else if the GPU's free memory is too small for all of them, even with its codec in tiles.
        compile: whether torch.compile translates the UNet, which takes minutes at the first call and for every new
            size of image, and speeds up all others. GENDEG_COMPILE (0 or 1); else not.

    Raises:
        UserError: if there is no such model, it is not a GenDeg pipeline or has no such preset, there is not enough
            memory, or the options are not possible here.
    """
    device = _device(device or os.environ.get("GENDEG_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or _dtype() or (torch.float16 if device.type == "cuda" else torch.float32)
    offload = _switch("GENDEG_OFFLOAD") if offload is None else offload
    compile = _switch("GENDEG_COMPILE") if compile is None else compile
    if device.type != "cuda" and (offload or compile):
        raise UserError(f"Offload and compile are for a CUDA GPU; the model is to run on: {device.type}.")
    if offload and compile:
        raise UserError("A compiled model cannot be offloaded. Choose one of both.")
    source = _find(name_or_path)
    folder = _folder(source)
    pipeline, failed = None, False
    try:
        pipeline = _from_pretrained(folder, dtype)
        if preset is not None:
            pipeline = with_preset(pipeline, preset)
        pipeline.set_progress_bar_config(disable=True)
        if device.type == "cuda":
            channels_last(pipeline)
            if offload is None and not compile and not zero_gpu():  # ZeroGPU's memory is known in its calls only
                offload = _too_large(pipeline, device)
        if offload:
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.to(device)
        if not zero_gpu():  # which has its GPU in calls only
            try_out(pipeline, folder)
    except Exception as error:
        failed = is_out_of_memory(error)
        if not failed:
            raise
    if failed:  # said outside, where the error does not hold the memory any more
        del pipeline
        release_memory()
        advice = ", or set GENDEG_OFFLOAD=1" if device.type == "cuda" and not offload else ""
        raise UserError(
            f"There is not enough memory on {device} for the model {Path(name_or_path).name!r}. End other programs "
            f"that use it{advice}."
        )
    if compile:
        pipeline.unet.compile()
    return pipeline


def quiet() -> None:
    """Without a bar for every file that the libraries load."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def _folder(source: str | Path) -> Path:
    """A generator's folder; a Hub repository's own is downloaded."""
    if Path(source).is_dir():
        if not (Path(source) / INDEX).is_file():
            raise UserError(f"{Path(source).name} is not a GenDeg pipeline: it holds no {INDEX}.")
        return Path(source)
    read_settings(source)  # before gigabytes of something else are downloaded
    try:
        return Path(snapshot_download(str(source), allow_patterns=_HUB_FILES))
    except Exception as error:  # which class a failed connection has depends on the version of the Hub's client
        raise UserError(_unknown(source)) from error


def _from_pretrained(folder: Path, dtype: torch.dtype) -> GenDegPipeline:
    check_folder(folder, dtype)
    try:
        text = folder / "text_encoder"
        text_encoder = CLIPTextModel.from_pretrained(
            text, config=text_config(text), dtype=dtype, use_safetensors=True, local_files_only=True
        )
        return GenDegPipeline.from_pretrained(
            folder, text_encoder=text_encoder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # the libraries raise almost anything on damaged files
        if is_out_of_memory(error):
            raise
        raise UserError(f"The folder {folder.name} lacks files of a generator, or they are damaged.") from error


def channels_last(pipeline: GenDegPipeline) -> None:
    """Store the weights of convolutions with the channels last; results stay the same."""
    for network in (pipeline.unet, pipeline.vae, pipeline.structure_correction):
        if network is not None:
            network.to(memory_format=torch.channels_last)


def _too_large(pipeline: GenDegPipeline, device: torch.device) -> bool:
    pixels = min(pipeline.config.resolution * pipeline.config.max_side, TILE_PIXELS)
    return not fits(free_memory(device), sum(network_sizes(pipeline)), pixels, pipeline.vae.dtype.itemsize)


def _find(name_or_path: str | Path) -> str | Path:
    """A bundled name as its folder; anything else as it is."""
    bundled = BUNDLED / name_or_path
    return bundled if (bundled / INDEX).is_file() else name_or_path


def _unknown(name_or_path: str | Path) -> str:
    bundled = ", ".join(sorted(f.parent.name for f in BUNDLED.glob(f"*/{INDEX}"))) or "none"
    return (
        f"No generator {str(name_or_path)!r}: not bundled (there is: {bundled}), not a folder, and no readable "
        f"Hub repository."
    )


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"There is no kind of device {name!r}. Choose cpu, cuda, or cuda:1 for the second GPU."
        ) from None
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device.type not in ("cpu", "cuda") and (here is None or here.type != device.type):
        raise UserError(f"There is no device of the kind {device.type!r} here. Choose cpu.")
    missing = device.type == "cuda" and not torch.cuda.is_available()
    if missing or (device.type == "cuda" and device.index and device.index >= torch.cuda.device_count()):
        raise UserError(f"There is no CUDA device {str(name)!r} here. Without one, choose cpu.")
    return device


def _dtype() -> torch.dtype | None:
    name = os.environ.get("GENDEG_DTYPE")
    if name and name not in ("float16", "bfloat16", "float32"):
        raise UserError(f"GENDEG_DTYPE must be float16, bfloat16 or float32, not {name}.")
    return getattr(torch, name) if name else None


def _switch(variable: str) -> bool | None:
    value = os.environ.get(variable)
    if value and value not in ("0", "1"):
        raise UserError(f"{variable} must be 0 or 1, not {value}.")
    return value == "1" if value else None


def with_preset(pipeline: GenDegPipeline, name: str) -> GenDegPipeline:
    """A generator that samples from noise, sampling in one of two ways; the given one stays as it is.

    Args:
        name: "paper": the published sampler, 100 Euler-ancestral steps; "fast": 15 steps of DPM-Solver++. A step is
            three evaluations of the network, for guidance.

    Returns:
        A pipeline of the same networks, which `save_pretrained` writes with that choice.

    Raises:
        UserError: if there is no such preset, or the pipeline samples by a bridge, which has no use for one.
    """
    if name not in PRESETS:
        raise UserError(f"There is no preset {name!r}. Choose one of: {', '.join(PRESETS)}.")
    if isinstance(pipeline.scheduler, BridgeScheduler):
        raise UserError(
            f"The preset {name!r} is for generators that start from noise; this one starts from the photograph, and "
            f"has only a number of steps to choose."
        )
    defaults = asdict(PRESETS[name])
    scheduler = defaults.pop("scheduler")
    sampled = copy.copy(pipeline)
    sampled.scheduler = scheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")
    sampled.register_to_config(**defaults)
    return sampled
