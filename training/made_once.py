"""How are tensors kept that take long to make? In a file, by an earlier run or the first of several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from runtime.files import whole_file
from training.loop import processes


def made_once(file: Path, make: Callable[[], dict[str, torch.Tensor]], what: str) -> dict[str, torch.Tensor]:
    """What `make` gives, read from `file` (memory-mapped) where that holds it already.

    Args:
        what: is made, in words, for the sentence that a damaged file is answered with.
    """
    with processes().main_process_first():
        if not _is_whole(file, what):
            threads = torch.get_num_threads()
            torch.set_num_threads(threads * processes().num_processes)  # the others wait
            try:
                tensors = make()
            finally:
                torch.set_num_threads(threads)
            with whole_file(file) as part:
                torch.save(tensors, part)
    return torch.load(file, weights_only=True, mmap=True)


def _is_whole(file: Path, what: str) -> bool:
    if not file.exists():
        return False
    try:
        torch.load(file, weights_only=True, mmap=True)
    except Exception:  # torch raises almost anything on damaged files
        print(f"{file} is damaged: {what} anew.")
        return False
    return True
