"""What runs on the GPU of a Space that has one only for the time of a call (Hugging Face's ZeroGPU)?

There the app's own process has no GPU. A function that `spaces.GPU` decorates runs in another process, forked from the
app's, which is given one; a generator's values are sent back as they come. Arguments and values are pickled on the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def zero_gpu() -> bool:
    """Whether this is such a Space."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


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
