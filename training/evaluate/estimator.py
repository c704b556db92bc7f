"""Does the estimator name what a photograph shows, and how strong it is? On pairs it has not learned from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median

import torch
from PIL import Image
from tqdm import tqdm

from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.estimator import DegradationEstimator
from gendeg.image_forms import convert
from gendeg.intensity import intensity
from runtime.errors import UserError
from runtime.images import image_files, open_image
from training.evaluate.inputs import centre_squares, simulated_pairs
from training.pair_folders import PairFolders, degradations_of

# (what is estimated, its degradation, mu, sigma); None: clean, or unknown.
_Shown = tuple[Image.Image, str | None, float | None, float | None]


def evaluate_estimator(
    estimator: DegradationEstimator, photos: torch.Tensor, pairs: PairFolders | None, real: Path | None
) -> dict[str, dict[str, float | None]]:
    """Rows: simulated degradations, the photographs as they are, data sets of pairs, folders of real photographs.

    Columns: number of images; share that is named right; median errors of mu and sigma of those named right.

    Args:
        photos: clean ones, [N, 3, H, W] in [0, 1].
        pairs: see `PairFolders`; their rows name `dataset` and `degradation`. None: none.
        real: holds folders of photographs, each named by its degradation. None: none.

    Raises:
        UserError: for a folder in `real` that is named otherwise.
    """
    rows: dict[str, list[tuple[bool, float | None, float | None]]] = {}
    for name, (image, degradation, *asked) in _shown(photos, pairs, real):
        estimate = estimator.estimate(image)
        right = estimate.degradation == degradation
        errors = [
            abs(value - wanted) if right and degradation and wanted is not None else None
            for value, wanted in zip((estimate.mu, estimate.sigma), asked, strict=True)
        ]
        rows.setdefault(name, []).append((right, *errors))
    return {name: _row(values) for name, values in rows.items()}


def _row(values: list[tuple[bool, float | None, float | None]]) -> dict[str, float | None]:
    right, mu, sigma = zip(*values, strict=True)
    mu, sigma = ([error for error in errors if error is not None] for errors in (mu, sigma))
    return {
        "images": len(values),
        "named_right": fmean(right),
        "median_error_of_mu": median(mu) if mu else None,
        "median_error_of_sigma": median(sigma) if sigma else None,
    }


def _shown(photos: torch.Tensor, pairs: PairFolders | None, real: Path | None) -> Iterator[tuple[str, _Shown]]:
    for degradation in DEGRADATIONS:
        simulated = simulated_pairs(photos, degradation)
        for image, mu, sigma in zip(convert(simulated.degraded, "pil"), simulated.mu, simulated.sigma, strict=True):
            yield f"{degradation}, simulated", (image, degradation, mu, sigma)
    for photo in convert(photos, "pil"):
        yield "clean", (photo, None, None, None)
    files = zip(pairs.files, pairs.rows, strict=True) if pairs else ()
    for of_pair, row in tqdm(files, desc="pairs", disable=pairs is None):
        if len(names := degradations_of(row)) == 1:  # it names one; of a mixture no answer is right
            clean, degraded = centre_squares(of_pair).split(1)
            mu, sigma = (float(value) for value in intensity(clean, degraded))
            yield str(row.get("dataset")), (convert(degraded, "pil")[0], names[0], mu, sigma)
    for folder in sorted(path for path in real.iterdir() if path.is_dir()) if real else ():
        try:
            name = get_degradation(folder.name).name
        except UserError as error:
            raise UserError(f"{folder}: folders of real photographs are named by what they show. {error}") from error
        for file in image_files(folder):
            yield f"{name}, real", (open_image(file), name, None, None)
