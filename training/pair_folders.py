"""Which pairs of images do folders hold, and can they be learned from? All is looked at before a training starts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from gendeg.mixture import parts_of
from runtime.errors import UserError
from runtime.images import PHOTOGRAPHS, image_size
from training.command_line import listing
from training.json_lines import json_lines

UNCLEAR = "These pairs do not say which degradation they show, show mixtures, or none of their scenes is held back."


class PairFolders:
    """Pairs of image files.

    Args:
        folders: each holds a `metadata.jsonl` whose rows name `file_name` and `clean_file_name`, as
            `training.create_dataset` writes it; or two folders of equally named files, `degraded` (or `input`, `lq`)
            and `clean` (or `target`, `gt`).
        check: raises a UserError for a row of `metadata.jsonl` (empty where there is none) that does not serve.
        scenes: "training" leaves out the scenes that are held back for evaluation (`is_held_back`), "held_back" leaves
            out all others.

    Attributes:
        files: (clean, degraded) of each pair.
        rows: what `metadata.jsonl` says of each pair; nothing where there is none.

    Raises:
        UserError: if a folder holds neither, or pairs that cannot be used; the message lists what is wrong
            with them. Of images only the headers are read.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        check: Callable[[dict[str, Any]], Any] = lambda row: None,
        scenes: Literal["all", "training", "held_back"] = "all",
    ):
        self.files: list[tuple[Path, Path]] = []
        self.rows: list[dict[str, Any]] = []
        faults: list[str] = []
        sizes: dict[Path, tuple[int, int]] = {}  # one clean image may have many degraded ones
        for folder in (Path(folder).expanduser() for folder in folders):
            before = len(self.files) + len(faults)
            found = [*_named_in_metadata(folder, faults)] or [*_equally_named(folder)]
            for where, clean, degraded, row in tqdm(found, desc=f"checking {folder.name}", unit="pair", delay=2):
                try:
                    _check_pair(clean, degraded, row, sizes)
                    check(row)
                except UserError as error:
                    faults.append(f"{where}: {error}")
                else:
                    self.files.append((clean, degraded))
                    self.rows.append(row)
            if len(self.files) + len(faults) == before:
                raise UserError(
                    f"No pairs in {folder}: it holds no metadata.jsonl that names clean_file_name, and no equally "
                    f"named images in degraded/ and clean/ (or input/ and target/, lq/ and gt/)."
                )
        if faults:
            raise UserError(f"There are pairs that cannot be used. Mend or remove them:{listing(faults)}")
        if scenes != "all":
            chosen = [is_held_back(row) is (scenes == "held_back") for row in self.rows]
            self.files = [pair for pair, taken in zip(self.files, chosen, strict=True) if taken]
            self.rows = [row for row, taken in zip(self.rows, chosen, strict=True) if taken]

    def keep(self, count: int) -> None:
        """Leave `count` of the pairs, drawn at random; those of a smaller count are among those of a larger one."""
        drawn = sorted(np.random.default_rng(0).permutation(len(self.files))[:count])
        self.files, self.rows = [self.files[i] for i in drawn], [self.rows[i] for i in drawn]


def holds_pairs(folder: Path) -> bool:
    """Whether `PairFolders` finds pairs in a folder, or rows that mean to name some; else it holds single images."""
    faults: list[str] = []
    return any(True for _ in (*_named_in_metadata(folder, faults), *_equally_named(folder))) or bool(faults)


def degradations_of(row: dict[str, Any]) -> list[str]:
    """Names of the degradations that a pair shows: none if its row does not say, several of a mixture ("haze+rain").

    Raises:
        UserError: for what is no degradation and no mixture.
    """
    return [] if row.get("degradation") is None else parts_of(row["degradation"])


def is_held_back(row: dict[str, Any]) -> bool:
    """Whether training leaves out a pair: those of every fifth scene of a `dataset`, by the hash of both names.

    So it does not matter which other pairs are there. Rows that name no `scene` are never held back.
    """
    scene = f"{row.get('dataset')}/{row['scene']}" if "scene" in row else ""
    return bool(scene) and int(hashlib.sha256(scene.encode()).hexdigest(), 16) % 5 == 0


def _named_in_metadata(folder: Path, faults: list[str]) -> Iterator[tuple[str, Path, Path, dict[str, Any]]]:
    """(where it is said, clean, degraded, row) of each row that names a pair of files inside of `folder`."""
    for metadata in sorted(folder.rglob("metadata.jsonl")):
        for where, row in json_lines(metadata, faults):
            if "clean_file_name" not in row:
                continue  # it describes single images
            try:
                files = [_inside(folder, metadata.parent, row, key) for key in ("clean_file_name", "file_name")]
            except UserError as error:
                faults.append(f"{where}: {error}")
            else:
                yield where, *files, row


def _inside(folder: Path, parent: Path, row: dict[str, Any], key: str) -> Path:
    name = row.get(key)
    if not isinstance(name, str) or not name:
        raise UserError(f"{key} must be the name of a file, not {name!r}.")
    path = Path(os.path.normpath(parent / name))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise UserError(f"{key} leads out of {folder}: {name}")
    return path


def _equally_named(folder: Path) -> Iterator[tuple[str, Path, Path, dict[str, Any]]]:
    for degraded_name, clean_name in (("degraded", "clean"), ("input", "target"), ("lq", "gt")):
        for degraded in sorted((folder / degraded_name).glob("[!.]*")):
            clean = folder / clean_name / degraded.name
            if degraded.suffix.lower() in PHOTOGRAPHS and clean.is_file():
                yield str(degraded), clean, degraded, {}


def _check_pair(clean: Path, degraded: Path, row: dict[str, Any], sizes: dict[Path, tuple[int, int]]) -> None:
    if clean not in sizes:
        sizes[clean] = image_size(clean)
    width, height = image_size(degraded)
    if sizes[clean] != (width, height):
        raise UserError(
            f"{clean.name} and {degraded.name} are a pair but differ in size: "
            f"{sizes[clean][0]} x {sizes[clean][1]} and {width} x {height} pixels."
        )
    degradations_of(row)
