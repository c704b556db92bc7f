"""How does the app run the model? Loaded once, one job at a time, in a thread that previews and can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from PIL import Image

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.pipeline import GenDegPipeline
from gendeg.request import Request, Result, degrade, to_image

SWEEP_COLUMNS = 5
_PREVIEWS = 6  # at most, of one image: decoding takes time too
_HEARTBEAT = 0.3  # seconds; a job can be abandoned this often, however long a step takes


@dataclass(frozen=True)
class Step:
    """A sign of life. preview: the degraded image as expected from here, at some of the steps."""

    done: int
    total: int
    preview: Image.Image | None = None


class Model:
    """A generator that is loaded when it is first needed, so that the app is up at once.

    Args:
        name: what `load_pipeline` takes.
    """

    def __init__(self, name: str):
        self.name = name
        self.running = threading.Lock()  # a pipeline's scheduler has a state: two jobs would disturb each other
        self._loading = threading.Lock()
        self._pipeline: GenDegPipeline | None = None

    def pipeline(self) -> GenDegPipeline:
        """The loaded pipeline; a failure is tried again at the next call.

        Raises:
            ValueError: if it cannot be loaded.
        """
        with self._loading:
            if self._pipeline is None:
                try:
                    self._pipeline = load_pipeline(self.name)
                except Exception as error:  # whatever the libraries raise on a broken folder
                    logging.warning("The model %r could not be loaded: %s", self.name, error)
                    raise ValueError(f"The model {self.name!r} could not be loaded. {error}") from error
            return self._pipeline


def generate(model: Model, request: Request) -> Iterator[Step | Result | None]:
    """Degrade one photograph: steps, with None between them at least every third of a second, and the result.

    Closing the iterator stops the work at its next step.

    Raises:
        ValueError: for a request that the model cannot answer, or a model that cannot be loaded.
    """

    def work(report: Callable[[Step], None]) -> Result:
        pipeline = model.pipeline()
        size = pipeline.working_size(request.photo.height, request.photo.width, request.resolution)

        def callback(pipeline: GenDegPipeline, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> None:
            total, every = len(pipeline.scheduler.timesteps), max(2, len(pipeline.scheduler.timesteps) // _PREVIEWS)
            preview = None
            if (index + 1) % every == 0 and index + 1 < total:
                decoded = pipeline.decode(tensors["predicted"])[0, :, : size[0], : size[1]]
                preview = to_image(decoded.permute(1, 2, 0).cpu().numpy())
            report(Step(index + 1, total, preview))

        return degrade(pipeline, [request], callback)[0]

    return _in_background(model, work)


def sweep(model: Model, request: Request) -> Iterator[Step | list[list[Result]] | None]:
    """Two rows of results: mu rising at the asked sigma, sigma rising at the asked mu. All with one seed.

    Closing the iterator stops the work at its next step.
    """
    kind = DEGRADATIONS[request.degradation]
    rows = [
        [replace(request, mu=round(mu, 3)) for mu in np.linspace(*kind.mu_range, SWEEP_COLUMNS).tolist()],
        [replace(request, sigma=round(sigma, 3)) for sigma in np.linspace(*kind.sigma_range, SWEEP_COLUMNS).tolist()],
    ]

    def work(report: Callable[[Step], None]) -> list[list[Result]]:
        pipeline, done = model.pipeline(), 0

        def callback(pipeline: GenDegPipeline, *_: Any) -> None:
            nonlocal done
            done += 1
            report(Step(done, len(rows) * len(pipeline.scheduler.timesteps)))

        return [degrade(pipeline, row, callback) for row in rows]

    return _in_background(model, work)


class _Abandoned(Exception):
    """Ends a job that nobody waits for any more."""


def _in_background(model: Model, work: Callable[[Callable[[Step], None]], Any]) -> Iterator[Any]:
    """Run `work(report)` in a thread while no other job runs; yield what it reports, then what it returns."""
    messages: SimpleQueue[Any] = SimpleQueue()
    abandoned = threading.Event()

    def report(step: Step | None) -> None:
        if abandoned.is_set():
            raise _Abandoned
        messages.put(step)

    def run() -> None:
        with model.running:
            try:
                report(None)
                messages.put(work(report))
            except _Abandoned:
                pass
            except ValueError as error:
                messages.put(error)
            except Exception as error:  # out of memory, most likely
                logging.exception("A job failed.")
                sentence = f"The model failed ({type(error).__name__}). A lower resolution needs less memory."
                messages.put(ValueError(sentence))

    threading.Thread(target=run, daemon=True).start()
    try:
        message = None
        while isinstance(message, Step | None):
            try:
                message = messages.get(timeout=_HEARTBEAT)
            except Empty:
                message = None
            if isinstance(message, ValueError):
                raise message
            yield message
    finally:
        abandoned.set()
