"""How does a pair data set become a ZIP to download? As it lies on the disk, or as plain folders of equal names."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from PIL import Image, ImageChops

from runtime.files import whole_file
from training.dataset.card import FIGURE, SHEET, write_card
from training.dataset.store import PairStore

LAYOUTS = ("imagefolder", "folders")
ROOT = "pairs"  # the folder that all lies in


def pack(store: PairStore, file: Path, layout: str, maps: bool, command: str) -> None:
    """Write a ZIP of the pairs that a data set has by now, with card, metadata, contact sheet and figure.

    Args:
        store: of images in single files; more may come in meanwhile.
        file: to write; it appears when it is whole.
        layout: "imagefolder", as `training.create_dataset` writes it; or "folders": `gt/` and `lq/`, whose files have
            equal names, so that a ground truth is there once for every pair.
        maps: whether degradation maps are in it too: |clean - degraded|, as PNG.
        command: the command line that makes the same pairs; the card says it.
    """
    write_card(store, command, layout, maps)
    train = store.output / "train"
    base = f"{ROOT}/train" if layout == "imagefolder" else ROOT
    lines, there = [], set()
    with whole_file(file) as part, ZipFile(part, "w") as archive:
        for row in store.rows():
            names = _names(row, layout, maps)
            lines.append(json.dumps(names | {name: value for name, value in row.items() if name not in names}) + "\n")
            for kind in ("clean_file_name", "file_name"):
                if names[kind] not in there:  # PNGs do not become smaller
                    archive.write(train / row[kind], f"{base}/{names[kind]}")
            there |= set(names.values())
            if maps:
                archive.writestr(f"{base}/{names['map_file_name']}", _map(train, row))
        archive.writestr(f"{base}/metadata.jsonl", "".join(lines), ZIP_DEFLATED)
        for name in ("README.md", SHEET, FIGURE):
            archive.write(store.output / name, f"{ROOT}/{name}")


def _names(row: dict[str, Any], layout: str, maps: bool) -> dict[str, str]:
    """What the files of a pair are called, as the metadata say it."""
    degraded = row["file_name"]
    if layout == "imagefolder":
        names = {"file_name": degraded, "clean_file_name": row["clean_file_name"]}
        return names | ({"map_file_name": f"map/{degraded.removeprefix('degraded/')}"} if maps else {})
    name = f"{row['degradation']}-{Path(degraded).name}"
    names = {"file_name": f"lq/{name}", "clean_file_name": f"gt/{name}"}
    return names | ({"map_file_name": f"map/{name}"} if maps else {})


def _map(train: Path, row: dict[str, Any]) -> bytes:
    """PNG of the degradation map of a stored pair, 8 bits a colour."""
    clean, degraded = (Image.open(train / row[kind]) for kind in ("clean_file_name", "file_name"))
    file = io.BytesIO()
    ImageChops.difference(clean, degraded).save(file, "PNG")
    return file.getvalue()
