"""What are models measured on? Photographs, intensities drawn like real ones, pairs simulated at these."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from gendeg.prior import IntensityPrior
from training.photos import Photos, centre_square
from training.simulators.matching import simulate

SIZE = 256  # pixels of each side


def evaluation_squares(folder: Path | None) -> torch.Tensor:
    """Centre squares of all photographs, or of 40 procedural scenes: float tensor [N, 3, 256, 256] in [0, 1]."""
    photos = Photos(folder)
    if photos.files:
        arrays = [centre_square(file, SIZE) for file in photos.files]
    else:
        arrays = [photos.random_crop(SIZE, np.random.default_rng(i)) for i in range(40)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def real_intensities(degradation: str, count: int, seed: int) -> np.ndarray:
    """(mu, sigma) drawn the way real data sets have them: [count, 2]."""
    prior, rng = IntensityPrior(), np.random.default_rng(seed)
    return np.array([prior.sample(degradation, rng)[:2] for _ in range(count)])


class TestPairs(NamedTuple):
    """degraded: [N, 3, H, W] in [0, 1]; phrases, mu, sigma: of each."""

    degraded: torch.Tensor
    phrases: list[str]
    mu: list[float]
    sigma: list[float]


def simulated_pairs(photos: torch.Tensor, degradation: str, seed: int) -> TestPairs:
    """Photographs [N, 3, H, W] degraded by the simulators at real intensities."""
    asked = real_intensities(degradation, len(photos), seed)
    pairs = [
        simulate(photo, degradation, *asked[i], torch.Generator().manual_seed(seed + i))
        for i, photo in enumerate(tqdm(photos, desc=f"simulating {degradation}"))
    ]
    degraded = torch.stack([pair.degraded for pair in pairs])
    return TestPairs(degraded, *map(list, zip(*((p.phrase, p.mu, p.sigma) for p in pairs), strict=True)))
