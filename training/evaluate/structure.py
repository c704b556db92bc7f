"""What does structure correction (GenDeg, arXiv 2411.17687, Section 3.3) change, in single steps and in whole calls?"""

from __future__ import annotations

import torch
from tqdm import tqdm

from gendeg.degradations import DEGRADATIONS
from gendeg.detail import transfer_detail
from gendeg.intensity import intensity
from gendeg.pipeline import GenDegPipeline
from restorers.metrics import psnr, ssim
from training.evaluate.inputs import real_intensities, simulated_pairs
from training.structure_correction import one_step


@torch.no_grad()
def evaluate_structure(pipeline: GenDegPipeline, photos: torch.Tensor, seed: int = 0) -> dict[str, dict[str, float]]:
    """What structure correction changes, in all degradations, whether or not it is their policy.

    Columns: PSNR and SSIM of one-step predictions from the easy 30 % of the times to the true degraded image, before
    and after, and with the photograph's detail transferred instead, which is what the others get; then, of full
    generation, how far mu and sigma move (median), the PSNR to the clean image where the uncorrected degradation map is
    below its median, and the correlation of gradients with the clean image.
    """
    table = {}
    for name in DEGRADATIONS:
        pairs = simulated_pairs(photos, name, seed)
        ease = 0.7 + 0.3 * torch.rand(len(photos), generator=torch.Generator().manual_seed(seed))
        asked = real_intensities(name, len(photos), seed)
        measured = []
        for chunk in tqdm(range(0, len(photos), 8), desc=name):
            part = slice(chunk, chunk + 8)
            seeds = [seed + i for i in range(*part.indices(len(photos)))]
            conditions = pairs.phrases[part], pairs.mu[part], pairs.sigma[part]
            predicted = one_step(pipeline, photos[part], pairs.degraded[part], *conditions, ease[part], seeds)[0]
            corrected = pipeline.correct_structure(photos[part], predicted)
            generators = [torch.Generator().manual_seed(s) for s in seeds]
            asked_part = {"mu": asked[part, 0], "sigma": asked[part, 1]}
            output = pipeline(
                photos[part], name, **asked_part, generator=generators, output_type="pt", output_size="working",
                structure_correction=True, match_intensity=False, resolution=photos.shape[-1],
            )  # fmt: skip
            round_trip = pipeline.decode(pipeline.encode(photos[part]) * pipeline.vae.config.scaling_factor)
            three = zip(photos[part], round_trip, predicted, strict=True)
            transferred = torch.stack([transfer_detail(*images) for images in three])
            before, after = intensity(round_trip, output.uncorrected), intensity(output.clean, output.corrected)
            row = {
                "psnr": psnr(predicted, pairs.degraded[part]),
                "psnr_detail": psnr(transferred, pairs.degraded[part]),
                "psnr_corrected": psnr(corrected, pairs.degraded[part]),
                "ssim": ssim(predicted, pairs.degraded[part]),
                "ssim_corrected": ssim(corrected, pairs.degraded[part]),
                "mu_moves": (after[0] - before[0]).abs(),
                "sigma_moves": (after[1] - before[1]).abs(),
                "detail_psnr": _detail(output.clean, output.uncorrected, output.uncorrected),
                "detail_psnr_corrected": _detail(output.clean, output.corrected, output.uncorrected),
                "gradients": _gradient_correlation(output.clean, output.uncorrected),
                "gradients_corrected": _gradient_correlation(output.clean, output.corrected),
            }
            measured.append(torch.stack(list(row.values()), dim=1))
        values = torch.cat(measured)
        table[name] = {
            column: float(values[:, i].median() if column.endswith("moves") else values[:, i].mean())
            for i, column in enumerate(row)
        }
    return table


def _detail(clean: torch.Tensor, image: torch.Tensor, uncorrected: torch.Tensor) -> torch.Tensor:
    """PSNR [B] to the clean image over the half of the pixels that the uncorrected image degrades least."""
    change = (clean - uncorrected).abs().mean(1, keepdim=True)
    mild = (change <= change.flatten(1).median(1)[0][:, None, None, None]).float()
    error = ((clean - image).square() * mild).sum((1, 2, 3)) / (3 * mild.sum((1, 2, 3)))
    return -10 * error.log10()


def _gradient_correlation(clean: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Correlation [B] of the differences between neighbouring pixels."""
    gradients = [torch.cat([i.diff(dim=2).flatten(1), i.diff(dim=3).flatten(1)], dim=1) for i in (clean, image)]
    first, second = (g - g.mean(1, keepdim=True) for g in gradients)
    return (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1)).clamp(min=1e-9)
