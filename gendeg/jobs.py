"""How does the app run a model? One is loaded, one job at a time runs, in a thread that previews and can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gendeg.call import own_value
from gendeg.captions import Captioner
from gendeg.checkpoints import available_models, load_pipeline, read_settings
from gendeg.degradations import DEGRADATIONS
from gendeg.image_forms import convert
from gendeg.pipeline import GenDegPipeline
from gendeg.request import Request, Result, degrade
from gendeg.robustness import POINTS, Picture, pictures, rising_mus
from runtime.errors import UserError
from runtime.images import open_image
from runtime.jobs import Report, run_job
from runtime.memory import is_out_of_memory, release_memory
from runtime.zero_gpu import MOST_SECONDS, on_gpu, seconds_for

SWEEP_COLUMNS = 5
_TFLOP = {False: 0.04, True: 0.81}  # of one evaluation, 512 x 512; True: the paper's network
_EVALUATIONS = 3  # of a guided step
_PREVIEWS = 6  # at most, of one image: decoding takes time too


@dataclass(frozen=True)
class Step:
    """A sign of life.

    Attributes:
        done, total: steps of a single degradation, or of a sweep.
        preview: the degraded image as expected from here, at some of the steps.
        part, parts: which degradation of a mixture is at work, from 0, and how many there are.
    """

    done: int
    total: int
    preview: Image.Image | None = None
    part: int = 0
    parts: int = 1


Work = Callable[[GenDegPipeline, Any, Report], Any]  # the second is what is asked


class Models:
    """The generators of `available_models()`. One is in memory, from when it is first needed until another is.

    Jobs that still run when the next one is asked for are waited for. On a Space with ZeroGPU a job runs in a process
    of its own (`on_gpu`), thread and all: what it is asked and what it reports can be pickled.
    """

    def __init__(self) -> None:
        self._running = threading.Lock()  # a pipeline's scheduler has a state: two jobs would disturb each other
        self._source: str | Path | None = None
        self._pipeline: GenDegPipeline | None = None
        self._job = on_gpu(self._run, _seconds)

    def generate(self, request: Request, model: str | None = None) -> Iterator[Step | Result | None]:
        """Degrade one photograph: steps, with None between them at least every third of a second, and the result.

        Closing the iterator stops the work at its next step (with ZeroGPU: waits for its end).

        Args:
            model: one of `available_models()`; None: the first.

        Raises:
            UserError: for a request that the model cannot answer, or a model that cannot be loaded.
        """
        return self._job(_generate, request, model)

    def sweep(self, request: Request, model: str | None = None) -> Iterator[Step | list[list[Result]] | None]:
        """Two rows of results: mu rising at the asked sigma, sigma rising at the asked mu. All with one seed.

        Of a mixture, the first degradation alone. Otherwise like `generate`.
        """
        return self._job(_sweep, request, model)

    def run(self, work: Work, request: Any, model: str | None = None) -> Iterator[Any]:
        """What `work(pipeline, request, report)` reports, and what it returns. Otherwise like `generate`."""
        return self._job(work, request, model)

    def rise(self, request: Request) -> Iterator[Step | list[Picture] | None]:
        """The photograph at `rising_mus`, of the working size, all with one seed. Otherwise like `generate`."""
        return self._job(_rise, request, None)

    def prepare(self, model: str | None = None, unless_loaded: bool = False) -> None:
        """Load a model now, so that its first job need not wait; with ZeroGPU only before the app is served.

        Args:
            unless_loaded: if any is in memory by then, leave it there.

        Raises:
            UserError: if it cannot be loaded.
        """
        with self._running:
            if self._pipeline is None or not unless_loaded:
                self._load(model)

    def loaded(self, model: str | None = None) -> bool:
        """Whether a model is in memory; None: any.

        Raises:
            UserError: for a name that is not among `available_models()`.
        """
        return self._pipeline is not None and (model is None or self._source == model_source(model))

    def _run(self, work: Work, request: Any, model: str | None) -> Iterator[Any]:
        yield from run_job(self._running, lambda report: work(self._load(model), request, report))

    def _load(self, model: str | None) -> GenDegPipeline:
        """The pipeline of that name, after the one before has been freed; a failure is tried again at the next call."""
        source = model_source(model)
        if self._pipeline is None or self._source != source:
            self._pipeline = None
            release_memory()
            try:
                self._source, self._pipeline = source, load_pipeline(source)
            except UserError:
                raise
            except Exception as error:  # whatever the libraries raise on a broken folder
                logging.warning("The model %s could not be loaded.", source, exc_info=True)
                name = model or Path(source).name
                raise UserError(f"The model {name!r} could not be loaded; the log says why.") from error
        return self._pipeline


def model_source(model: str | None) -> str | Path:
    """What `load_pipeline` takes for a name of `available_models()`; None: the first.

    Only these, never paths: whoever uses a served app must not make it open other files.

    Raises:
        UserError: for another name; the message lists those there are.
    """
    models = available_models()
    name = next(iter(models)) if model is None else model
    if not isinstance(name, str) or name not in models:
        raise UserError(f"There is no model {name!r}. Choose one of: {', '.join(models)}.")
    return models[name]


def describe(captioner: Captioner, photo: str | None) -> str:
    """A caption for an image file.

    Raises:
        UserError: if it cannot be read, or the captioning model is not available or too large.
    """
    if not photo:
        raise UserError("There is no photograph yet. Upload one or choose an example.")
    image, caption = open_image(photo), None
    try:
        caption = captioner.caption([image])[0]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if caption is None:  # said here, where the error does not hold the memory any more
        release_memory()
        raise UserError("There is not enough memory for the captioning model. Describe the photograph in words.")
    return caption


def _seconds(work: Work, request: Any, model: str | None) -> int:
    """How long a job may take with ZeroGPU."""
    if not isinstance(request, Request):
        return MOST_SECONDS  # other work than a picture or a sweep ends when it must
    images = {_sweep: 2 * SWEEP_COLUMNS, _rise: POINTS - 1}.get(work, 1)
    try:
        settings = read_settings(model_source(model))
    except UserError:
        return seconds_for(0, 0, 0)  # the job itself says what is wrong with the model
    parts = [request.degradation] if work is _sweep else [part.degradation for part in request.parts]
    steps = sum(request.steps or own_value(settings.num_inference_steps, name) for name in parts)
    calls, (short, long) = steps * images * _EVALUATIONS, sorted(request.photo.size)
    squares = ((request.resolution or settings.resolution) / 512) ** 2 * long / short
    return seconds_for(calls * squares * _TFLOP[bool(settings.presets)], calls, len(parts) * short * long / 1e6)


def _generate(pipeline: GenDegPipeline, request: Request, report: Report) -> Result:
    size = pipeline.working_size(request.photo.height, request.photo.width, request.resolution)
    part = -1

    def callback(pipeline: GenDegPipeline, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal part
        part += index == 0
        total, every = len(pipeline.scheduler.timesteps), max(2, len(pipeline.scheduler.timesteps) // _PREVIEWS)
        preview = None
        if (index + 1) % every == 0 and index + 1 < total:
            decoded = pipeline.decode(tensors["predicted"])[0, :, : size[0], : size[1]]
            (preview,) = convert([decoded], "pil")
        report(Step(index + 1, total, preview, part, len(request.parts)))

    return degrade(pipeline, [request], callback)[0]


def _sweep(pipeline: GenDegPipeline, request: Request, report: Report) -> list[list[Result]]:
    kind, request = DEGRADATIONS[request.degradation], replace(request, output_size="working", also=())
    rows = [
        [replace(request, mu=round(mu, 3)) for mu in np.linspace(*kind.mu_range, SWEEP_COLUMNS).tolist()],
        [replace(request, sigma=round(sigma, 3)) for sigma in np.linspace(*kind.sigma_range, SWEEP_COLUMNS).tolist()],
    ]
    callback = _counter(report, len(rows))
    return [degrade(pipeline, row, callback) for row in rows]


def _rise(pipeline: GenDegPipeline, request: Request, report: Report) -> list[Picture]:
    mus = rising_mus(request.degradation)
    callback = _counter(report, len(mus) - 1)
    return list(pictures(pipeline, replace(request, output_size="working"), mus, callback))


def _counter(report: Report, calls: int) -> Callable[..., None]:
    """A callback that reports how many steps of so many calls of the pipeline are done."""
    done = count(1)
    return lambda pipeline, *_: report(Step(next(done), calls * len(pipeline.scheduler.timesteps)))
