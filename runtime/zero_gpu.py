"""What runs on the GPU of a Space that has one only for the time of a call (Hugging Face's ZeroGPU)?

There the app's own process has no GPU. A function that `spaces.GPU` decorates runs in another process, forked from the
app's, which is given one; a generator's values are sent back as they come. Arguments and values are pickled on the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import ceil
from typing import Any, TypeVar

MOST_SECONDS = 120  # of one call
Function = TypeVar("Function", bound=Callable[..., Any])


def zero_gpu() -> bool:
    """Whether this is such a Space."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def seconds_for(operations: float, calls: int, megapixels: float) -> int:
    """How long to ask for a GPU: an estimate, as none of those that are lent has been measured.

    15 seconds to begin, and to load a model; 10 TFLOP a second, less than a tenth of what these GPUs do in float16; a
    twentieth of a second for each call of a network, however small; half a second of one CPU core a megapixel.

    Args:
        operations: TFLOP, see `training/benchmarks/operations.py`.
        calls: of networks.
        megapixels: that are read, brought to size, measured or written.
    """
    return min(ceil(15 + operations / 10 + calls / 20 + megapixels / 2), MOST_SECONDS)


def on_gpu(function: Function, duration: int | Callable[..., int] = 60) -> Function:
    """The function, to be given a GPU for each call; where the package `spaces` is missing, the function itself.

    Args:
        function: a function or a generator function; arguments and results can be pickled, and hold no CUDA tensors.
        duration: seconds after which a call is ended, or a function of the same arguments that says it.
    """
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(duration=duration)(function)
