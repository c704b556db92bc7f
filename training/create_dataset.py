"""The command python -m training.create_dataset; training/dataset/ does the work."""

from __future__ import annotations

import sys

from training.command_line import command_line
from training.dataset import create


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Make a pair data set. Returns the exit code: 0; 2 after a sentence on stderr; 130 after Ctrl-C."""
    return create.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
