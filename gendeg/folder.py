"""Is a folder a generator, whole and harmless? Its settings and weights are looked through before anything is built.

Only classes named here are built, only safetensors are read, and of the text encoder's config only what describes a
CLIP: a folder from anywhere can name neither code nor addresses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from gendeg.codec import PatchCodec
from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import IntensityProjection
from gendeg.pipeline import GenDegPipeline
from gendeg.scheduler import BridgeScheduler
from gendeg.structure_correction import LayeredCorrection, StructureCorrection
from runtime.errors import UserError
from runtime.memory import is_out_of_memory
from runtime.settings import check_settings, read_json
from runtime.weights import check_tensors

INDEX = "model_index.json"
NETWORKS: dict[str, tuple[type[Any], ...]] = {
    "unet": (UNet2DConditionModel,),
    "vae": (AutoencoderKL, PatchCodec),
    "text_encoder": (CLIPTextModel,),
    "intensity_projection": (IntensityProjection,),
    "structure_correction": (StructureCorrection, LayeredCorrection),
}
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_TEXT_SETTINGS = (
    *("vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range"),
    *("initializer_factor", "pad_token_id", "bos_token_id", "eos_token_id"),
)
_RANGES = {
    "resolution": (32, 4096),
    "max_side": (32, 16384),
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0, 100),
    "image_guidance_scale": (0, 100),
    "temperature": (0, 100),
}
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # of VAEs


def check_index(config: Mapping[str, Any], source: str) -> None:
    """Complain about what a generator's model_index.json must not say: other classes, settings of a wrong kind.

    Raises:
        UserError: names the file and the setting.
    """
    if config.get("_class_name") != GenDegPipeline.__name__:
        raise UserError(f"{source} is not a GenDeg pipeline but a {config.get('_class_name')}.")
    file = f"{Path(source).name}/{INDEX}"
    for name in (*NETWORKS, "tokenizer", "scheduler"):
        component_class(config, name, file)
    settings = {k: v for k, v in config.items() if k not in NETWORKS and k not in ("tokenizer", "scheduler")}
    check_settings(settings, GenDegPipeline, file)
    for name, (lowest, highest) in _RANGES.items():
        value, what = settings.get(name), f"{file}: the setting {name!r}"
        if isinstance(value, Mapping) and (value.keys() - DEGRADATIONS or (name != "temperature" and len(value) < 6)):
            raise UserError(f"{what} must have one value for each of {', '.join(DEGRADATIONS)}.")
        values = value.values() if isinstance(value, Mapping) else [] if value is None else [value]
        for entry in values:
            pair = name == "temperature"
            if pair and len(entry) != 2:
                raise UserError(f"{what} must have two numbers for a degradation, not {entry}.")
            for number in entry if pair else [entry]:
                if not lowest <= number <= highest:
                    raise UserError(f"{what} must be from {lowest} to {highest}, not {number}.")


def component_class(config: Mapping[str, Any], name: str, file: str) -> type[Any] | str | None:
    """The class that a generator's index names for a component (of a tokenizer its name); None for an optional one.

    Raises:
        UserError: if it is none that a generator is made of.
    """
    stated = config.get(name)
    if name == "structure_correction" and stated in (None, [None, None]):
        return None
    if isinstance(stated, list) and len(stated) == 2 and all(isinstance(part, str) for part in stated):
        library, kind = stated
        for known in (*NETWORKS.get(name, ()), *((BridgeScheduler,) if name == "scheduler" else ())):
            if kind == known.__name__ and library in (known.__module__, known.__module__.partition(".")[0]):
                return known
        if name == "tokenizer" and library == "transformers" and kind in _TOKENIZERS:
            return kind
        if name == "scheduler" and library == "diffusers" and re.fullmatch(r"[A-Za-z0-9]+Scheduler", kind):
            found = getattr(diffusers, kind, None)
            if isinstance(found, type) and issubclass(found, SchedulerMixin):
                return found
    raise UserError(f"{file}: the setting {name!r} names no {name.replace('_', ' ')} of a generator but {stated!r}.")


def check_folder(folder: Path, dtype: torch.dtype) -> None:
    """Look through a generator's settings, and the names, shapes and values of its weights, to be loaded as `dtype`.

    Raises:
        UserError: names the file and what is wrong in it.
    """
    config = read_json(folder / INDEX)
    check_index(config, str(folder))
    check_component_settings(folder, config)
    for name in NETWORKS:
        kind = component_class(config, name, INDEX)
        if kind is None:
            continue
        own = folder / name
        try:
            with init_empty_weights():
                network = kind(text_config(own)) if kind is CLIPTextModel else kind(**_settings(own / "config.json"))
        except UserError:
            raise
        except Exception as error:  # layers raise almost anything when sizes do not go together
            raise UserError(
                f"{folder.name}/{name}/config.json: no {kind.__name__} has these settings: {str(error).rstrip('.')}."
            ) from error
        _check_weights(network, own, "model" if kind is CLIPTextModel else "diffusion_pytorch_model", dtype)


def check_component_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Complain about settings of a wrong kind in the configs of a folder's networks and scheduler."""
    for name in (*NETWORKS, "scheduler"):
        kind = component_class(config, name, INDEX)
        if kind is None:
            continue
        file = folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        shown = f"{folder.name}/{name}/{file.name}"
        if kind is CLIPTextModel:
            text_config(folder / name)
        else:
            settings = read_json(file)
            if settings.get("_class_name") != kind.__name__:
                raise UserError(f"{shown} holds settings of no {kind.__name__} but of {settings.get('_class_name')!r}.")
            # diffusers' schedulers keep each other's settings
            check_settings(settings, kind, shown, strict=name != "scheduler" or kind is BridgeScheduler)


def text_config(folder: Path) -> CLIPTextConfig:
    """The text encoder's sizes, and nothing else of its config.

    Raises:
        UserError: for settings of a wrong kind.
    """
    file = folder / "config.json"
    settings = {name: value for name, value in read_json(file).items() if name in _TEXT_SETTINGS}
    shown = f"{folder.parent.name}/{folder.name}/{file.name}"
    check_settings(settings, CLIPTextConfig, shown)
    try:
        return CLIPTextConfig(**settings)
    except Exception as error:  # transformers checks what it is given in its own way
        raise UserError(f"{shown}: no CLIP text model has these settings.") from error


def _settings(file: Path) -> dict[str, Any]:
    return {name: value for name, value in read_json(file).items() if not name.startswith("_")}


def _check_weights(network: nn.Module, folder: Path, base: str, dtype: torch.dtype) -> None:
    """Hold the weights on disk against a network without weights."""

    def plain(name: str) -> str:
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        return name.removeprefix("text_model.")  # whether it is there depends on the version of transformers

    expected = {plain(name): list(value.shape) for name, value in network.state_dict().items()}
    found = set()
    for file in _weights_files(folder, base):
        shown = f"{folder.parent.name}/{folder.name}/{file.name}"
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():
                    if name.endswith("position_ids"):  # counted, no weights
                        continue
                    if plain(name) not in expected:
                        raise UserError(f"{shown}: there is no tensor {name!r} in a {type(network).__name__}.")
                    shape, wanted = weights.get_slice(name).get_shape(), expected[plain(name)]
                    if shape != wanted and not (shape == [*wanted, 1, 1] and plain(name) != name):
                        raise UserError(f"{shown}: the tensor {name!r} must have the shape {wanted}, not {shape}.")
                    try:
                        check_tensors({name: weights.get_tensor(name)}, dtype)
                    except UserError as error:
                        raise UserError(f"{shown}: {error}") from error
                    found.add(plain(name))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{shown} is missing or damaged.") from error
    missing = sorted(expected.keys() - found)
    if missing:
        raise UserError(
            f"{folder.parent.name}/{folder.name} lacks {len(missing)} tensors of a {type(network).__name__}, such as "
            f"{missing[0]!r}."
        )


def _weights_files(folder: Path, base: str) -> list[Path]:
    index = folder / f"{base}.safetensors.index.json"
    if not index.is_file():
        return [folder / f"{base}.safetensors"]
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and n == Path(n).name for n in names.values()):
        raise UserError(f"{'/'.join(index.parts[-3:])}: the setting 'weight_map' must name files of its own folder.")
    return [folder / name for name in sorted(set(names.values()))]


def try_out(pipeline: GenDegPipeline, folder: Path) -> None:
    """Degrade one small grey picture in two steps: what settings contradict each other shows here.

    Raises:
        UserError: if that fails, or gives values that are not numbers.
    """
    tokens, words = pipeline.tokenizer.model_max_length, len(pipeline.tokenizer)
    text = pipeline.text_encoder.config
    if tokens != text.max_position_embeddings or words > text.vocab_size:
        raise UserError(
            f"{folder.name}/tokenizer: it makes {tokens} tokens of {words} kinds, the text encoder takes "
            f"{text.max_position_embeddings} of {text.vocab_size}."
        )
    side = max(32, pipeline.size_multiple)
    steps = pipeline.config.num_inference_steps
    try:
        output = pipeline(
            torch.full((3, side, side), 0.5),
            next(iter(DEGRADATIONS)),
            mu=0.1,
            sigma=0.1,
            resolution=side,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        )
        finite = bool(output.images.isfinite().all())
        for count in steps.values() if isinstance(steps, Mapping) else [steps]:
            pipeline.scheduler.set_timesteps(count)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"The settings of the folder {folder.name} do not go together: a first picture failed "
            f"({str(error).partition(chr(10))[0].rstrip('.')})."
        ) from error
    if not finite:
        raise UserError(
            f"The settings of the folder {folder.name} do not go together: a first picture came out as values that are "
            f"not numbers."
        )
