"""How near does the network come to the asked intensity, by itself?"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

from gendeg.degradations import DEGRADATIONS
from gendeg.pipeline import GenDegPipeline
from training.evaluate.inputs import generate, real_intensities


def evaluate_control(
    pipeline: GenDegPipeline, photos: torch.Tensor, physics: bool = False
) -> dict[str, dict[str, float]]:
    """Ask every photograph for one intensity drawn from the prior, per degradation, and measure what is reached.

    By the network alone, or with what `gendeg.physics` does to its pictures. Columns: median |asked - reached| of mu
    and sigma, at the working size, and rank correlation of asked and reached.
    """
    settings = {"match_intensity": False, "physics": physics, "output_size": "working", "output_type": "pt"}
    table = {}
    for name in DEGRADATIONS:
        asked = real_intensities(name, len(photos))
        outputs = generate(pipeline, photos, name, asked, title=name, **settings)
        reached = np.concatenate([np.stack([output.mu, output.sigma], axis=1) for output in outputs])
        off = np.median(np.abs(asked - reached), axis=0)
        table[name] = {
            "mu_error": float(off[0]),
            "sigma_error": float(off[1]),
            "mu_rank_correlation": float(spearmanr(asked[:, 0], reached[:, 0])[0]),
            "sigma_rank_correlation": float(spearmanr(asked[:, 1], reached[:, 1])[0]),
        }
    return table
