"""Writes what was trained as a pipeline folder that `gendeg.load_pipeline` reads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from torch import nn

from gendeg.pipeline import GenDegPipeline
from runtime.files import whole_files


def settings_of(pipeline: GenDegPipeline) -> dict[str, Any]:
    """The defaults of its calls."""
    return {n: v for n, v in pipeline.config.items() if n not in pipeline.components and not n.startswith("_")}


def write_pipeline(
    components: dict[str, Any], settings: dict[str, Any], folder: Path, max_shard_size: str = "15MB"
) -> None:
    """Write components and settings of a GenDegPipeline as a folder, weights in float16.

    Args:
        max_shard_size: of a weights file; small ones, as what is kept in the repository has, by default.
    """
    halves = {k: copy.deepcopy(v).half() if isinstance(v, nn.Module) else v for k, v in components.items()}
    with whole_files(folder) as part:
        GenDegPipeline(**halves, **settings).save_pretrained(part, max_shard_size=max_shard_size)
        for file in part.glob("*/config.json"):  # where a component was loaded from is nobody's business
            config = json.loads(file.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
