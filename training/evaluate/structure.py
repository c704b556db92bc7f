"""What does structure correction (GenDeg, arXiv 2411.17687, Section 3.3) change, in single steps and in whole calls?"""

from __future__ import annotations

import torch

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from gendeg.pipeline import GenDegPipeline
from restorers.metrics import psnr
from training.evaluate.inputs import in_eights, real_intensities, simulated_pairs
from training.generated_pairs import one_step


@torch.no_grad()
def evaluate_structure(pipeline: GenDegPipeline, photos: torch.Tensor) -> dict[str, dict[str, float]]:
    """What structure correction changes, in all degradations, whether or not the module is for them.

    Columns: PSNR of one-step predictions from the easy 30 % of the times to the true degraded image, before and after;
    then, of full generation, how far mu and sigma move (median), and PSNR to the photograph over the half of the pixels
    with the smallest degradation map, before and after.

    Args:
        photos: [N, 3, H, W] in [0, 1].
    """
    table = {}
    for name in DEGRADATIONS:
        pairs = simulated_pairs(photos, name)
        ease = 0.7 + 0.3 * torch.rand(len(photos), generator=torch.Generator().manual_seed(0))
        asked = real_intensities(name, len(photos))
        measured = []
        for part, generators in in_eights(len(photos), name):
            seeds = list(range(part.start, part.stop))
            clean, true = (images[part].to(pipeline.device) for images in (photos, pairs.degraded))
            conditions = pairs.phrases[part], pairs.mu[part], pairs.sigma[part]
            kind = torch.full((len(clean),), list(DEGRADATIONS).index(name), device=clean.device)
            predicted = one_step(pipeline, clean, true, kind, *conditions, ease[part].to(clean), seeds)[0]
            corrected = pipeline.correct(clean, predicted, name, generators)
            output = pipeline(
                clean, name, mu=asked[part, 0], sigma=asked[part, 1], generator=generators, output_type="pt",
                output_size="working", structure_correction=True, match_intensity=False, resolution=clean.shape[-1],
            )  # fmt: skip
            round_trip = pipeline.decode(pipeline.encode(clean) * pipeline.vae.config.scaling_factor)
            before, after = intensity(round_trip, output.uncorrected), intensity(output.clean, output.corrected)
            row = {
                "psnr": psnr(predicted.cpu(), true.cpu()),
                "psnr_corrected": psnr(corrected.cpu(), true.cpu()),
                "mu_moves": (after[0] - before[0]).abs(),
                "sigma_moves": (after[1] - before[1]).abs(),
                "detail_psnr": _detail(output.clean, output.uncorrected),
                "detail_psnr_corrected": _detail(output.clean, output.corrected),
            }
            measured.append(torch.stack([values.cpu() for values in row.values()], dim=1))
        values = torch.cat(measured)
        table[name] = {
            column: float(values[:, i].median() if column.endswith("moves") else values[:, i].mean())
            for i, column in enumerate(row)
        }
    return table


def _detail(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """PSNR [B] to the clean image over the half of the pixels that are degraded least."""
    squares = (clean - degraded).square().mean(1).flatten(1)
    mildest = (clean - degraded).abs().mean(1).flatten(1).topk(squares.shape[1] // 2, largest=False).indices
    return -10 * squares.gather(1, mildest).mean(1).clamp(min=1e-10).log10()
