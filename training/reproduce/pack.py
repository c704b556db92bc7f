"""Which photographs and pairs go along to another machine, for a short training? A random part, of a few megabytes."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from training.pair_folders import PairFolders
from training.photos import Photos


def pack(photos: list[Path], pairs: list[Path], target: Path, size: float = 40e6) -> None:
    """Copy photographs to `target`/photos and pairs to `target`/pairs, each folder under its name, `size` bytes in all.

    Folders have equal shares; what small ones leave goes to the others.
    """
    sources = [(f, target / "photos" / f.name, [((file,), None) for file in Photos(f).files]) for f in photos]
    for folder in pairs:
        found = PairFolders([folder])
        sources.append((folder, target / "pairs" / folder.name, list(zip(found.files, found.rows, strict=True))))
    sources.sort(key=lambda source: sum(file.stat().st_size for files, _ in source[2] for file in files))
    for left, (folder, place, items) in zip(range(len(sources), 0, -1), sources, strict=True):
        share, rows = size / left, []
        for files, row in random.Random(0).sample(items, len(items)):
            copies = [place / file.relative_to(folder) for file in files]
            new = [(file, copy) for file, copy in zip(files, copies, strict=True) if not copy.exists()]
            needed = sum(file.stat().st_size for file, _ in new)
            if needed > share:
                break
            share, size = share - needed, size - needed
            for file, copy in new:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
            if row is not None:
                clean, degraded = (copy.relative_to(place).as_posix() for copy in copies)
                rows.append(json.dumps(row | {"clean_file_name": clean, "file_name": degraded}) + "\n")
        if rows:
            (place / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
