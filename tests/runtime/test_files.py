"""Files are whole or not there: after a kill, on a full disk, and while others read them."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from runtime.files import UNFINISHED, reserve, whole_file, whole_files, write_whole


@contextmanager
def full_disk(size=100_000):
    """A limit on the size of files stands for the end of the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WEIGHTS = {"weights": torch.zeros(100_000)}
WRITERS = {
    "bytes": lambda path: path.write_bytes(bytes(400_000)),
    "torch": lambda path: torch.save(WEIGHTS, path),
    "safetensors": lambda path: save_file(WEIGHTS, path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_on_a_full_disk_what_was_there_stays(tmp_path, write):
    path = tmp_path / "file.bin"
    write_whole(path, b"before")
    with full_disk(), pytest.raises(OSError) as told, whole_file(path) as part:
        write(part)
    assert told.value.errno == errno.EFBIG and told.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"] and path.read_bytes() == b"before"
    with full_disk(), pytest.raises(OSError), whole_files(tmp_path / "folder") as folder:
        write(folder / "file.bin")
    assert not any((tmp_path / "folder").iterdir())


def test_another_error_is_left_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="ours"), whole_file(tmp_path / "file") as part:
        part.touch()
        raise RuntimeError("ours")
    assert not any(tmp_path.iterdir())


def test_many_files_replace_those_of_the_same_name_alone(tmp_path):
    write_whole(tmp_path / "folder" / "notes.txt", b"the user's")
    for content in (b"1", b"2"):
        with whole_files(tmp_path / "folder") as part:
            write_whole(part / "below" / "a.bin", content)
    files = {file.name: file.read_bytes() for file in (tmp_path / "folder").rglob("*") if file.is_file()}
    assert files == {"notes.txt": b"the user's", "a.bin": b"2"}
    assert not list(tmp_path.rglob(UNFINISHED))


def test_a_kill_leaves_whole_files_alone(tmp_path):
    script = """if True:
        import itertools, sys
        from pathlib import Path
        from runtime.files import write_whole
        for number in itertools.count():
            write_whole(Path(sys.argv[1]), bytes([number % 256]) * 1_000_000)
            print(number, flush=True)
    """
    for seen in (1, 2, 3):
        process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "file"], stdout=subprocess.PIPE)
        for _ in range(seen):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = (tmp_path / "file").read_bytes()
        assert len(content) == 1_000_000 and len(set(content)) == 1


@pytest.mark.parametrize("unknown", [False, True], ids=["allocated", "written"])
def test_room_is_reserved_or_there_is_an_error(tmp_path, monkeypatch, unknown):
    if unknown:  # as on a file system that cannot allocate

        def refuse(*_):
            raise OSError(errno.EOPNOTSUPP, "not known")

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = tmp_path / "file"
    file.write_bytes(b"there")
    reserve(file, 1_000_000)
    assert file.read_bytes() == b"there" + bytes(1_000_000 - 5)
    assert file.stat().st_blocks * 512 >= 1_000_000, "no hole"
    reserve(file, 10)
    assert file.stat().st_size == 1_000_000
    array = np.memmap(file, np.uint8, mode="r+")
    array[:] = 1
    with full_disk(), pytest.raises(OSError) as told:
        reserve(file, 2_000_000)
    assert told.value.filename == str(file)
