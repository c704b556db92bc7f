"""What does each restorer add to degraded photographs, and what does it take from clean ones?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from tqdm import tqdm

from restorers.metrics import psnr, ssim
from restorers.registry import Restorer


def evaluate_restorers(
    restorers: list[Restorer], photos: torch.Tensor, degraded: Iterable[tuple[str, torch.Tensor]]
) -> dict[str, dict[str, float]]:
    """Mean PSNR and SSIM of the degraded images, and what every restorer adds; for clean ones what it leaves.

    In the last row, of the clean photographs themselves, the numbers are not gains but PSNR and SSIM.

    Args:
        photos: [N, 3, H, W] in [0, 1].
        degraded: rows and what is measured in each: the photographs degraded in one way; see `simulated`, `generated`.
    """
    table = {}
    for name, images in chain(degraded, [("clean", photos)]):
        before = torch.stack([psnr(images, photos), ssim(images, photos)])
        row = {} if name == "clean" else {"psnr": float(before[0].mean()), "ssim": float(before[1].mean())}
        for restorer in restorers:
            results = torch.cat([restorer(batch) for batch in tqdm(images.split(8), desc=f"{restorer.name}, {name}")])
            after = torch.stack([psnr(results, photos), ssim(results, photos)])
            gain = (after if name == "clean" else after - before).mean(1)
            row |= {f"{restorer.name}_psnr": float(gain[0]), f"{restorer.name}_ssim": float(gain[1])}
        table[name] = row
    return table
