"""What may one request cost? Limits of the app, each of them an environment variable, read when it is needed.

| variable | limits | default |
|---|---|---|
| GENDEG_MAX_MEGABYTES | an uploaded file | 60 |
| GENDEG_MAX_MEGAPIXELS | an image | 100 |
| GENDEG_MAX_STEPS | steps of one picture | 200 |
| GENDEG_MAX_RESOLUTION | the short side at which a generator works, in pixels | 768 |
| GENDEG_MAX_SECONDS | a job, once it is its turn | 600 |
| GENDEG_MAX_PHOTOGRAPHS | photographs that a data set is made of | 100 |
| GENDEG_MAX_PAIRS | pairs of a data set | 600 |
| GENDEG_MAX_UNPACKED_MEGABYTES | the photographs in uploaded ZIPs, unpacked; files that are uploaded together | 500 |
| GENDEG_MAX_WAITING | jobs that wait; one more is refused | 32 |
| GENDEG_MAX_CACHE_GIGABYTES | all uploads and results together, which are deleted after an hour | 8 |
"""

from __future__ import annotations

import os

from runtime.errors import UserError

DEFAULTS = {
    "GENDEG_MAX_MEGABYTES": 60,
    "GENDEG_MAX_MEGAPIXELS": 100,
    "GENDEG_MAX_STEPS": 200,
    "GENDEG_MAX_RESOLUTION": 768,
    "GENDEG_MAX_SECONDS": 600,
    "GENDEG_MAX_PHOTOGRAPHS": 100,
    "GENDEG_MAX_PAIRS": 600,
    "GENDEG_MAX_UNPACKED_MEGABYTES": 500,
    "GENDEG_MAX_WAITING": 32,
    "GENDEG_MAX_CACHE_GIGABYTES": 8,
}


def limit(variable: str) -> int:
    """The value of one of the variables above, a whole number of at least 1.

    Raises:
        UserError: if the environment says something else.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return DEFAULTS[variable]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:12]) and len(text) <= 12):
        raise UserError(f"The environment variable {variable} must be a whole number of at least 1, not {text!r}.")
    return int(text)


def max_bytes() -> int:
    """Of an image file."""
    return limit("GENDEG_MAX_MEGABYTES") * 1_000_000


def max_pixels() -> int:
    """Of an image."""
    return limit("GENDEG_MAX_MEGAPIXELS") * 1_000_000
