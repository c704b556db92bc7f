"""Does a model fit into memory? Whether its networks wait beside the GPU, and whether its codec works in tiles."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import DiffusionPipeline
from torch import nn

from runtime.memory import free_memory

FLOATS_PER_PIXEL = 4096  # that the largest network at work, Stable Diffusion's decoder, holds at once
TILE_PIXELS = 512 * 512  # what that decoder takes at once when it works in tiles


@dataclass(frozen=True)
class MemoryPlan:
    """How to stay within memory.

    Attributes:
        offload: the networks lie in main memory, and on the GPU only while each is at work: slower, same results.
        tiling: the codec works in overlapping tiles and on one image at a time: slower, nearly the same results.
    """

    offload: bool = False
    tiling: bool = False


def plan_memory(device: str, free: int, weights: int, pixels: int, itemsize: int) -> MemoryPlan:
    """Decide what must be done for a model and its images to fit: nothing if that is enough, else tiles, else offload.

    Args:
        device: type of the device, "cuda" or "cpu"; only networks on a GPU can be offloaded.
        free: memory for weights and work, in bytes.
        weights: what the networks take that are not there yet, in bytes.
        pixels: of all images that are worked on at once.
        itemsize: bytes of a number in the networks.
    """
    tile = min(pixels, TILE_PIXELS)
    work, least_work = (count * FLOATS_PER_PIXEL * itemsize for count in (pixels, tile))
    if weights + work <= free:
        return MemoryPlan()
    return MemoryPlan(offload=device == "cuda" and weights + least_work > free, tiling=pixels > tile)


def network_sizes(pipeline: DiffusionPipeline) -> list[int]:
    """Bytes of each network's weights."""
    networks = (part for part in pipeline.components.values() if isinstance(part, nn.Module))
    return [sum(p.numel() * p.element_size() for p in network.parameters()) for network in networks]


def set_tiling(pipeline: DiffusionPipeline, pixels: int) -> None:
    """Let a loaded pipeline's codec work in tiles if so many pixels would not fit otherwise.

    The compact profile's codec is small, and always works on the whole.
    """
    if not hasattr(pipeline.vae, "enable_tiling"):
        return
    device = pipeline._execution_device
    weights = max(network_sizes(pipeline)) if offloaded(pipeline) else 0
    plan = plan_memory(device.type, free_memory(device), weights, pixels, pipeline.vae.dtype.itemsize)
    for switch in ("tiling", "slicing"):
        getattr(pipeline.vae, f"{'enable' if plan.tiling else 'disable'}_{switch}")()


def offloaded(pipeline: DiffusionPipeline) -> bool:
    """Whether the networks lie in main memory until they are needed."""
    return getattr(pipeline, "_offload_device", None) is not None
