"""Does the generator draw what real pairs hold? Scenes that training leaves out, degraded at their own intensities."""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from gendeg.intensity import intensity
from gendeg.pipeline import GenDegPipeline
from restorers.metrics import psnr
from runtime.errors import UserError
from training.evaluate.inputs import SIZE, centre_squares
from training.pair_folders import UNCLEAR, PairFolders, degradations_of
from training.simulators.matching import simulate


def evaluate_held_back(
    pipeline: GenDegPipeline, pairs: PairFolders, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Degrade the clean sides of real pairs at the measured (mu, sigma) of each; compare with the true degraded ones.

    One pair a scene. Rows: the data sets. Columns: number of pairs; mean PSNR (dB, centre squares of 256 pixels) of the
    generator's pictures, and of the simulators', to the true degraded images.

    Args:
        pairs: see `PairFolders`; their rows name `dataset`, `scene` and `degradation`.
        limit: at most so many scenes of each data set.

    Raises:
        UserError: if none of the pairs says which one degradation it shows.
    """
    single = (i for i, row in enumerate(pairs.rows) if len(degradations_of(row)) == 1)
    by_scene = {(pairs.rows[i].get("dataset"), pairs.rows[i].get("scene")): i for i in single}
    chosen: dict[str, list[int]] = {}
    for (dataset, _), i in sorted(by_scene.items(), key=lambda item: item[1]):
        chosen.setdefault(str(dataset), []).append(i)
    if not chosen:
        raise UserError(UNCLEAR)
    table = {}
    for dataset, members in chosen.items():
        reached = []
        for i in tqdm(members[:limit], desc=dataset):
            clean, degraded = centre_squares(pairs.files[i]).split(1)
            degradation = pairs.rows[i]["degradation"]
            mu, sigma = (float(v) for v in intensity(clean, degraded))
            output = pipeline(
                clean, degradation, mu=mu, sigma=sigma, generator=torch.Generator().manual_seed(i),
                resolution=SIZE, output_size="working", output_type="pt",
            )  # fmt: skip
            simulated = simulate(clean[0], degradation, mu, sigma, torch.Generator().manual_seed(i)).degraded
            reached.append([float(psnr(image, degraded)) for image in (output.images.cpu(), simulated[None])])
        generated, simulated = np.mean(reached, axis=0)
        table[dataset] = {"pairs": len(reached), "psnr_generated": float(generated), "psnr_simulated": float(simulated)}
    return table
