"""Degradations while a network of others learns: a data set that degrades a folder of photographs, and a transform.

Everything random follows from the seed, however many workers there are: a data set's from the epoch and the index, a
transform's from the number that torch gives each worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.photos import files_of, random_square
from gendeg.pipeline import MIN_SIDE, GenDegPipeline
from gendeg.prior import PRIOR, named_rng
from gendeg.request import MAX_SEED
from runtime.errors import UserError
from runtime.images import open_image


class DegradedPhotos(Dataset):
    """Random squares of the photographs in a folder, each degraded anew in every epoch.

    An item is a dictionary:
        clean, degraded: float tensors [3, size, size] in [0, 1], aligned.
        degradation: its name.
        mu, sigma: mean and standard deviation of |clean - degraded|.

    It depends on the seed, the epoch and its index alone: a run can be repeated with any number of workers, and no two
    workers make the same. Call `set_epoch` before each epoch, as for torch's DistributedSampler.

    Args:
        folders: one or several, searched recursively.
        size: of the squares, in pixels. They show about as much as a photograph of a short side of 256 pixels does, or
            all of that side if they are larger.
        degradations: to choose from, all alike; None: all six.
        pipeline: a generator (on a GPU for `num_workers=0` only), or what `load_pipeline` takes, which each worker then
            loads for itself, on its CPU.
        seed: see above.

    Raises:
        UserError: for a folder without photographs, a size below MIN_SIDE or an unknown degradation; when an item is
            asked for, if its file cannot be read.
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        size: int = 256,
        degradations: Sequence[str] | None = None,
        pipeline: GenDegPipeline | str | Path = "compact",
        seed: int = 0,
    ):
        if size < MIN_SIDE:
            raise UserError(f"The size must be at least {MIN_SIDE} pixels, not {size}.")
        self.files, self.size, self.seed = files_of(folders), size, seed
        self._degrade = _Degrader(pipeline, degradations)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that stay see it change

    def set_epoch(self, epoch: int) -> None:
        """Make other degradations than in the epochs before, in all workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self.files))[index]
        rng = named_rng(self.seed, int(self._epoch), index)
        square = random_square(open_image(self.files[index]), self.size, rng)
        pipeline = self._degrade.pipeline()
        working_size = min(pipeline.config.resolution, max(self.size, pipeline.size_multiple))
        return self._degrade(square, rng, resolution=working_size)


class RandomDegradation:
    """Degrades images at random, called as the transforms of augmentation libraries are: by name, with a dictionary.

    `transform(image=array, mask=mask, bboxes=boxes)` gives back the same with another image. What is not the image
    passes unchanged, as nothing moves in it.

    Each worker of a DataLoader draws from numbers of its own, in each epoch from others; a run can be repeated with as
    many workers after the same `torch.manual_seed`.

    Args:
        degradations, pipeline: as of `DegradedPhotos`.
        p: how probably an image is degraded.
        seed: of the random numbers.

    Raises:
        UserError: for a probability outside [0, 1] or an unknown degradation.
    """

    def __init__(
        self,
        degradations: Sequence[str] | None = None,
        p: float = 0.5,
        pipeline: GenDegPipeline | str | Path = "compact",
        seed: int = 0,
    ):
        if not 0 <= p <= 1:
            raise UserError(f"The probability p must be a number from 0 to 1, not {p}.")
        self.p, self.seed = p, seed
        self._degrade = _Degrader(pipeline, degradations)
        self._rng: np.random.Generator | None = None
        self._worker: int | None = None  # whose random numbers these are

    def __call__(self, *, image: np.ndarray, **others: Any) -> dict[str, Any]:
        """Degrade an image, or not.

        Args:
            image: uint8 array [H, W, 3], RGB.
            others: masks, boxes, labels.

        Returns:
            {"image": array like `image`, **others}.

        Raises:
            UserError: for an image that is no such array, or that the generator cannot work on.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError("The image must be a uint8 array [H, W, 3].")
        rng = self._random()
        if rng.random() < self.p:
            degraded = self._degrade(image, rng)["degraded"]
            image = (degraded * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        return {"image": image, **others}

    def _random(self) -> np.random.Generator:
        """This process's random numbers: a forked worker has those of its parent until it draws its own."""
        info = get_worker_info()
        worker = None if info is None else info.seed  # differs from worker to worker, and from epoch to epoch
        if self._rng is None or worker != self._worker:
            self._rng, self._worker = named_rng(self.seed, *([] if worker is None else [worker])), worker
        return self._rng


class _Degrader:
    """Draws a degradation and an intensity the way real data have them, and has the generator apply them."""

    def __init__(self, pipeline: GenDegPipeline | str | Path, degradations: Sequence[str] | None):
        asked = [degradations] if isinstance(degradations, str) else degradations
        self.degradations = list(
            DEGRADATIONS if asked is None else dict.fromkeys(get_degradation(d).name for d in asked)
        )
        if not self.degradations:
            raise UserError(f"Name at least one degradation: {', '.join(DEGRADATIONS)}.")
        self._pipeline = pipeline

    def pipeline(self) -> GenDegPipeline:
        """The generator, loaded when first needed; in a worker on the CPU, as CUDA does not live through a fork."""
        if not isinstance(self._pipeline, GenDegPipeline):
            self._pipeline = load_pipeline(self._pipeline, device="cpu" if get_worker_info() else None)
        return self._pipeline

    def __call__(self, image: np.ndarray, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        """The item of `DegradedPhotos` for an image [H, W, 3] of uint8.

        Args:
            resolution: see `GenDegPipeline.__call__`.
        """
        name = self.degradations[rng.integers(len(self.degradations))]
        asked = PRIOR.draw(name, rng)
        output = self.pipeline()(
            image,
            name,
            mu=asked.mu,
            sigma=asked.sigma,
            phrase=dict(DEGRADATIONS[name].mixed_phrases).get(asked.dataset),
            resolution=resolution,
            generator=torch.Generator().manual_seed(int(rng.integers(MAX_SEED + 1))),
            output_type="pt",
        )
        return {
            "clean": output.clean[0].float().cpu(),
            "degraded": output.images[0].float().cpu(),
            "degradation": name,
            "mu": output.delivered_mu[0],
            "sigma": output.delivered_sigma[0],
        }
