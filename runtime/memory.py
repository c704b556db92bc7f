"""How much memory is left, and was it too little?"""

from __future__ import annotations

import gc

import psutil
import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation failed for want of memory, of the GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # what torch says on a CPU


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device; of CUDA's with those that torch holds in reserve."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def release_memory() -> None:
    """Give back what nothing refers to any more. Pipelines hold circular references, which only gc resolves."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
