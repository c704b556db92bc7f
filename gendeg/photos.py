"""Where do clean photographs to learn from come from, at what scale are they cut? Folders; the one models know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from runtime.errors import UserError
from runtime.images import PHOTOGRAPHS, SUFFIXES, image_files, image_size

# The scale the models know: degradations look as they do on a photograph whose short side has so many pixels.
SHORT_SIDE = 256


def files_of(folders: str | Path | Sequence[str | Path]) -> list[Path]:
    """The image files in one or several folders, searched recursively.

    Raises:
        UserError: if a folder does not exist or holds no image.
    """
    files = []
    for folder in [folders] if isinstance(folders, (str, Path)) else folders:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}. Name a folder of photographs.")
        found = image_files(folder)
        if not found:
            raise UserError(f"No images in {folder} (looked for {', '.join(PHOTOGRAPHS)}).")
        for file in found:
            if file.suffix.lower() not in SUFFIXES:
                image_size(file)  # it may take a library that is missing here: said now, not later
        files += found
    return files


def random_square(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of a photograph, at about its natural scale, flipped half of the time.

    Returns:
        uint8 array [size, size, 3], RGB.
    """
    image = resize_short_side(image, max(size, round(SHORT_SIDE * rng.uniform(1.0, 1.2))))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return random_window(np.asarray(image), size, rng)


def resize_short_side(image: Image.Image, short_side: int) -> Image.Image:
    """Resize so that the shorter side has `short_side` pixels, keeping the aspect ratio."""
    scale = short_side / min(image.size)
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def random_window(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square [size, size, ...] of an array [H, W, ...]."""
    top = rng.integers(image.shape[0] - size + 1)
    left = rng.integers(image.shape[1] - size + 1)
    return image[top : top + size, left : left + size]
