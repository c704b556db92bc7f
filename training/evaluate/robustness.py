"""How far do restorers come as a degradation grows? Means over photographs, from none to what real data sets hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from tqdm import tqdm

from gendeg.pipeline import GenDegPipeline
from gendeg.robustness import rising_mus, robustness_of_pairs
from restorers.metrics import named_quality
from restorers.registry import Restorer


def evaluate_robustness(
    restorers: list[Restorer], pipeline: GenDegPipeline, photos: torch.Tensor, degradations: Sequence[str]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Degrade every photograph by the generator at each of `rising_mus`, restore it, and compare with the clean one.

    Args:
        photos: [N, 3, H, W] in [0, 1].

    Returns:
        A table per degradation. Rows: asked mu. Columns: means of mu and sigma reached, of PSNR (dB) and SSIM of the
        degraded photographs, and of what every restorer makes of them.
    """

    def evaluate(degraded: Image.Image, clean: Image.Image) -> dict[str, float | None]:
        values = named_quality("", degraded, clean)
        for restorer in restorers:
            values |= named_quality(restorer.name, restorer(degraded), clean)
        return values

    tables = {}
    for degradation in degradations:
        with tqdm(desc=degradation, total=len(photos) * len(rising_mus(degradation))) as bar:
            curve = robustness_of_pairs(
                evaluate, photos, degradation, pipeline=pipeline, output_size="working",
                progress=lambda *_: bar.update(),
            )  # fmt: skip
        tables[degradation] = {
            f"mu {mu:.3f}": {name: value for name, value in row.items() if not name.endswith(("asked", "delivered"))}
            for mu, row in curve.means().items()
        }
    return tables
