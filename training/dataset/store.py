"""What of a pair data set is on disk, while it grows and once it is complete?

    .progress/settings.json   what decides the samples; a folder is only continued with the same
    .progress/log.jsonl       one line per generated batch: rows of its pairs, samples it gave up, seconds it took
    train/clean/              ground truths, PNG, each once
    train/degraded/<name>/    degraded images, PNG; <name> is "rain", or that of a mixture, "haze+rain"
    train/metadata.jsonl      the rows in their final order: an ImageFolder as Hugging Face `datasets` reads it;
    train/pairs-000000.tar    or, in place of all images and rows, WebDataset shards
    README.md                 the card, written last: with it the data set is complete

A kill loses nothing and leaves nothing half done. Images appear whole, by renaming, before the line of their batch is
appended; a torn last line is dropped, and its batch made again under the same names. Nothing is rewritten while the
data set grows, so that the millionth image costs what the first one did.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gendeg.mixture import in_listed_order
from runtime.errors import UserError
from runtime.files import UNFINISHED, whole_file, write_whole, writing
from training.json_lines import json_lines

PAIRS_PER_SHARD = 1000
Key = tuple[str, str, int]  # source file, degradation, copy: what names a sample


def key(row: dict[str, Any]) -> Key:
    """The sample that a row, or a record of a sample given up, is about."""
    return row["source_file"], row["degradation"], row["copy"]


def image_name(source_file: str) -> str:
    """A name that no other source file has, without dots: "a/b c.jpg" -> "b_c-4c0df8f5a2"."""
    digest = hashlib.sha256(source_file.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{re.sub('[^0-9A-Za-z_-]', '_', Path(source_file).stem)[:60]}-{digest[:10]}"


def write_pair(output: Path, row: dict[str, Any], degraded: np.ndarray, clean: np.ndarray) -> None:
    """Store the images, uint8 [H, W, 3], that a row names; a ground truth that is there already stays."""
    for name, array in (("clean_file_name", clean), ("file_name", degraded)):
        path = output / "train" / row[name]
        if name == "file_name" or not path.exists():
            with whole_file(path, writer=f".{uuid.uuid4().hex}") as part:  # on Ray, several write a clean one
                Image.fromarray(array).save(part)


class AppendLog:
    """A file of JSON lines that only grows; what a kill left of an unfinished line is dropped."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines.

        Raises:
            UserError: if a whole line is no JSON object.
        """
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if content[whole:].rstrip().endswith(b"}"):  # whole, by someone whose editor ends no last line
            with writing(self.path), self.path.open("ab") as file:
                file.write(b"\n")
        elif whole < len(content):
            os.truncate(self.path, whole)
        faults: list[str] = []
        rows = [row for _, row in json_lines(self.path, faults)]
        if faults:
            raise UserError(f"{faults[0]} The file is damaged: remove that line; what it stood for is made again.")
        return rows

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path), self.path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class PairStore:
    """The output folder of one data set.

    Args:
        output: a new or empty folder, or one that an earlier run with the same settings left.
        settings: option name -> value, plain JSON; all that decides which samples there are and how they look.

    Attributes:
        pairs: the row of every complete pair.
        discarded: for every sample that was given up, a record that says after how many attempts.
        generated: number of images generated for all of these.
        seconds: that all runs have worked on it.

    Raises:
        UserError: if the folder holds something else; the message says what.
    """

    def __init__(self, output: Path, settings: dict[str, Any]):
        self.output, self.shards = output, settings["format"] == "webdataset"
        self.pairs: dict[Key, dict[str, Any]] = {}
        self.discarded: dict[Key, dict[str, Any]] = {}
        self.generated, self.seconds = 0, 0.0
        self._log = AppendLog(output / ".progress" / "log.jsonl")
        self._check(settings)
        self.packed = self.shards and (output / "README.md").exists()
        for partial in output.rglob(UNFINISHED):
            partial.unlink(missing_ok=True)  # a job that was cancelled may still be ending
        there = self._images()
        for entry in self._log.read():
            pairs = [r for r in entry["pairs"] if self.packed or {r["file_name"], r["clean_file_name"]} <= there]
            self._add(pairs, entry["discarded"], entry.get("seconds", 0.0))

    def _check(self, settings: dict[str, Any]) -> None:
        file = self.output / ".progress" / "settings.json"
        if file.is_file() and self._log.path.exists():
            try:
                before = dict(json.loads(file.read_bytes()))
            except (ValueError, TypeError) as error:
                raise UserError(f"{file} is damaged. Choose another output folder.") from error
            other = [name for name in settings if before.get(name) != settings[name]]
            if other:
                made = ", ".join(f"--{name.replace('_', '-')} {_spelled(before.get(name))}" for name in other)
                asked = ", ".join(_spelled(settings[name]) for name in other)
                raise UserError(
                    f"{self.output} holds a data set of other settings: {made} instead of {asked}. Choose another "
                    f"output folder."
                )
        elif (
            file.parent.is_dir()
            or not self.output.exists()
            or (self.output.is_dir() and not any(self.output.iterdir()))
        ):
            write_whole(file, json.dumps(settings, indent=1).encode())
        else:
            raise UserError(f"{self.output} is not empty and no data set of this command. Choose a new folder.")

    def __contains__(self, sample: Key) -> bool:
        return sample in self.pairs or sample in self.discarded

    def record(self, pairs: list[dict[str, Any]], discarded: list[dict[str, Any]], seconds: float = 0.0) -> None:
        """Take in a batch whose images are stored, and how long it took."""
        self._log.append({"pairs": pairs, "discarded": discarded, "seconds": round(seconds, 3)})
        self._add(pairs, discarded, seconds)

    def _add(self, pairs: list[dict[str, Any]], discarded: list[dict[str, Any]], seconds: float) -> None:
        self.pairs |= {key(row): row for row in pairs}
        self.discarded |= {key(record): record for record in discarded}
        self.generated += sum(entry["attempts"] for entry in (*pairs, *discarded))
        self.seconds += seconds

    def rows(self) -> list[dict[str, Any]]:
        """All rows in their final order, which is not the order in which they were made."""
        order = in_listed_order({name for _, name, _ in self.pairs})
        return [self.pairs[k] for k in sorted(self.pairs, key=lambda k: (k[0], order.index(k[1]), k[2]))]

    def finish(self) -> None:
        """Write metadata or shards. Images without a row, which a killed run can leave, are removed."""
        rows, train = self.rows(), self.output / "train"
        named = {row[name] for row in rows for name in ("file_name", "clean_file_name")}
        for image in self._images() - named:
            (train / image).unlink()
        if self.shards:
            for first in range(0, len(rows), PAIRS_PER_SHARD):
                self._pack(train / f"pairs-{first // PAIRS_PER_SHARD:06}.tar", rows[first : first + PAIRS_PER_SHARD])
        else:
            write_whole(train / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def _pack(self, shard: Path, rows: list[dict[str, Any]]) -> None:
        """One shard; of every pair <key>.degraded.png, <key>.clean.png and <key>.json."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for row in rows:
                facts = {name: value for name, value in row.items() if not name.endswith("file_name")}
                for ending, data in (
                    ("degraded.png", (shard.parent / row["file_name"]).read_bytes()),
                    ("clean.png", (shard.parent / row["clean_file_name"]).read_bytes()),
                    ("json", json.dumps(facts).encode()),
                ):
                    member = tarfile.TarInfo(f"{row['degradation']}-{Path(row['file_name']).stem}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        write_whole(shard, content.getvalue())

    def remove_packed_images(self) -> None:
        """Once a complete data set is in shards, its single images go."""
        for name in ("clean", "degraded"):
            shutil.rmtree(self.output / "train" / name, ignore_errors=True)

    def _images(self) -> set[str]:
        """Names of the stored images, as rows say them."""
        train = self.output / "train"
        return {
            (Path(folder) / file).relative_to(train).as_posix()
            for name in ("clean", "degraded")
            for folder, _, files in os.walk(train / name)
            for file in files
            if file.endswith(".png")
        }


def _spelled(value: Any) -> str:
    """A setting as the command line has it."""
    return " ".join(value) if isinstance(value, list) else "the default" if value is None else str(value)
