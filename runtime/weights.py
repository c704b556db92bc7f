"""How do weights come out of a file safely? safetensors, or PyTorch files of which only tensors are read."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from runtime.errors import UserError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
PYTORCH_SUFFIXES = (".pth", ".pt", ".ckpt")
SUFFIXES = (".safetensors", *PYTORCH_SUFFIXES)


def read_state_dict(path: str | Path) -> Mapping[str, Any]:
    """The content of a weights file: names to tensors, or what such a mapping is wrapped in.

    Raises:
        UserError: if the file is missing, of another kind, damaged, holds no weights, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path.name} is damaged or no safetensors file.") from error
    if path.suffix.lower() not in PYTORCH_SUFFIXES:
        raise UserError(f"{path.name} is no weights file: its name must end in {', '.join(SUFFIXES)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle versions and archives that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error) and not _is_pickle(path):
            raise UserError(f"{path.name} is damaged or no PyTorch file.") from error
        raise UserError(
            f"{path.name} was not opened: besides weights it holds Python objects, and loading those can run code. "
            f"Ask its author for a safetensors file."
        ) from error
    except Exception as error:  # torch raises almost anything on damaged files
        raise UserError(f"{path.name} is damaged or no PyTorch file.") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path.name} holds no weights but a {type(content).__name__}.")
    return content


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def save_restorer(network: nn.Module, folder: str | Path, trained_for: Sequence[str], **facts: Any) -> Path:
    """Write a network the way bundled ones are kept: float16 weights, and a config that says what they are.

    Args:
        network: a NAFNet, PromptIR or SwinRestorer.
        folder: is made if missing; what it held under these names is replaced at once, never half.
        trained_for: degradations, by name.
        facts: more to write into the config, such as the recipe.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().half().cpu().contiguous() for name, value in network.state_dict().items()}
    config = {
        "architecture": network.architecture,
        "config": network.arguments,
        "trained_for": list(trained_for),
        **facts,
    }
    save_file(weights, folder / f".{WEIGHTS}.part")
    (folder / f".{CONFIG}.part").write_text(json.dumps(config, indent=2) + "\n")
    for name in (WEIGHTS, CONFIG):
        os.replace(folder / f".{name}.part", folder / name)
    return folder


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config that `save_restorer` wrote.

    Raises:
        UserError: if there is none, or it is no such config.
    """
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a restorer: it holds no readable {CONFIG}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise UserError(f"{path} is not the config of a restorer: it names no architecture and sizes.")
    return config
