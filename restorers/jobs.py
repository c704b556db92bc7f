"""How does the app restore? Restorers are loaded once and run one after another, in a thread that can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image

from restorers.metrics import WINDOW, psnr, ssim
from restorers.registry import Restorer, available, load_restorer, version
from runtime.errors import UserError
from runtime.images import open_image
from runtime.memory import is_out_of_memory
from runtime.zero_gpu import on_gpu

_HEARTBEAT = 0.3  # seconds; a job can be abandoned this often, however long a tile takes


@dataclass(frozen=True)
class Request:
    """A photograph to restore.

    Attributes:
        photo: RGB, degraded.
        names: of restorers, in the order they run.
        clean: RGB of the same size, the truth to measure against; None if it is not known.
    """

    photo: Image.Image
    names: tuple[str, ...]
    clean: Image.Image | None = None


@dataclass(frozen=True)
class Tiles:
    """A sign of life: how many tiles of the photograph a restorer has done."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Quality:
    """PSNR in dB, infinite for equal images; SSIM, None for images too small for it."""

    psnr: float
    ssim: float | None


@dataclass(frozen=True)
class Result:
    """What a restorer made of the photograph.

    Attributes:
        name: of the restorer.
        image: RGB, of the photograph's size.
        seconds: the time it took, without loading the restorer.
        quality: against the clean image; None if that is not known.
    """

    name: str
    image: Image.Image
    seconds: float
    quality: Quality | None


@dataclass(frozen=True)
class Failure:
    """A restorer that could not be loaded or run; `sentence` says why. The others go on."""

    name: str
    sentence: str


class Restorers:
    """The restorers of `available()`, each loaded when it is first needed, so that the app is up at once."""

    def __init__(self) -> None:
        self.running = threading.Lock()  # two jobs at a time would only slow each other down
        self._loaded: dict[str, tuple[object, Restorer]] = {}
        self.job = on_gpu(self._run)

    def get(self, name: str) -> Restorer:
        """A loaded restorer, loaded anew when its file has changed; a failure is tried again at the next call.

        Raises:
            UserError: if it cannot be loaded.
        """
        found = version(name)
        if name not in self._loaded or self._loaded[name][0] != found:
            self._loaded[name] = found, load_restorer(name)
        return self._loaded[name][1]

    def _run(self, request: Request) -> Iterator[Tiles | Result | Failure | None]:
        yield from _in_background(self.running, lambda report: _restore(self, request, report))


def read_request(photo: str | None, names: Sequence[str] | str | None, clean: str | None = None) -> Request:
    """A request from what people and programs choose.

    Args:
        photo, clean: paths of image files.
        names: only of `available()`, never paths: whoever uses a served app must not make it open other files.

    Raises:
        UserError: for anything that cannot be done; the message is a sentence to act on.
    """
    known = available()
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names or ()))
    if not known:
        raise UserError("There are no restorers yet. Put weights (.safetensors, .pth) into the folder models/.")
    if not photo:
        raise UserError("There is no photograph yet. Upload one, choose an example, or send one from Degrade.")
    if not names:
        raise UserError("Choose at least one restorer.")
    for name in names:
        if name not in known:
            raise UserError(f"There is no restorer {name!r}; there are {', '.join(known)}.")
    request = Request(open_image(photo), tuple(names), open_image(clean) if clean else None)
    if request.clean and request.clean.size != request.photo.size:
        sizes = ["{} × {}".format(*image.size) for image in (request.clean, request.photo)]
        raise UserError(
            f"The clean image has {sizes[0]} pixels, the photograph {sizes[1]}. Choose a clean image of the same size, "
            f"or none."
        )
    return request


def restore_photo(restorers: Restorers, request: Request) -> Iterator[Tiles | Result | Failure | None]:
    """Restore a photograph with each restorer asked for: tiles, None at least every third of a second, and results.

    Closing the iterator stops the work after the tile that is being computed (on a Space with ZeroGPU, where the job
    has a process of its own: waits for its end).
    """
    return restorers.job(request)


def _restore(restorers: Restorers, request: Request, report: Callable[[Any], None]) -> None:
    for name in request.names:
        report(None)
        try:
            restorer = restorers.get(name)
            started = perf_counter()
            image = restorer(request.photo, progress=lambda *tiles, name=name: report(Tiles(name, *tiles)))
            seconds = perf_counter() - started
            report(Result(name, image, seconds, request.clean and measure(image, request.clean)))
        except _Abandoned:
            raise
        except UserError as error:
            report(Failure(name, str(error)))
        except Exception as error:
            logging.exception("The restorer %s failed.", name)
            report(Failure(name, _failure(error)))


def _failure(error: Exception) -> str:
    if is_out_of_memory(error):
        return "There is too little memory for it. A smaller photograph needs less."
    return f"It failed ({type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')})."


def measure(image: Image.Image, clean: Image.Image) -> Quality:
    """PSNR and SSIM of an image against the clean one of the same size."""
    tensors = [torch.from_numpy(np.array(i)).permute(2, 0, 1)[None].float() / 255 for i in (image, clean)]
    return Quality(psnr(*tensors).item(), ssim(*tensors).item() if min(clean.size) >= WINDOW else None)


class _Abandoned(Exception):
    """Ends a job that nobody waits for any more."""


def _in_background(lock: threading.Lock, work: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """Run `work(report)` in a thread while it holds the lock; yield what it reports, None whenever that takes long."""
    messages: SimpleQueue[Any] = SimpleQueue()
    abandoned = threading.Event()
    end = object()

    def report(message: Any) -> None:
        if abandoned.is_set():
            raise _Abandoned
        messages.put(message)

    def run() -> None:
        try:
            with lock:
                work(report)
        except _Abandoned:
            pass
        finally:
            messages.put(end)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            try:
                message = messages.get(timeout=_HEARTBEAT)
            except Empty:
                message = None
            if message is end:
                return
            yield message
    finally:
        abandoned.set()
