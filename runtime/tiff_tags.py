"""Would Pillow run out of memory on the tags of a TIFF file, or of the EXIF block (a TIFF file too) in another?

A tag says where in the file its values lie, and how many. Pillow reads a copy for each tag, so that the tags of a small
file that all claim the same bytes fill any memory.
"""

from __future__ import annotations

import re

import numpy as np

_HEADERS = re.compile(rb"II\x2a\0|MM\0\x2a|II\0\x2a|MM\x2a\0|II\x2b\0|MM\0\x2b")  # that Pillow accepts
_MAX_HEADERS = 1000  # a file has one or two; more take too long to look at
_MAX_VALUES = 500_000  # of a tag; each becomes a Python object. 100 megapixels in tiles of 16 x 16 have 390,625 offsets
_UNITS = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])  # bytes of a value, by type
_BYTES = (1, 2, 7)  # the types whose values stay one object
_OFFSETS = (273, 324)  # the tags of strips and tiles, each of which becomes an object whatever the type
_DIRECTORIES = (34665, 34853, 40965)  # the tags that point to directories which Pillow reads too: EXIF, GPS, Interop


def tags_are_bearable(content: bytes) -> bool:
    """Whether the tags of each TIFF header in a file claim no more bytes than the file has, and no tag too many values.

    Where what looks like a header is none, its tags lie outside the file, and there is nothing to claim.
    """
    headers = [found.start() for found in _HEADERS.finditer(content)]
    return len(headers) <= _MAX_HEADERS and all(_bearable(content, start) for start in headers)


def _bearable(content: bytes, start: int) -> bool:
    order = "<" if content[start : start + 1] == b"I" else ">"
    big = 0x2B in content[start + 2 : start + 4]
    offset, number = (np.dtype(order + "u8"), np.dtype(order + "u8")) if big else (order + "u4", order + "u2")
    entry = np.dtype([("tag", order + "u2"), ("type", order + "u2"), ("count", offset), ("value", offset)])

    def read(kind: np.dtype | str, position: int, count: int = 1) -> np.ndarray:
        available = max(0, len(content) - start - position) // np.dtype(kind).itemsize
        count = min(count, available)
        return np.frombuffer(content, kind, count, start + position) if count else np.empty(0, kind)

    pointer_types = (16, 18) if big else (4, 13)
    waiting, seen, claimed = [int(position) for position in read(offset, 8 if big else 4)], set(), 0
    while waiting:
        position = waiting.pop()
        if position in seen:
            continue
        seen.add(position)
        if len(seen) > 1 + len(_DIRECTORIES):
            return False
        for entries in read(number, position):
            tags = read(entry, position + np.dtype(number).itemsize, int(entries))
            units = _UNITS[np.where(tags["type"] < len(_UNITS), tags["type"], 0)]
            sizes = tags["count"].astype(float) * units
            many = ~np.isin(tags["type"], _BYTES) | np.isin(tags["tag"], _OFFSETS)
            inside = sizes <= len(content)  # Pillow stops at one that is not
            claimed += sizes[inside].sum()
            if claimed > len(content) or (tags["count"][many & inside & (units > 0)] > _MAX_VALUES).any():
                return False
            if start == 0 and len(np.unique(tags["tag"])) < len(tags):  # libtiff takes the first, Pillow the last
                return False
            pointers = tags[np.isin(tags["tag"], _DIRECTORIES)]
            if not (np.isin(pointers["type"], pointer_types) & (pointers["count"] == 1)).all():
                return False
            waiting += [int(value) for value in pointers["value"]]
    return True
