"""Clean images to train on: crops from folders, or procedural scenes where there are none; smooth fields; grain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from gendeg.photos import SHORT_SIDE, files_of, random_square, random_window, resize_short_side
from runtime.images import open_image
from training.scenes import draw_scene


class Photos:
    """An indexed source of clean images; index and seed decide all that is random.

    Args:
        folders: one or several, searched recursively; None draws procedural scenes instead.
        defocused_share: share of the crops that lie partly out of focus, see `defocused`.

    Raises:
        UserError: if a folder does not exist, holds no image, or one of a kind that cannot be opened here.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path] | None = None, defocused_share: float = 0.0):
        self.files = [] if folders is None else files_of(folders)
        self.defocused_share = defocused_share

    @property
    def name(self) -> str:
        """Tells these photographs from others, by their files' names and sizes in bytes; fit for a folder's name."""
        files = "".join(f"{file.name} {file.stat().st_size}\n" for file in self.files)
        name = hashlib.sha256(files.encode()).hexdigest()[:8] if self.files else "scenes"
        return name + (f"-defocused-{self.defocused_share}" if self.defocused_share else "")

    def random_crop(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A random square of a random photograph, at about its natural scale, flipped half of the time.

        Returns:
            uint8 array [size, size, 3], RGB.
        """
        if self.files:
            crop = random_square(open_image(self.files[rng.integers(len(self.files))]), size, rng)
        else:
            crop = random_window(draw_scene(max(size, SHORT_SIDE), rng), size, rng)
        if self.defocused_share and rng.random() < self.defocused_share:
            crop = defocused(crop, rng)
        return crop


def random_crop_of_pair(
    files: tuple[str | Path, str | Path], size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random square of two images of one size, the same of both, at the scale of `Photos.random_crop`.

    Never enlarged beyond what `size` needs: that would smooth the noise of a dark photograph.

    Returns:
        uint8 arrays [size, size, 3], RGB.
    """
    images = [open_image(file) for file in files]
    short_side = max(size, min(*images[0].size, round(SHORT_SIDE * rng.uniform(1.0, 1.2))))
    images = [np.asarray(resize_short_side(image, short_side)) for image in images]
    both = np.concatenate(images, axis=2)
    if rng.random() < 0.5:
        both = both[:, ::-1]
    both = random_window(both, size, rng)
    return both[..., :3], both[..., 3:]


def centre_square(file: str | Path, size: int) -> np.ndarray:
    """The evaluation crop: short side resized to `size`, centre square. uint8 array [size, size, 3]."""
    return np.asarray(ImageOps.fit(open_image(file), (size, size), Image.Resampling.LANCZOS))


def defocused(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same picture with a random part of it out of focus.

    Few of a few hundred photographs have a smooth background, and a restorer takes what it rarely saw for haze.

    Args and returns:
        uint8 array [H, W, 3].
    """
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(2 ** rng.uniform(0.5, 3.5)))
    depth = rng.standard_normal((4, 4)) + rng.uniform(-1, 1)
    depth = Image.fromarray(depth.astype(np.float32)).resize(blurred.size, Image.Resampling.BICUBIC)
    behind = 1 / (1 + np.exp(-np.asarray(depth)[..., None] / 0.1))
    return (image + behind * (np.asarray(blurred).astype(np.float32) - image)).round().astype(np.uint8)


def smooth_field(size: int, rng: np.random.Generator) -> torch.Tensor:
    """A smooth gradient of similar colours, [3, size, size] in [0, 1]: a sky, a wall, more often dark than bright."""
    spread = rng.uniform(0, 0.3)
    colour = rng.uniform(0, 1) ** 1.5 * (1 + spread * rng.uniform(-1, 1, (3, 1, 1)))
    corners = colour * (1 + spread * rng.standard_normal((3, *rng.integers(1, 4, 2))))
    grid = torch.from_numpy(corners).float().clamp(0, 1)[None]
    return torch.nn.functional.interpolate(grid, (size, size), mode="bilinear", align_corners=True)[0]


def with_grain(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Add grain of a random strength, size and colour to an image [3, H, W] in [0, 1]."""
    deviation = rng.uniform(0.003, 0.04)
    grey, colours = (torch.from_numpy(rng.standard_normal((n, *image.shape[1:]), dtype=np.float32)) for n in (1, 3))
    colour = rng.uniform(0, 1)
    grain = (1 - colour) ** 0.5 * grey + colour**0.5 * colours
    if rng.random() < 0.5:
        grain = torch.nn.functional.avg_pool2d(grain, 3, stride=1, padding=1)
        grain = grain / grain.std()
    return (image + deviation * grain).clamp(0, 1)
