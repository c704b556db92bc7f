"""How training's commands end: with a sentence for what a user can mend, with a traceback for what is our fault."""

import errno

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from runtime.errors import UserError
from training.command_line import command_line


def _end(error):
    @command_line
    def main():
        if error:
            raise error

    return main()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UserError("Choose another."), 2, "test_command_line: Choose another.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/log.csv"),
            2,
            "test_command_line: runs/log.csv: No space left on device. What is complete is kept; the same command goes "
            "on from there.\n",
        ),
        (torch.OutOfMemoryError("CUDA"), 2, "test_command_line: Out of memory. Choose a smaller --batch-size"),
        (KeyboardInterrupt(), 130, "test_command_line: Stopped; the same command goes on from there.\n"),
    ],
)
def test_what_a_user_can_mend_ends_with_a_sentence(error, code, said, capsys):
    assert _end(error) == code
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours"), RuntimeError("ours")])
def test_our_faults_stay_exceptions(error):
    with pytest.raises(type(error)):
        _end(error)


class _Damaged(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError(f"photo-{np.int64(index)}.png is damaged: cut.")


def test_a_sentence_from_another_process_has_no_traceback_around_it(capsys):
    @command_line
    def main():
        next(iter(DataLoader(_Damaged(), num_workers=1)))

    assert main() == 2
    assert capsys.readouterr().err == "test_command_line: photo-0.png is damaged: cut.\n"
