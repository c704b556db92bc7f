"""How is a sample of a pair data set made? Drawn, generated, measured, and drawn anew if it is not accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from gendeg.mixture import degrade_mixture, parts_of, phrase
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import PRIOR, UNIFORM_EVERY, IntensitySample, named_rng
from gendeg.request import MAX_SEED
from training.dataset.plan import Batch, Photo
from training.dataset.store import image_name, write_pair

MAX_ATTEMPTS = 4  # a sample whose images were all discarded is given up


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


def draw(seed: int, source_file: str, degradation: str, copy: int, attempt: int) -> tuple[list[IntensitySample], int]:
    """All that is random in an attempt at a sample: the intensity of each part, and the seed of the generator's noise.

    One in UNIFORM_EVERY is uniform by chance, and not by counting: a sample must not depend on the others.
    """
    rng = named_rng(seed, source_file, degradation, copy, attempt)
    uniform = rng.integers(UNIFORM_EVERY) == 0
    asked = [PRIOR.sample(part, rng, uniform=uniform) for part in parts_of(degradation)]
    return asked, int(rng.integers(MAX_SEED + 1))


class PairMaker:
    """Degrades batches with the model of the settings, loaded here unless it is given.

    Args:
        callback: called after every step, see `GenDegPipeline.__call__`.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: GenDegPipeline | None = None,
        callback: Callable[..., Any] | None = None,
    ):
        self.settings, self.callback = settings, callback
        self.pipeline = pipeline or load_pipeline(settings.model)

    def __call__(self, batch: Batch, images: list[np.ndarray | str]) -> Made:
        """Generate, measure on the 8-bit images that will be stored, and draw anew what is not accepted."""
        made, waiting = Made(), []
        for photo, image in zip(batch.photos, images, strict=True):
            if isinstance(image, str):
                made.unreadable.append((photo.path, image))
            else:
                waiting.append((photo, image))
        for attempt in range(1, MAX_ATTEMPTS + 1):
            again = []
            for sample, pair, accepted in self._attempt(batch, waiting, attempt):
                if accepted:
                    made.pairs.append(pair)
                else:
                    again.append(sample)
            waiting = again
        made.discarded = [_sample(photo, batch) | {"attempts": MAX_ATTEMPTS} for photo, _ in waiting]
        return made

    def _attempt(
        self, batch: Batch, waiting: list[tuple[Photo, np.ndarray]], attempt: int
    ) -> Iterator[tuple[tuple[Photo, np.ndarray], tuple[dict[str, Any], np.ndarray, np.ndarray], bool]]:
        """((photo, image), (row, degraded, clean), whether each degradation is accepted) of one image each."""
        if not waiting:
            return
        names = parts_of(batch.degradation)
        drawn = [draw(self.settings.seed, photo.path, batch.degradation, batch.copy, attempt) for photo, _ in waiting]
        # None where the data set has no phrase of its own. A mixture's parts come one by one: each has the plain one.
        phrases = dict(DEGRADATIONS[names[0]].mixed_phrases) if len(names) == 1 else {}
        output = degrade_mixture(
            self.pipeline,
            [image for _, image in waiting],
            names,
            mu=[[asked[part].mu for asked, _ in drawn] for part in range(len(names))],
            sigma=[[asked[part].sigma for asked, _ in drawn] for part in range(len(names))],
            prompt=[photo.caption for photo, _ in waiting],
            phrase=[phrases.get(asked[0].dataset) for asked, _ in drawn],
            resolution=self.settings.resolution,
            num_inference_steps=self.settings.steps,
            generator=[torch.Generator().manual_seed(seed) for _, seed in drawn],
            output_size="working",
            output_type="pt",
            callback_on_step_end=self.callback,
        )
        clean, *steps = (_bytes(images) for images in (output.clean, *(part.images for part in output.parts)))
        reached = [_measured(*pair) for pair in zip([clean, *steps], steps, strict=False)]  # of each part
        whole = _measured(clean, steps[-1])
        for i, ((photo, image), (asked, seed)) in enumerate(zip(waiting, drawn, strict=True)):
            parts = [
                {
                    "degradation": name,
                    "prompt": part.prompts[i],
                    "mu_asked": round(intensity_asked.mu, 6),
                    "sigma_asked": round(intensity_asked.sigma, 6),
                    **values[i],
                    "source_dataset": intensity_asked.dataset,
                    "uniform_intensity": intensity_asked.uniform,
                    "structure_correction": part.structure_correction,
                }
                for name, part, intensity_asked, values in zip(names, output.parts, asked, reached, strict=True)
            ]
            file = image_name(photo.path)
            row = {
                "file_name": f"degraded/{batch.degradation}/{file}-{batch.copy}.png",
                "clean_file_name": f"clean/{file}.png",
                **_sample(photo, batch),
                **parts[0],
                "model": self.settings.model,
                "seed": seed,
                "attempts": attempt,
            }
            if any("+" in name for name in self.settings.degradations):  # then all rows, for one set of columns
                row["parts"] = parts
            if len(parts) > 1:  # what only a part has is of none of them
                row |= dict.fromkeys(("mu_asked", "sigma_asked", "source_dataset", "uniform_intensity"))
                row |= whole[i] | {
                    "degradation": batch.degradation,
                    "prompt": self.pipeline.prompt(photo.caption, phrase(names)),
                    "structure_correction": any(part["structure_correction"] for part in parts),
                }
            pair = row, *(side[i].permute(1, 2, 0).numpy() for side in (steps[-1], clean))
            yield (photo, image), pair, all(_is_accepted(part) for part in parts)


def _bytes(images: torch.Tensor) -> torch.Tensor:
    """As they are stored: floats [B, 3, H, W] in [0, 1] to uint8."""
    return (images * 255).round().to(torch.uint8).cpu()


def _measured(clean: torch.Tensor, degraded: torch.Tensor) -> list[dict[str, float]]:
    """What of its intensity goes into the row of each pair of two batches, uint8 [B, 3, H, W]."""
    values = zip(*(of_all.tolist() for of_all in intensity(clean / 255, degraded / 255)), strict=True)
    return [{"mu_reached": round(mu, 6), "sigma_reached": round(sigma, 6)} for mu, sigma in values]


def _is_accepted(part: dict[str, Any]) -> bool:
    low, high = DEGRADATIONS[part["degradation"]].accepted_mu
    return low <= part["mu_reached"] <= high


def _sample(photo: Photo, batch: Batch) -> dict[str, Any]:
    return {"source_file": photo.path, "degradation": batch.degradation, "copy": batch.copy}


def write(output: Path, made: Made) -> Made:
    """Store the images of a batch; what comes back holds the rows alone."""
    for row, degraded, clean in made.pairs:
        write_pair(output, row, degraded, clean)
    return replace(made, pairs=[(row, None, None) for row, _, _ in made.pairs])
