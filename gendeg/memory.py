"""Does a model fit into memory? Whether its networks wait beside the GPU, and whether its codec works in tiles."""

from __future__ import annotations

from diffusers import DiffusionPipeline
from torch import nn

from runtime.memory import free_memory

FLOATS_PER_PIXEL = 4096  # that the largest network at work, Stable Diffusion's decoder, holds at once
TILE_PIXELS = 512 * 512  # what that decoder takes at once when it works in tiles


def fits(free: int, weights: int, pixels: int, itemsize: int) -> bool:
    """Whether a model and its images fit into memory.

    Args:
        free: memory for weights and work, in bytes.
        weights: what the networks take that are not there yet, in bytes.
        pixels: of all images that are worked on at once.
        itemsize: bytes of a number in the networks.
    """
    return weights + pixels * FLOATS_PER_PIXEL * itemsize <= free


def network_sizes(pipeline: DiffusionPipeline) -> list[int]:
    """Bytes of each network's weights."""
    networks = (part for part in pipeline.components.values() if isinstance(part, nn.Module))
    return [sum(p.numel() * p.element_size() for p in network.parameters()) for network in networks]


def set_tiling(pipeline: DiffusionPipeline, pixels: int) -> None:
    """Let a loaded pipeline's codec work in tiles if so many pixels would not fit otherwise.

    Slower, with nearly the same results. The compact profile's codec is small, and always works on the whole.
    """
    if not hasattr(pipeline.vae, "enable_tiling"):
        return
    device = pipeline._execution_device
    weights = max(network_sizes(pipeline)) if offloaded(pipeline) else 0
    tiling = pixels > TILE_PIXELS and not fits(free_memory(device), weights, pixels, pipeline.vae.dtype.itemsize)
    for switch in ("tiling", "slicing"):
        getattr(pipeline.vae, f"{'enable' if tiling else 'disable'}_{switch}")()


def offloaded(pipeline: DiffusionPipeline) -> bool:
    """Whether the networks lie in main memory until they are needed."""
    return getattr(pipeline, "_offload_device", None) is not None
