"""How near does a degradation come to its asked intensity on a picture that another one has changed before?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from gendeg.mixture import PHYSICAL_ORDER, degrade_mixture, mixture_name
from gendeg.pipeline import GenDegPipeline
from training.evaluate.inputs import in_eights, real_intensities


def evaluate_mixtures(pipeline: GenDegPipeline, photos: torch.Tensor) -> dict[str, dict[str, float]]:
    """Ask every photograph for every pair of degradations, each at an intensity drawn from the prior, and measure.

    Rows: the pairs. Columns: median |asked - reached| mu and sigma of the second part, against its own input, and the
    share of photographs where its mu is within 0.02; the mean mu of both together, and the mean sum of their own.

    Args:
        photos: [N, 3, H, W] in [0, 1].
    """
    table = {}
    for names in combinations(PHYSICAL_ORDER, 2):
        asked = np.stack([real_intensities(name, len(photos), i) for i, name in enumerate(names)])  # [2, N, 2]
        own, mu_of_all = [], []
        for part, generators in in_eights(len(photos), mixture_name(names)):
            mu, sigma = asked[:, part].transpose(2, 0, 1).tolist()
            output = degrade_mixture(
                pipeline, photos[part], names, mu, sigma, generator=generators, output_size="working", output_type="pt"
            )
            own.append(np.stack([np.stack([p.mu, p.sigma], axis=1) for p in output.parts]))
            mu_of_all += output.mu
        reached = np.concatenate(own, axis=1)  # like `asked`
        off = np.abs(asked - reached)[1]
        table[mixture_name(names)] = {
            "second_mu_error": float(np.median(off[:, 0])),
            "second_sigma_error": float(np.median(off[:, 1])),
            "second_mu_within_0.02": float((off[:, 0] <= 0.02).mean()),
            "mu_of_both": float(np.mean(mu_of_all)),
            "sum_of_own_mu": float(reached[:, :, 0].sum(0).mean()),
        }
    return table
