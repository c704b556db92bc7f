"""What are models measured on? Photographs, and what simulators and generator make of them at real intensities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from gendeg.call import GenDegOutput
from gendeg.degradations import DEGRADATIONS
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import PRIOR
from training.photos import Photos, centre_square
from training.simulators.matching import simulate

SIZE = 256  # pixels of each side


def evaluation_squares(folder: Path | None) -> torch.Tensor:
    """Centre squares of all photographs, or of 40 procedural scenes: float tensor [N, 3, 256, 256] in [0, 1]."""
    photos = Photos(folder)
    if photos.files:
        return centre_squares(photos.files)
    return _as_floats([photos.random_crop(SIZE, np.random.default_rng(i)) for i in range(40)])


def centre_squares(files: Sequence[Path]) -> torch.Tensor:
    """Centre squares of image files: float tensor [N, 3, 256, 256] in [0, 1]."""
    return _as_floats([centre_square(file, SIZE) for file in files])


def _as_floats(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def real_intensities(degradation: str, count: int, seed: int = 0) -> np.ndarray:
    """(mu, sigma) drawn the way real data sets have them: [count, 2]."""
    rng = np.random.default_rng(seed)
    return np.array([PRIOR.sample(degradation, rng)[:2] for _ in range(count)])


class TestPairs(NamedTuple):
    """degraded: [N, 3, H, W] in [0, 1]; phrases, mu, sigma: of each."""

    degraded: torch.Tensor
    phrases: list[str]
    mu: list[float]
    sigma: list[float]


def simulated_pairs(photos: torch.Tensor, degradation: str, seed: int = 0) -> TestPairs:
    """Photographs [N, 3, H, W] degraded by the simulators at real intensities."""
    asked = real_intensities(degradation, len(photos), seed)
    pairs = [
        simulate(photo, degradation, *asked[i], torch.Generator().manual_seed(seed + i))
        for i, photo in enumerate(tqdm(photos, desc=f"simulating {degradation}"))
    ]
    degraded = torch.stack([pair.degraded for pair in pairs])
    return TestPairs(degraded, *map(list, zip(*((p.phrase, p.mu, p.sigma) for p in pairs), strict=True)))


def simulated(photos: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(degradation, photographs with it) by the simulators, at real intensities; [N, 3, H, W] in [0, 1]."""
    for name in DEGRADATIONS:
        yield name, simulated_pairs(photos, name).degraded


def generated(pipeline: GenDegPipeline, photos: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(degradation and setting, photographs with it) as the generator delivers them; [N, 3, H, W] in [0, 1].

    Each degradation at its typical intensity, which users get who ask for none, and at real ones.
    """
    for name, degradation in DEGRADATIONS.items():
        typical = np.tile(degradation.typical, (len(photos), 1))
        for setting, asked in (("typical", typical), ("real intensities", real_intensities(name, len(photos)))):
            row = f"{name}, {setting}"
            outputs = generate(pipeline, photos, name, asked, f"generating {row}", output_type="pt")
            yield row, torch.cat([output.images for output in outputs])


def generate(
    pipeline: GenDegPipeline,
    photos: torch.Tensor,
    degradation: str,
    asked: np.ndarray,
    title: str,
    **settings: Any,
) -> Iterator[GenDegOutput]:
    """What calls of the pipeline give back, of 8 photographs each, each photograph with a seed of its own.

    Args:
        photos: [N, 3, H, W] in [0, 1].
        asked: (mu, sigma) of each: [N, 2].
        title: of the progress bar.
        settings: further arguments of the pipeline's call.
    """
    for part, generators in in_eights(len(photos), title):
        mu, sigma = asked[part].T
        yield pipeline(photos[part], degradation, mu=mu, sigma=sigma, generator=generators, **settings)


def in_eights(count: int, title: str) -> Iterator[tuple[slice, list[torch.Generator]]]:
    """(places, a random generator for each, whose seed is its place) of `count` things, of 8 at a time.

    Args:
        title: of the progress bar.
    """
    for start in tqdm(range(0, count, 8), desc=title):
        part = slice(start, min(start + 8, count))
        yield part, [torch.Generator().manual_seed(i) for i in range(part.start, part.stop)]
