"""What does each restorer add to degraded photographs, and what does it take from clean ones?"""

from __future__ import annotations

import torch
from tqdm import tqdm

from gendeg.degradations import DEGRADATIONS
from restorers.metrics import psnr, ssim
from restorers.registry import Restorer
from training.evaluate.inputs import simulated_pairs


def evaluate_restorers(restorers: list[Restorer], photos: torch.Tensor, seed: int = 0) -> dict[str, dict[str, float]]:
    """Mean PSNR and SSIM of the degraded images, and what every restorer adds; for clean ones what it leaves.

    In the last row, of the clean photographs themselves, the numbers are not gains but PSNR and SSIM.
    """
    table = {}
    for name in [*DEGRADATIONS, "clean"]:
        degraded = photos if name == "clean" else simulated_pairs(photos, name, seed).degraded
        before = torch.stack([psnr(degraded, photos), ssim(degraded, photos)])
        row = {} if name == "clean" else {"psnr": float(before[0].mean()), "ssim": float(before[1].mean())}
        for restorer in restorers:
            results = torch.cat([restorer(batch) for batch in tqdm(degraded.split(8), desc=f"{restorer.name}, {name}")])
            after = torch.stack([psnr(results, photos), ssim(results, photos)])
            gain = (after if name == "clean" else after - before).mean(1)
            row |= {f"{restorer.name}_psnr": float(gain[0]), f"{restorer.name}_ssim": float(gain[1])}
        table[name] = row
    return table
