"""How is a restorer kept? A folder with its weights and a config that says what network they are for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from runtime.errors import UserError
from runtime.files import whole_files
from runtime.settings import read_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_restorer(network: nn.Module, folder: str | Path, trained_for: Sequence[str], **facts: Any) -> Path:
    """Write a network the way bundled ones are kept: float16 weights, and a config that says what they are.

    Args:
        network: a NAFNet, PromptIR or SwinRestorer.
        folder: is made if missing; what it held under these names is replaced at once, never half.
        trained_for: degradations, by name.
        facts: more to write into the config, such as the recipe.
    """
    folder = Path(folder)
    weights = {name: value.detach().half().cpu().contiguous() for name, value in network.state_dict().items()}
    config = {
        "architecture": network.architecture,
        "config": network.arguments,
        "trained_for": list(trained_for),
        **facts,
    }
    with whole_files(folder) as part:
        save_file(weights, part / WEIGHTS)
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config that `save_restorer` wrote: "architecture" a name, "config" its arguments, "trained_for" names.

    Raises:
        UserError: if there is none, or it is no such config.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a restorer: it holds no readable {CONFIG}.")
    config = read_json(path)
    if not isinstance(config.get("config"), dict) or not isinstance(config.get("architecture"), str):
        raise UserError(f"{path} is not the config of a restorer: it names no architecture and sizes.")
    names = config.setdefault("trained_for", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: the setting 'trained_for' must be a list of names, not {names!r}.")
    return config
