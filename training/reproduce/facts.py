"""What became of a training, and on what did it run? For the record that is kept beside the checkpoints."""

from __future__ import annotations

import csv
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch
import yaml


def processor() -> str:
    """The GPU's name; or the CPU's, with the number of its cores that are ours."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.exists() else None
    return f"{name[1] if name else platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def facts_of_training(recipe: Path | None, folder: Path) -> dict[str, Any]:
    """Recipe, seed and, of each of the recipe's stages that has begun, steps, samples and the log's last row.

    Args:
        recipe: None: no training; of a data set the pairs are counted.
        folder: that the training writes to.
    """
    if recipe is None:
        rows = [len(file.read_text(encoding="utf-8").splitlines()) for file in folder.glob("*/train/metadata.jsonl")]
        return {"pairs": sum(rows)} if rows else {}
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    loops = [stage["loop"] for stage in settings.get("stages", [settings])]
    stages = []
    for number, loop in enumerate(loops, 1):
        log = folder / (f"stage-{number}" if "stages" in settings else "") / "log.csv"
        header, *rows = [*csv.reader(log.read_text(encoding="utf-8").splitlines() if log.exists() else [])] or [[]]
        rows = [row for row in rows if len(row) == len(header)]  # the last one may be half written
        if rows:
            last = dict(zip(header, map(float, rows[-1]), strict=True))
            steps = int(last.pop("step"))
            stages.append({"steps": steps, "samples": steps * loop["batch_size"], "last": last})
    return {"recipe": recipe.name, "seed": settings["seed"], "stages": stages}
