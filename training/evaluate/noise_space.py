"""Does the denoiser of an adaptation predict noise better the better the photographs it sees are restored?

The key figure of "Denoising as Adaptation" (arXiv 2406.18516): only where its error falls with their quality does its
gradient say what a better restoration is. One that has learned to leave the real photograph aside has a flat line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from tqdm import tqdm

from restorers.metrics import psnr
from restorers.registry import Restorer
from runtime.errors import UserError
from training.evaluate.inputs import SIZE, centre_squares, simulated_pairs
from training.noise_space_loss import Denoiser, noised, shuffled
from training.pair_folders import UNCLEAR, PairFolders, degradations_of

CROP = 128  # pixels of each side, of squares of SIZE: the scale that restorer and denoiser have learned from
_SIGNAL_SHARES = (0.05, 0.2, 0.5, 0.8, 0.95)


def load_denoiser(folder: Path) -> Denoiser:
    """What `training.noise_space_adaptation` left beside the adapted restorer.

    Raises:
        UserError: if there is none.
    """
    try:
        return Denoiser(UNet2DModel.from_pretrained(folder / "denoiser", local_files_only=True)).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not the --output of an adaptation: it holds no denoiser.") from error


@torch.inference_mode()
def evaluate_noise_space(
    denoiser: Denoiser,
    restore: Restorer | Callable[[torch.Tensor], torch.Tensor],
    photos: torch.Tensor,
    pairs: PairFolders,
    limit: int | None = None,
) -> dict[str, dict[str, float]]:
    """Rows: what is shown of the real photographs, from worst to best. Columns: their mean PSNR to the clean ones, dB;
    the denoiser's mean squared error when the simulated photograph beside them is restored, and when it is of the same
    quality.

    Args:
        restore: restores [B, 3, H, W] in [0, 1].
        photos: clean ones, [N, 3, SIZE, SIZE] in [0, 1], which are simulated and noised: the denoiser's targets.
        pairs: real pairs; their clean sides serve for the last row and the PSNR. Their rows name the degradation.
        limit: at most so many pairs.

    Raises:
        UserError: if none of the pairs says which one degradation it shows.
    """
    names = [degradations_of(row) for row in pairs.rows]
    chosen = [i for i, of_pair in enumerate(names) if len(of_pair) == 1][:limit]
    if not chosen:
        raise UserError(UNCLEAR)
    stages = ("degraded", "half restored", "restored", "clean")
    measured: dict[str, list[tuple[float, float, float]]] = {stage: [] for stage in stages}
    generator = torch.Generator().manual_seed(0)
    gamma = torch.tensor(_SIGNAL_SHARES)
    for number, i in enumerate(tqdm(chosen, desc="noise space", unit="pair")):
        target = _centre(photos[number % len(photos)][None])
        simulated = simulated_pairs(target, names[i][0], number).degraded
        clean, degraded = _centre(centre_squares(pairs.files[i])).split(1)
        real = dict(zip(stages, _qualities(degraded, restore(degraded), clean), strict=True))
        beside = dict(zip(stages, _qualities(simulated, restore(simulated), target), strict=True))
        noise = torch.randn(len(gamma), *target.shape[1:], generator=generator)
        swap = torch.rand(len(gamma), generator=generator) < 0.5
        error = partial(_error, denoiser, target, noise, gamma, swap)
        for stage in stages:
            errors = error(beside["restored"], real[stage]), error(beside[stage], real[stage])
            measured[stage].append((float(psnr(real[stage], clean).clamp(max=60)), *errors))
    columns = ("psnr_of_the_real", "error_beside_restored", "error_beside_the_same")
    return {
        stage: dict(zip(columns, np.mean(values, axis=0).tolist(), strict=True)) for stage, values in measured.items()
    }


def _error(
    denoiser: Denoiser,
    target: torch.Tensor,
    noise: torch.Tensor,
    gamma: torch.Tensor,
    swap: torch.Tensor,
    simulated: torch.Tensor,
    real: torch.Tensor,
) -> float:
    """Mean squared error of the predicted noise, over the signal shares `gamma`; images [1, 3, H, W] in [0, 1]."""
    conditions = [2 * image.expand(len(gamma), -1, -1, -1) - 1 for image in (simulated, real)]
    noisy = noised(2 * target - 1, noise, gamma)
    return float((denoiser(noisy, shuffled(*conditions, swap), gamma) - noise).square().mean())


def _qualities(degraded: torch.Tensor, restored: torch.Tensor, clean: torch.Tensor) -> list[torch.Tensor]:
    return [degraded, (degraded + restored) / 2, restored, clean]


def _centre(squares: torch.Tensor) -> torch.Tensor:
    """The middle of squares [N, 3, SIZE, SIZE], at their scale."""
    margin = (SIZE - CROP) // 2
    return squares[..., margin : margin + CROP, margin : margin + CROP]
