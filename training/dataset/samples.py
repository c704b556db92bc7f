"""How is a sample of a pair data set made? Drawn, generated, measured, and drawn anew if it is not accepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import IntensityPrior, IntensitySample, named_rng
from gendeg.request import MAX_SEED
from training.dataset.plan import Batch, Photo
from training.dataset.store import image_name, write_pair

MAX_ATTEMPTS = 4  # a sample whose images were all discarded is given up
PRIOR = IntensityPrior()


@dataclass(frozen=True)
class Settings:
    """What decides the samples. One command line option each, and `degradations` in their canonical order."""

    clean: str
    model: str
    degradations: list[str]
    per_image: int
    resolution: int | None
    steps: int | None
    captions: str
    seed: int
    format: str


@dataclass
class Made:
    """What became of a batch: pairs (row, degraded, clean) of uint8 images [H, W, 3], samples given up, bad files."""

    pairs: list[tuple[dict[str, Any], np.ndarray, np.ndarray]] = field(default_factory=list)
    discarded: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def draw(seed: int, source_file: str, degradation: str, copy: int, attempt: int) -> tuple[IntensitySample, int]:
    """All that is random in an attempt at a sample: the intensity, and the seed of the generator's noise."""
    rng = named_rng(seed, source_file, degradation, copy, attempt)
    return PRIOR.draw(degradation, rng), int(rng.integers(MAX_SEED + 1))


class PairMaker:
    """Degrades batches with the model of the settings, loaded here."""

    def __init__(self, settings: Settings, pipeline: GenDegPipeline | None = None):
        self.settings = settings
        self.pipeline = pipeline or load_pipeline(settings.model)

    def __call__(self, batch: Batch, images: list[np.ndarray | str]) -> Made:
        """Generate, measure on the 8-bit images that will be stored, and draw anew what is not accepted."""
        made, waiting = Made(), []
        for photo, image in zip(batch.photos, images, strict=True):
            if isinstance(image, str):
                made.unreadable.append((photo.path, image))
            else:
                waiting.append((photo, image))
        low, high = DEGRADATIONS[batch.degradation].accepted_mu
        for attempt in range(1, MAX_ATTEMPTS + 1):
            again = []
            for photo, image, row, degraded, clean in self._attempt(batch, waiting, attempt):
                if low <= row["mu_reached"] <= high:
                    made.pairs.append((row, degraded, clean))
                else:
                    again.append((photo, image))
            waiting = again
        made.discarded = [_sample(photo, batch) | {"attempts": MAX_ATTEMPTS} for photo, _ in waiting]
        return made

    def _attempt(
        self, batch: Batch, waiting: list[tuple[Photo, np.ndarray]], attempt: int
    ) -> Iterator[tuple[Photo, np.ndarray, dict[str, Any], np.ndarray, np.ndarray]]:
        """(photo, image, row, degraded, clean) of one image each."""
        if not waiting:
            return
        degradation, name = DEGRADATIONS[batch.degradation], batch.degradation
        drawn = [draw(self.settings.seed, photo.path, name, batch.copy, attempt) for photo, _ in waiting]
        # None where the data set has no phrase of its own.
        phrases = [dict(degradation.mixed_phrases).get(asked.dataset) for asked, _ in drawn]
        output = self.pipeline(
            [image for _, image in waiting],
            name,
            mu=[asked.mu for asked, _ in drawn],
            sigma=[asked.sigma for asked, _ in drawn],
            prompt=[photo.caption for photo, _ in waiting],
            phrase=phrases,
            resolution=self.settings.resolution,
            num_inference_steps=self.settings.steps,
            generator=[torch.Generator().manual_seed(seed) for _, seed in drawn],
            output_size="working",
            output_type="pt",
        )
        degraded, clean = ((part * 255).round().to(torch.uint8).cpu() for part in (output.images, output.clean))
        mu, sigma = (values.tolist() for values in intensity(clean / 255, degraded / 255))
        for i, ((photo, image), (asked, seed)) in enumerate(zip(waiting, drawn, strict=True)):
            file = image_name(photo.path)
            row = {
                "file_name": f"degraded/{name}/{file}-{batch.copy}.png",
                "clean_file_name": f"clean/{file}.png",
                **_sample(photo, batch),
                "prompt": output.prompts[i],
                "mu_asked": round(asked.mu, 6),
                "sigma_asked": round(asked.sigma, 6),
                "mu_reached": round(mu[i], 6),
                "sigma_reached": round(sigma[i], 6),
                "source_dataset": asked.dataset,
                "uniform_intensity": asked.uniform,
                "structure_correction": output.structure_correction,
                "model": self.settings.model,
                "seed": seed,
                "attempts": attempt,
            }
            yield photo, image, row, *(part[i].permute(1, 2, 0).numpy() for part in (degraded, clean))


def _sample(photo: Photo, batch: Batch) -> dict[str, Any]:
    return {"source_file": photo.path, "degradation": batch.degradation, "copy": batch.copy}


def write(output: Path, made: Made) -> Made:
    """Store the images of a batch; what comes back holds the rows alone."""
    for row, degraded, clean in made.pairs:
        write_pair(output, row, degraded, clean)
    return replace(made, pairs=[(row, None, None) for row, _, _ in made.pairs])
