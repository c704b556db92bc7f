"""What do the lines of a JSON Lines file say, written by whom and with what it may be?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def json_lines(file: Path, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, object) of every line that is not blank; a byte-order mark is passed over.

    Args:
        faults: gets a sentence for each line that is no JSON object in UTF-8.
    """
    with file.open("rb") as lines:  # as text, a line would also end where a string holds U+2028
        for number, line in enumerate(lines, 1):
            where = f"{file}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text) if text else None
            except (ValueError, RecursionError):
                text, row = line, None
            if isinstance(row, dict):
                yield where, row
            elif text:
                faults.append(f"{where} is not a JSON object.")
