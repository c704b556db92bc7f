"""What do the model cards say? The templates beside this file, with what was recorded and measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from string import Template
from typing import Any

from safetensors import safe_open

from runtime.files import write_whole
from training.evaluate.__main__ import markdown
from training.reproduce.run import RECORDS

COMPACT = ("codec", "generator", "structure")
_NETWORKS = {
    "nafnet": ("NAFNet", "NAFNet (arXiv 2204.04676)"),
    "promptir": ("PromptIR", "PromptIR (arXiv 2306.13090)"),
    "swin": (
        "SwinRestorer",
        "A Swin encoder (arXiv 2103.14030, from timm) with a convolutional decoder of NAFNet's blocks",
    ),
}
_WHAT = {
    "codec": "Codec: PSNR in dB after encoding and decoding",
    "control": "Control: one (mu, sigma) per photograph and degradation, drawn from real intensities, without matching",
    "held-back": "Real pairs whose scenes were left out: PSNR in dB of pictures at their intensities to the true ones",
    "structure": "Structure correction: one-step predictions and full generation, before and after",
    "restorers": "Restorers: PSNR in dB and SSIM of simulated pairs, and what restoring adds; of clean ones both",
    "own": "Restorers: the same of pairs that the generator made",
    "published": "Restorers: PSNR in dB and SSIM of published pairs whose scenes were left out",
}
_OF_RESTORERS = ("restorers", "own", "published")


def write_cards(output: Path, records: dict[str, Any]) -> None:
    """Write OUTPUT/tables.md, and into each folder of OUTPUT/checkpoints README.md and a copy of the records.

    Args:
        records: of the stages, by name.
    """
    files = {file.stem: file for file in output.glob("*-tables/*.json")}
    tables = {what: json.loads(files[what].read_bytes()) for what in _WHAT if what in files}
    if "published" in tables:
        tables["published"] = {name: _as_columns(rows) for name, rows in tables["published"].items()}
    measured = {what: f"{_WHAT[what]}.\n\n{markdown(rows)}\n" for what, rows in tables.items()}
    if measured:
        write_whole(output / "tables.md", "\n".join(measured.values()).encode())
    none = "Not measured yet.\n"

    compact = output / "checkpoints" / "compact"
    if compact.exists():
        sizes = {f.name: _parameters(f) for f in sorted(compact.iterdir()) if f.is_dir()}
        rows = [f"| `{name}` | {size:,} |" for name, size in sizes.items() if size]
        text = [text for what, text in measured.items() if what not in _OF_RESTORERS]
        facts = {"components": "\n".join(rows), "measured": "\n".join(text) or none}
        _write(compact, "compact.md", facts | _training(records, COMPACT), records)
    for name, (title, network) in _NETWORKS.items():
        folder = output / "checkpoints" / "restorers" / name
        if folder.exists():
            columns = ("pairs", "psnr", "ssim", f"{name}_psnr", f"{name}_ssim")
            text = []
            for what in _OF_RESTORERS:
                rows = {
                    row: {column: value for column, value in values.items() if column in columns}
                    for row, values in tables.get(what, {}).items()
                }
                if rows:
                    text.append(f"{_WHAT[what]}.\n\n{markdown(rows)}\n")
            facts = {"name": name, "title": title, "network": network, "parameters": f"{_parameters(folder):,}"}
            facts["generated"] = f"{records.get('dataset', {}).get('pairs', 0):,}"
            facts["measured"] = "\n".join(text) or none
            _write(folder, "restorer.md", facts | _training(records, (name,)), records)


def _as_columns(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """A data set's table, one row an image's state, as one row, as the other tables have it."""
    degraded = rows.pop("as it is")
    return degraded | {
        f"{name}_{column}": value
        for name, values in rows.items()
        for column, value in values.items()
        if column != "pairs"
    }


def _write(folder: Path, template: str, facts: dict[str, str], records: dict[str, Any]) -> None:
    text = Template((Path(__file__).parent / template).read_text(encoding="utf-8")).substitute(facts)
    write_whole(folder / "README.md", text.encode())
    write_whole(folder / RECORDS, (json.dumps(records, indent=1) + "\n").encode())


def _training(records: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """A table of the trainings, what they ran on and what they learned from."""
    done = {name: records[name] for name in names if name in records}
    lines = []
    for name, record in done.items():
        steps = " + ".join(f"{stage['steps']:,}" for stage in record["stages"])
        samples = f"{sum(stage['samples'] for stage in record['stages']):,}"
        recipe, minutes = f"`training/recipes/{record['recipe']}`", f"{record['minutes']:.1f}"
        cells = (name, recipe, minutes, steps, samples, record["seed"], _losses(record))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    hardware = {f"{record['processor']}, PyTorch {record['torch']}": None for record in done.values()}
    data = {record["data"]: None for record in done.values() if "data" in record}
    return {"training": "\n".join(lines), "hardware": "; ".join(hardware), "data": "; ".join(data)}


def _losses(record: dict[str, Any]) -> str:
    """The last row of the log, without what says how fast it went."""
    last = record["stages"][-1]["last"] if record["stages"] else {}
    left_out = ("learning_rate", "samples_per_second", "waiting_for_data")
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in last.items() if name not in left_out)


def _parameters(folder: Path) -> int:
    """How many numbers the weights files of a folder hold."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "np") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    return count
