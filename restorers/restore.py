"""How is an image of any size restored within a memory budget? In overlapping tiles whose seams are blended.

Rows and columns are treated alike: an axis is cut into equally long spans that overlap, each span weighs its pixels by
their distance from its inner ends, and the weights of all spans add up to one at each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from restorers.layers import reflected, round_up
from runtime.memory import free_memory

CPU_BUDGET = 1 << 30  # bytes for the network's work on one tile; leaves room for the image itself on any laptop
CUDA_SHARE = 0.7  # of the memory that is free
OVERLAP = 64  # pixels that neighbouring tiles share, at least
ALIGNMENT = 32  # the coarsest stride of any of the networks
UNKNOWN_FLOATS_PER_PIXEL = 2048  # assumed of networks that do not tell


def restore(
    network: nn.Module,
    image: torch.Tensor,
    memory_budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Restore images of any size, whole if memory allows, else in overlapping tiles.

    Each tile is mirrored where it reaches over the image's end. The outer quarter of an overlap, where the network
    has seen too little around a pixel, is not used; the middle half blends one tile into the next.

    Tiles are not the whole: NAFNet's channel attention averages over all pixels it is given and PromptIR's attention
    and prompts are statistics of them, so a tile of clear sky is treated a little differently from the photograph
    that it belongs to. Large tiles keep that small (training crops are smaller still); a large `memory_budget` avoids
    it.

    Args:
        network: [B, 3, h, w] to the same size. Its attribute `multiple` says which sizes suit it (else 1),
            `floats_per_pixel` how many numbers it holds at once for a pixel.
        image: float tensor [B, 3, H, W] in [0, 1] on any device; it travels to the network tile by tile.
        memory_budget: bytes that the network may take for a tile, besides its weights and the images. Default: 70 % of
            the free memory of a CUDA device, 1 GiB elsewhere. Tiles never shrink below three overlaps, however little
            is given.
        progress: called with (tiles done, tiles in all), first with (0, total). What it raises ends the work: that is
            how to cancel.

    Returns:
        Restored images [B, 3, H, W] in [0, 1], on the device and of the type of `image`.

    Raises:
        ValueError: if `image` is no such tensor.
    """
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point() or image.numel() == 0:
        raise ValueError(f"An image must be a float tensor [B, 3, H, W], not {image.dtype} {list(image.shape)}.")
    weight = next(network.parameters(), torch.zeros(()))
    multiple = getattr(network, "multiple", 1)
    floats = getattr(network, "floats_per_pixel", UNKNOWN_FLOATS_PER_PIXEL)
    budget = default_budget(weight.device) if memory_budget is None else memory_budget
    pixels = budget // (floats * weight.element_size() * image.shape[0])
    rows, columns = _tiles(image.shape[-2], image.shape[-1], multiple, pixels)

    restored = torch.zeros_like(image, memory_format=torch.contiguous_format)
    total = len(rows) * len(columns)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            if progress:
                progress(0, total)
            for done in range(total):
                row, column = rows[done // len(columns)], columns[done % len(columns)]
                tile = image.index_select(2, row.sources.to(image.device))
                tile = tile.index_select(3, column.sources.to(image.device))
                result = network(tile.to(weight.device, weight.dtype)).clamp_(0, 1)
                result = result[..., : row.kept, : column.kept].to(image.device, image.dtype)
                if total > 1:
                    result = result * row.weights.to(result)[:, None] * column.weights.to(result)
                restored[..., row.start : row.start + row.kept, column.start : column.start + column.kept] += result
                del tile, result  # before the next tile is computed: together they would need twice the memory
                if progress:
                    progress(done + 1, total)
    finally:
        network.train(was_training)
    return restored.clamp_(0, 1)


def default_budget(device: torch.device) -> int:
    """Bytes that a network may use on this device for its work on one tile."""
    return int(CUDA_SHARE * free_memory(device)) if device.type == "cuda" else CPU_BUDGET


@dataclass(frozen=True)
class _Span:
    """A tile's part of one axis.

    Attributes:
        start: its first pixel.
        kept: how many of its pixels lie inside the image.
        sources: for each of its pixels the index of the image's pixel to take: mirrored outside the image.
        weights: [kept], how much its results count; those of all spans of the axis add up to 1 at each pixel.
    """

    start: int
    kept: int
    sources: torch.Tensor
    weights: torch.Tensor


def _tiles(height: int, width: int, multiple: int, pixels: int) -> tuple[list[_Span], list[_Span]]:
    """Spans of rows and of columns: whole, or the cheapest tiles of at most `pixels` pixels and sensible shape."""
    tall, wide = round_up(height, multiple), round_up(width, multiple)
    if tall * wide > pixels:
        least = round_up(3 * OVERLAP, multiple)
        shapes = [(min(least, tall), min(least, wide))]
        for rows in range(min(least, tall), tall + 1, multiple):
            columns = min(pixels // rows // multiple * multiple, wide)
            if columns >= min(least, wide) and max(rows, columns) <= 2 * max(min(rows, columns), least):
                shapes.append((rows, columns))
        tall, wide = min(shapes[1:] or shapes, key=lambda shape: _cost(height, width, multiple, *shape))
    return _spans(height, multiple, tall), _spans(width, multiple, wide)


def _cost(height: int, width: int, multiple: int, tall: int, wide: int) -> int:
    """Pixels that the network must work through."""
    rows, row_length = _layout(height, multiple, tall)
    columns, column_length = _layout(width, multiple, wide)
    return len(rows) * row_length * len(columns) * column_length


def _layout(size: int, multiple: int, longest: int) -> tuple[list[int], int]:
    """Where equal spans of at most `longest` pixels start, and their length, a multiple of `multiple`.

    Starts are aligned to the network's grid, so that its strides fall on the same pixels in every tile.
    """
    grid = math.gcd(multiple, ALIGNMENT)
    if round_up(size, multiple) <= longest:
        return [0], round_up(size, multiple)
    overlap, padded = round_up(OVERLAP, grid), round_up(size, grid)
    count = -(-(padded - overlap) // (longest - overlap))
    length = round_up(-(-(padded + (count - 1) * overlap) // count), multiple)
    last = padded - length
    return [last * i // (count - 1) // grid * grid for i in range(count)], length


def _spans(size: int, multiple: int, longest: int) -> list[_Span]:
    """Cover an axis with the spans of `_layout`, blended over at least OVERLAP pixels."""
    starts, length = _layout(size, multiple, longest)
    end = starts[-1] + length
    raw = torch.zeros(len(starts), end, dtype=torch.float64)
    for index, start in enumerate(starts):
        distance = torch.arange(length, dtype=torch.float64) + 0.5
        from_start = torch.full_like(distance, math.inf) if start == 0 else distance
        from_end = torch.full_like(distance, math.inf) if start + length == end else distance.flip(0)
        t = ((torch.minimum(from_start, from_end) - OVERLAP / 4) / (OVERLAP / 2)).clamp(0, 1)
        raw[index, start : start + length] = t * t * (3 - 2 * t)
    weights = (raw / raw.sum(0)).float()
    spans = []
    for index, start in enumerate(starts):
        kept = min(length, size - start)
        sources = reflected(start, start + length, size)
        spans.append(_Span(start, kept, sources, weights[index, start : start + kept]))
    return spans
