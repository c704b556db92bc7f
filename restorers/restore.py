"""How is an image of any size restored within a memory budget? In overlapping tiles that are treated as one image.

What a network draws from all pixels is drawn once, from the image shrunk to about the size that the networks are
trained with, so that it is the same in every tile and the budget changes nothing but the number of tiles.

Rows and columns are treated alike: an axis is cut into equally long spans that overlap, each span weighs its pixels by
their distance from its inner ends, and the weights of all spans add up to one at each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import interpolate

from restorers.layers import pad_to_multiple, reflected, round_up
from restorers.whole_image import WholeImage
from runtime.errors import UserError
from runtime.memory import free_memory

CPU_BUDGET = 3 << 29  # bytes for the network's work on one tile; leaves room for the image itself on any laptop
CUDA_SHARE = 0.7  # of the memory that is free
VIEW = 512 * 512  # pixels of the shrunk image; smaller ones are never cut
BLEND = 32  # pixels in the middle of an overlap, over which one tile turns into the next
OVERLAP = 64  # assumed of networks that do not tell
FLOATS_PER_PIXEL = 2048  # assumed of networks that do not tell


def restore(
    network: nn.Module,
    image: torch.Tensor,
    memory_budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    name: str = "The network",
) -> torch.Tensor:
    """Restore images of any size; large ones in overlapping tiles.

    Images of up to VIEW pixels are what the network's own `forward` makes of them. From a larger one, shrunk to that
    many, the network first draws its statistics (`restorers.whole_image`); then it works through the image itself, in
    one piece if memory allows. Each tile is mirrored where it reaches over the image's end. Of an overlap, only the
    middle is used, BLEND pixels wide: nearer to its end a tile has seen too little around a pixel.

    How large the tiles are then changes the result of the bundled networks by less than 2/255. A network from elsewhere
    that averages over its input does so in each tile by itself.

    Args:
        network: [B, 3, h, w] to the same size. Its attribute `multiple` says which sizes suit it (else 1),
            `floats_per_pixel` how many numbers it holds at once for a pixel, `overlap` how many pixels neighbouring
            tiles must share, so that it sees enough around each that is used.
        image: float tensor [B, 3, H, W] in [0, 1] on any device; it travels to the network tile by tile.
        memory_budget: bytes that the network may take for a tile, besides its weights and the images. Default: 70 % of
            the free memory of a CUDA device, 1.5 GiB elsewhere. However little is given, VIEW pixels are worked on at
            once, and tiles never shrink below three overlaps.
        progress: called with (tiles done, tiles in all), first with (0, total). What it raises ends the work: that is
            how to cancel.
        name: of the network, for the sentence of an error.

    Returns:
        Restored images [B, 3, H, W] in [0, 1], on the device and of the type of `image`.

    Raises:
        ValueError: if `image` is no such tensor.
        UserError: if the network answers with values that are not numbers: clamped, they would be black or white.
    """
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point() or image.numel() == 0:
        raise ValueError(f"An image must be a float tensor [B, 3, H, W], not {image.dtype} {list(image.shape)}.")
    weight = next(network.parameters(), torch.zeros(()))
    multiple = getattr(network, "multiple", 1)
    overlap = getattr(network, "overlap", OVERLAP)
    floats = getattr(network, "floats_per_pixel", FLOATS_PER_PIXEL)
    budget = default_budget(weight.device) if memory_budget is None else memory_budget
    pixels = budget // (floats * weight.element_size() * image.shape[0])
    height, width = image.shape[-2:]
    rows, columns = _tiles(height, width, multiple, overlap, pixels if height * width > VIEW else math.inf)

    restored = torch.zeros_like(image, memory_format=torch.contiguous_format)
    total = len(rows) * len(columns)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(), WholeImage() as whole:
            if progress:
                progress(0, total)
            if height * width > VIEW:
                network(pad_to_multiple(_shrunk(image), multiple).to(weight.device, weight.dtype))
            for done in range(total):
                row, column = rows[done // len(columns)], columns[done % len(columns)]
                whole.part = (*row.part, *column.part)
                tile = image.index_select(2, row.sources.to(image.device))
                tile = tile.index_select(3, column.sources.to(image.device))
                result = network(tile.to(weight.device, weight.dtype))
                if not bool(result.isfinite().all()):
                    raise UserError(
                        f"{name} gave values that are not numbers (NaN or infinity): its weights do not suit this "
                        f"photograph or this precision. Choose another restorer."
                    )
                result = result.clamp_(0, 1)[..., : row.kept, : column.kept].to(image.device, image.dtype)
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


def _shrunk(image: torch.Tensor) -> torch.Tensor:
    """The image, [B, 3, H, W], with about VIEW pixels."""
    scale = math.sqrt(VIEW / (image.shape[-2] * image.shape[-1]))
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return interpolate(image.float(), size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class _Span:
    """A tile's part of one axis.

    Attributes:
        start: its first pixel.
        kept: how many of its pixels lie inside the image.
        sources: for each of its pixels the index of the image's pixel to take: mirrored outside the image.
        part: where it begins and ends, in lengths of the axis, padded to the network's multiple.
        weights: [kept], how much its results count; those of all spans of the axis add up to 1 at each pixel.
    """

    start: int
    kept: int
    sources: torch.Tensor
    part: tuple[float, float]
    weights: torch.Tensor


def _tiles(height: int, width: int, multiple: int, overlap: int, pixels: float) -> tuple[list[_Span], list[_Span]]:
    """Spans of rows and of columns: whole, or the cheapest tiles of at most `pixels` pixels and sensible shape."""
    tall, wide = round_up(height, multiple), round_up(width, multiple)
    overlap = round_up(overlap, multiple)
    if tall * wide > pixels:
        least = 3 * overlap
        shapes = [(min(least, tall), min(least, wide))]
        for rows in range(min(least, tall), tall + 1, multiple):
            columns = min(int(pixels) // rows // multiple * multiple, wide)
            if columns >= min(least, wide) and max(rows, columns) <= 2 * max(min(rows, columns), least):
                shapes.append((rows, columns))
        tall, wide = min(shapes[1:] or shapes, key=lambda shape: _cost(height, width, multiple, overlap, *shape))
    return _spans(height, multiple, overlap, tall), _spans(width, multiple, overlap, wide)


def _cost(height: int, width: int, multiple: int, overlap: int, tall: int, wide: int) -> int:
    """Pixels that the network must work through."""
    rows, row_length = _layout(height, multiple, overlap, tall)
    columns, column_length = _layout(width, multiple, overlap, wide)
    return len(rows) * row_length * len(columns) * column_length


def _layout(size: int, multiple: int, overlap: int, longest: int) -> tuple[list[int], int]:
    """Where equal spans of at most `longest` pixels start, and their length; all are multiples of `multiple`.

    So the network's strides and attention windows fall on the same pixels in every tile.
    """
    padded = round_up(size, multiple)
    if padded <= longest:
        return [0], padded
    count = -(-(padded - overlap) // (longest - overlap))
    length = round_up(-(-(padded + (count - 1) * overlap) // count), multiple)
    last = padded - length
    return [last * i // (count - 1) // multiple * multiple for i in range(count)], length


def _spans(size: int, multiple: int, overlap: int, longest: int) -> list[_Span]:
    """Cover an axis with the spans of `_layout`, blended in the middle of what they share."""
    starts, length = _layout(size, multiple, overlap, longest)
    end = starts[-1] + length  # a multiple of `multiple`, not before the axis ends
    raw = torch.zeros(len(starts), end, dtype=torch.float64)
    for index, start in enumerate(starts):
        distance = torch.arange(length, dtype=torch.float64) + 0.5
        from_start = torch.full_like(distance, math.inf) if start == 0 else distance
        from_end = torch.full_like(distance, math.inf) if start + length == end else distance.flip(0)
        t = ((torch.minimum(from_start, from_end) - (overlap - BLEND) / 2) / BLEND).clamp(0, 1)
        raw[index, start : start + length] = t * t * (3 - 2 * t)
    weights = (raw / raw.sum(0)).float()
    spans = []
    for index, start in enumerate(starts):
        kept = min(length, size - start)
        sources = reflected(start, start + length, size)
        part = (start / end, (start + length) / end)
        spans.append(_Span(start, kept, sources, part, weights[index, start : start + kept]))
    return spans
