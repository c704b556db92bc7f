"""How does a file come to be whole or not there, whatever happens while it is written? Beside its place, then renamed.

A full disk is an OSError that names the file, whichever library wrote it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

UNFINISHED = "*.partial*"  # what `whole_file` and `whole_files` write to until it is complete; a kill leaves it
_CHUNK = 16 * 2**20  # bytes


@contextmanager
def whole_file(path: Path, writer: str = "") -> Iterator[Path]:
    """Where to write a file, of the same suffix, that takes its place at `path` when the block ends without an error.

    Args:
        path: its folder is made if missing.
        writer: tells apart those who may write the same file at once.

    Raises:
        OSError: if it cannot be written; `filename` says what.
    """
    part = path.with_name(f".{path.stem}{writer}.partial{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            _to_disk(part)
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there completely or not at all; see `whole_file`."""
    with whole_file(path) as part:
        part.write_bytes(content)


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """An empty folder to write to. Its files replace those of `folder` one by one when the block ends without an error.

    Other files in `folder` stay. For libraries that write several files into a folder.

    Raises:
        OSError: if they cannot be written; `filename` says what.
    """
    part = folder / ".partial"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with writing(folder):
            part.mkdir(parents=True)
            yield part
            for file in files_to_disk(part):
                place = folder / file.relative_to(part)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def files_to_disk(folder: Path) -> list[Path]:
    """Have all files below `folder` on the disk, and not only on their way to it; returns them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        _to_disk(file)
    return files


def _to_disk(file: Path) -> None:
    with file.open("r+b") as handle:
        os.fsync(handle.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the block raises because the disk takes no more is an OSError with a `filename`."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
    except (RuntimeError, SafetensorError) as error:
        if number := re.search(r"os error (\d+)", str(error)):  # safetensors
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        # torch loses the reason of a failed write; the disk still has it.
        probe = path.with_name(f".{path.name}.probe.partial")
        try:
            probe.touch()
            reserve(probe, _CHUNK)
        except OSError as reason:
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        finally:
            probe.unlink(missing_ok=True)
        raise


def reserve(path: Path, size: int) -> None:
    """Make an existing file at least `size` bytes long, with room for all of them on the disk; the new ones are 0.

    A file that is written through a memory map needs this: where its room ends, the process dies of a bus error.

    Raises:
        OSError: if there is not enough room.
    """
    with writing(path), path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        left = size - file.seek(0, os.SEEK_END)
        while left > 0:
            left -= file.write(bytes(min(left, _CHUNK)))
        file.flush()
        os.fsync(file.fileno())
