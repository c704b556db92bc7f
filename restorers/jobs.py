"""How does the app restore? Restorers are loaded once and run one after another, in a thread that can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

from PIL import Image

from restorers.metrics import Quality, named_quality, quality
from restorers.registry import Restorer, available, load_restorer, version
from runtime.errors import UserError, sentence
from runtime.images import open_image
from runtime.jobs import Abandoned, Report, run_job
from runtime.memory import is_out_of_memory, release_memory
from runtime.zero_gpu import on_gpu, seconds_for

_TFLOP = {True: 0.1, False: 5}  # a megapixel; True: a bundled restorer


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
class Pairs:
    """Pairs (degraded, clean) of RGB images of one size, on which to measure restorers; `names` as above."""

    pairs: tuple[tuple[Image.Image, Image.Image], ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Tiles:
    """A sign of life: how many tiles of the photograph a restorer has done."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Input:
    """The first that a job reports: how close the degraded photograph is to the clean image; None if there is none."""

    quality: Quality | None


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
    """The restorers of `available()`, each loaded when it is first needed; those of the last job stay in memory."""

    def __init__(self) -> None:
        self.running = threading.Lock()  # two jobs at a time would only slow each other down
        self._loaded: dict[str, tuple[object, Restorer]] = {}
        self.job = on_gpu(self._run, _seconds)

    def get(self, name: str) -> Restorer:
        """A loaded restorer, loaded anew when its file has changed; a failure is tried again at the next call.

        Raises:
            UserError: if it cannot be loaded.
        """
        found = version(name)
        if name not in self._loaded or self._loaded[name][0] != found:
            self._loaded[name] = found, load_restorer(name)
        return self._loaded[name][1]

    def keep(self, names: Sequence[str]) -> None:
        """Free the others."""
        self._loaded = {name: loaded for name, loaded in self._loaded.items() if name in names}
        release_memory()

    def _run(self, work: Callable[[Restorers, Any, Report], Any], request: Request | Pairs) -> Iterator[Any]:
        yield from run_job(self.running, lambda report: work(self, request, report))


def read_request(photo: str | None, names: Sequence[str] | str | None, clean: str | None = None) -> Request:
    """A request from what people and programs choose.

    Args:
        photo, clean: paths of image files.
        names: only of `available()`, never paths: whoever uses a served app must not make it open other files.

    Raises:
        UserError: for anything that cannot be done; the message is a sentence to act on.
    """
    if not photo and available():  # else that there are none is said first
        raise UserError("There is no photograph yet. Upload one, choose an example, or send one from Degrade.")
    names = read_names(names)
    request = Request(open_image(photo), names, open_image(clean) if clean else None)
    if request.clean and request.clean.size != request.photo.size:
        sizes = ["{} × {}".format(*image.size) for image in (request.clean, request.photo)]
        raise UserError(
            f"The clean image has {sizes[0]} pixels, the photograph {sizes[1]}. Choose a clean image of the same size, "
            f"or none."
        )
    return request


def read_names(names: Any) -> tuple[str, ...]:
    """Names of restorers, each once, from what people and programs choose; see `read_request`.

    Raises:
        UserError: if there are none, or one is not among `available()`.
    """
    known = available()
    names = [names] if isinstance(names, str) else names or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError("Name restorers as a list of words.")
    if not known:
        raise UserError("There are no restorers yet. Put weights (.safetensors, .pth) into the folder models/.")
    if not names:
        raise UserError("Choose at least one restorer.")
    for name in names:
        if name not in known:
            raise UserError(f"There is no restorer {name!r}; there are {', '.join(known)}.")
    return tuple(dict.fromkeys(names))


def restore_photo(restorers: Restorers, request: Request) -> Iterator[Input | Tiles | Result | Failure | None]:
    """Restore a photograph with each restorer asked for: tiles, None at least every third of a second, and results.

    Closing the iterator stops the work after the tile that is being computed (on a Space with ZeroGPU, where the job
    has a process of its own: waits for its end).
    """
    return restorers.job(_restore, request)


def measuring(restorers: Restorers, names: Any) -> Callable[[Sequence[tuple[Image.Image, Image.Image]]], Iterator[Any]]:
    """What measures these restorers on pairs (degraded, clean) of RGB images of one size each.

    Called with the pairs it yields (share that is done, words on what is at work); None at least every third of a
    second; a UserError of each restorer that fails, without which the others go on; and at last a list with a
    dictionary for each pair, see `named_quality`: of the degraded image, and of what each restorer makes of it.

    Args:
        names: of `available()`; None: all.

    Raises:
        UserError: see `read_names`.
    """
    checked = read_names(list(available()) if names is None else names)
    return lambda pairs: restorers.job(_measure, Pairs(tuple(pairs), checked))


def _seconds(work: Any, request: Request | Pairs) -> int:
    """How long a job may take with ZeroGPU."""
    photos = [request.photo] if isinstance(request, Request) else [degraded for degraded, _ in request.pairs]
    megapixels = sum(photo.width * photo.height for photo in photos) / 1e6
    bundled = available()  # of the networks of others nothing is known
    operations = sum(_TFLOP[bool(bundled.get(name))] * megapixels for name in request.names)
    calls = len(request.names) * (len(photos) + ceil(megapixels))  # of tiles
    return seconds_for(operations, calls, megapixels * len(request.names))


def _restore(restorers: Restorers, request: Request, report: Report) -> None:
    restorers.keep(request.names)
    report(Input(request.clean and quality(request.photo, request.clean)))
    for name in request.names:
        report(None)
        try:
            restorer = restorers.get(name)
            started = perf_counter()
            image = restorer(request.photo, progress=lambda *tiles, name=name: report(Tiles(name, *tiles)))
            seconds = perf_counter() - started
            report(Result(name, image, seconds, request.clean and quality(image, request.clean)))
        except Abandoned:
            raise
        except Exception as error:
            report(Failure(name, _why(error)))


def _measure(restorers: Restorers, request: Pairs, report: Report) -> list[dict[str, float | None]]:
    restorers.keep(request.names)
    values = [named_quality("", *pair) for pair in request.pairs]
    for index, name in enumerate(request.names):
        try:
            for done, (degraded, clean) in enumerate(request.pairs):
                share = (index + done / len(values)) / len(request.names)
                report((share, f"{name} is at work, {done} of {len(values)} pictures done"))
                image = restorers.get(name)(degraded, progress=lambda *_: report(None))
                values[done] |= named_quality(name, image, clean)
        except Abandoned:
            raise
        except Exception as error:
            report(UserError(f"{name}: {_why(error)}"))
    return values


def _why(error: Exception) -> str:
    memory = "There is too little memory for it. A smaller photograph needs less."
    return memory if is_out_of_memory(error) else sentence(error)
