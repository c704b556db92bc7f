"""What is to be made of which photographs? Finds them, what their own data sets have, captions; plans the batches.

`training.create_dataset` makes what is planned here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from gendeg.mixture import in_listed_order, mixture_name
from gendeg.pipeline import MIN_SIDE
from runtime.errors import UserError
from runtime.images import PHOTOGRAPHS, files_below, image_size, open_image
from training.command_line import listing
from training.dataset.store import AppendLog
from training.json_lines import json_lines


@dataclass(frozen=True)
class Photo:
    """A clean photograph.

    Attributes:
        path: below the folder of clean photographs, with forward slashes.
        size: height and width at which it is degraded.
        degradations: what to make of it, mixtures by their names (`gendeg.mixture.mixture_name`).
        caption: of the scene; may be empty.
    """

    path: str
    size: tuple[int, int]
    degradations: frozenset[str]
    caption: str = ""


class NoPhotographs(UserError):
    """A folder without a photograph to work on; `skipped` is what it holds instead, as of `find_photos`."""

    def __init__(self, folder: Path, skipped: list[tuple[str, str]]):
        reasons = f" {skipped[0][0]}: {skipped[0][1]}." if skipped else ""
        super().__init__(f"There is no photograph to work on in {folder}.{reasons}")
        self.skipped = skipped


@dataclass(frozen=True)
class Batch:
    """Photographs of one size that are degraded in one go; `copy` counts the samples of one kind of a photograph."""

    degradation: str
    copy: int
    photos: tuple[Photo, ...]


def find_photos(
    folder: Path, degradations: list[str], working_size: Callable[[int, int], tuple[int, int]]
) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Look at every file below `folder`, at image files' headers alone.

    Args:
        degradations: to make, of photographs that do not have them.
        working_size: (height, width) to those at which the model works; a UserError if it cannot.

    Returns:
        (photographs in the order of their paths, (path, why not) of the other files).

    Raises:
        UserError: if there is no such folder; a NoPhotographs if there is no photograph in it.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    files = [file.relative_to(folder).as_posix() for file in files_below(folder)]
    has, skipped = _degradations_there(folder), []
    photos = []
    for path in files:
        if path in ("metadata.jsonl", "metadata.csv", "captions.jsonl"):
            continue
        try:
            if Path(path).suffix.lower() not in PHOTOGRAPHS:
                raise UserError("not an image file")
            width, height = image_size(folder / path)
            size = working_size(height, width)
            if min(size) < MIN_SIDE:
                raise UserError(f"the image is {width} x {height} pixels, too long and narrow")
            photos.append(Photo(path, size, frozenset(degradations) - has.pop(path, frozenset())))
        except UserError as error:
            skipped.append((path, str(error).rstrip(".")))
    skipped += [(path, "in the metadata, but not in the folder") for path in has if path not in files]
    if not photos:
        raise NoPhotographs(folder, skipped)
    return photos, skipped


def _degradations_there(folder: Path) -> dict[str, frozenset[str]]:
    """File name -> degradations that its own data set provides, from metadata.jsonl or metadata.csv."""
    file, table, faults = folder / "metadata.jsonl", folder / "metadata.csv", []
    rows: Iterable[tuple[str, dict[str, Any]]] = ()
    if file.is_file():
        rows = json_lines(file, faults)
    elif table.is_file():
        try:
            with table.open(newline="", encoding="utf-8-sig") as handle:
                rows = [(f"{table}, line {number}", row) for number, row in enumerate(csv.DictReader(handle), 2)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{table} is not a CSV file in UTF-8.") from error
    there = {}
    for where, row in rows:
        if row.get("file_name") and row.get("degradations"):
            name, degradations = row["file_name"], row["degradations"]
            degradations = degradations.split() if isinstance(degradations, str) else degradations
            if not isinstance(name, str) or not isinstance(degradations, list):
                faults.append(f"{where}: file_name must be text, and degradations a list.")
                continue
            try:
                there[name] = frozenset(mixture_name(degradation) for degradation in degradations)
            except UserError as error:
                faults.append(f"{where}: {error}")
    _refuse(faults)
    return there


def _refuse(faults: list[str]) -> None:
    if faults:
        raise UserError(f"There is something wrong in what is said of the photographs:{listing(faults)}")


def with_captions(photos: list[Photo], source: str, clean: Path, log: AppendLog) -> list[Photo]:
    """The photographs with captions from a JSONL file, or by BLIP-2; `log` keeps those for the next time."""
    if source == "none":
        return photos
    if source == "blip2":
        captions = {entry["file_name"]: entry["caption"] for entry in log.read()}
        missing = [photo for photo in photos if photo.path not in captions]
        if missing:
            from gendeg.captions import Captioner

            captioner = Captioner()
            for photo in tqdm(missing, desc="captions", unit="photo"):
                try:
                    image = _read(clean, photo)
                except UserError:  # it is reported when its turn comes
                    continue
                captions[photo.path] = captioner.caption([image])[0]
                log.append({"file_name": photo.path, "caption": captions[photo.path]})
    else:
        if not Path(source).is_file():
            raise UserError(f"There is no file of captions {source}.")
        faults: list[str] = []
        captions = {
            str(row.get("file_name")): str(row.get("caption") or "") for _, row in json_lines(Path(source), faults)
        }
        _refuse(faults)
        if not any(photo.path in captions for photo in photos):
            raise UserError(f"{source} has no caption for any photograph; file_name must be the path below {clean}.")
    return [replace(photo, caption=captions.get(photo.path, "")) for photo in photos]


def plan(photos: list[Photo], per_image: int, batch_size: int) -> list[Batch]:
    """All samples, in batches of one image size, degradation and copy number; a photograph's batches follow closely."""
    sizes: dict[tuple[int, int], list[Photo]] = {}
    for photo in photos:
        sizes.setdefault(photo.size, []).append(photo)
    batches = []
    for same in sizes.values():
        for start in range(0, len(same), batch_size):
            group = same[start : start + batch_size]
            for name in in_listed_order({name for photo in group for name in photo.degradations}):
                asked = tuple(photo for photo in group if name in photo.degradations)
                batches += [Batch(name, copy, asked) for copy in range(per_image)]
    return batches


def read(clean: Path, batch: Batch) -> list[np.ndarray | str]:
    """The photographs at their working size, uint8 [H, W, 3]; for an unreadable one, why it is."""
    return [_read_or_reason(clean, photo) for photo in batch.photos]


def forget() -> None:
    """Let go of the photographs that `read` has kept."""
    _read_or_reason.cache_clear()


@lru_cache(maxsize=64)  # the batches of a photograph follow closely
def _read_or_reason(clean: Path, photo: Photo) -> np.ndarray | str:
    try:
        return np.asarray(_read(clean, photo))
    except UserError as error:
        return str(error).rstrip(".")


def _read(clean: Path, photo: Photo) -> Image.Image:
    height, width = photo.size
    image = open_image(clean / photo.path)
    if (image.height - image.width) * (height - width) < 0:
        raise UserError("it is turned by a note behind its pixels; save it upright")
    return image.resize((width, height), Image.Resampling.LANCZOS)
