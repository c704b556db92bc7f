"""How does the app restore? Restorers are loaded once and run one after another, in a thread that can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from PIL import Image

from restorers.metrics import quality
from restorers.registry import Restorer, available, load_restorer, version
from runtime.errors import UserError, sentence
from runtime.images import open_image
from runtime.jobs import Abandoned, Report, run_job
from runtime.memory import is_out_of_memory, release_memory
from runtime.zero_gpu import on_gpu


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

    def _run(self, request: Request) -> Iterator[Input | Tiles | Result | Failure | None]:
        yield from run_job(self.running, lambda report: _restore(self, request, report))


def read_request(photo: str | None, names: Sequence[str] | str | None, clean: str | None = None) -> Request:
    """A request from what people and programs choose.

    Args:
        photo, clean: paths of image files.
        names: only of `available()`, never paths: whoever uses a served app must not make it open other files.

    Raises:
        UserError: for anything that cannot be done; the message is a sentence to act on.
    """
    known = available()
    names = [names] if isinstance(names, str) else names or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError("Name restorers as a list of words.")
    names = list(dict.fromkeys(names))
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


def restore_photo(restorers: Restorers, request: Request) -> Iterator[Input | Tiles | Result | Failure | None]:
    """Restore a photograph with each restorer asked for: tiles, None at least every third of a second, and results.

    Closing the iterator stops the work after the tile that is being computed (on a Space with ZeroGPU, where the job
    has a process of its own: waits for its end).
    """
    return restorers.job(request)


def _seconds(request: Request) -> int:
    """How long a job may take with ZeroGPU."""
    return min(15 + len(request.names) * (2 + request.photo.width * request.photo.height // 2_000_000), 120)


def _restore(restorers: Restorers, request: Request, report: Report) -> None:
    restorers.keep(request.names)
    report(Input(request.clean and measure(request.photo, request.clean)))
    for name in request.names:
        report(None)
        try:
            restorer = restorers.get(name)
            started = perf_counter()
            image = restorer(request.photo, progress=lambda *tiles, name=name: report(Tiles(name, *tiles)))
            seconds = perf_counter() - started
            report(Result(name, image, seconds, request.clean and measure(image, request.clean)))
        except Abandoned:
            raise
        except Exception as error:
            memory = "There is too little memory for it. A smaller photograph needs less."
            report(Failure(name, memory if is_out_of_memory(error) else sentence(error)))


def measure(image: Image.Image, clean: Image.Image) -> Quality:
    """PSNR and SSIM of an image against the clean one of the same size."""
    return Quality(*quality(image, clean))
