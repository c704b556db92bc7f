"""Procedural scenes: what training and tests use when no photographs are at hand.

Not pretty, but with what degradations act on: a bright sky, a receding ground, edges at all angles, textures of
several scales and saturated colours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from runtime.images import write_image


def draw_scene(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random outdoor scene.

    Args:
        size: side in pixels.
        rng: decides everything.

    Returns:
        uint8 array [size, size, 3], RGB.
    """
    horizon = rng.uniform(0.3, 0.6) * size
    rows = np.arange(size)[:, None, None]
    sky, zenith, near, far = (rng.uniform(low, high, 3) for low, high in ((150, 250), (60, 230), (20, 160), (60, 190)))
    above = sky + (zenith - sky) * (1 - rows / horizon).clip(0, 1)
    below = far + (near - far) * ((rows - horizon) / (size - horizon)).clip(0, 1)
    image = np.where(rows < horizon, above, below) + np.zeros((size, size, 3))
    canvas = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(6, 18)):
        colour = tuple(int(c) for c in rng.integers(10, 245, 3))
        width, height = rng.uniform(0.04, 0.3) * size, rng.uniform(0.08, 0.5) * size
        x, base = rng.uniform(-0.1, 1.0) * size, horizon + rng.uniform(0, 0.45) * size
        kind = rng.integers(3)
        if kind == 0:
            _building(draw, (x, base - height, x + width, base), colour, rng)
        elif kind == 1:
            draw.polygon([(x, base), (x + width / 2, base - height), (x + width, base)], fill=colour)
        else:
            draw.rectangle((x + width * 0.45, base - height / 2, x + width * 0.55, base), fill=(70, 50, 35))
            draw.ellipse((x, base - height, x + width, base - height / 3), fill=colour)
    image = np.asarray(canvas, dtype=np.float32) + _texture(size, rng)
    return image.clip(0, 255).astype(np.uint8)


def draw_scenes(folder: Path, count: int, size: int = 256) -> Path:
    """`folder`, made to hold so many scenes as image files; the same ones each time."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_image(Image.fromarray(draw_scene(size, np.random.default_rng(number))), folder / f"{number}.png")
    return folder


def _building(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: tuple[int, ...], rng: np.random.Generator
) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, fill=colour)
    window = tuple(int(c) for c in rng.integers(0, 256, 3))
    pitch = rng.uniform(6, 14)
    for y in np.arange(top + 3, bottom - pitch, pitch):
        for x in np.arange(left + 3, right - pitch, pitch):
            draw.rectangle((x, y, x + pitch * 0.5, y + pitch * 0.6), fill=window)


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of several scales, stronger in the lower half, [size, size, 1]."""
    total = np.zeros((size, size), dtype=np.float32)
    for cells in (8, 32, 128):
        coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) * rng.uniform(2, 9)
    return (total * np.linspace(0.3, 1.4, size)[:, None])[..., None]
