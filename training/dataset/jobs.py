"""How does the app make a data set? Of files that were sent, as `training.create_dataset` would; what is done is kept.

The pairs lie in a folder of the job alone, where a store records every batch. So whatever ends the work early (somebody
cancels, its time is over, an error), what is there by then is a whole data set.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gendeg.checkpoints import available_models
from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.jobs import Models, model_source
from gendeg.memory import set_tiling
from gendeg.pipeline import GenDegPipeline
from gendeg.request import MAX_SEED, whole
from runtime.errors import UserError, sentence
from runtime.jobs import CANCELLED, Report, run_job, until
from runtime.limits import limit
from runtime.memory import is_out_of_memory, release_memory
from runtime.zero_gpu import MOST_SECONDS, zero_gpu
from training.dataset.card import SHEET
from training.dataset.engines import make_locally
from training.dataset.pack import LAYOUTS, ROOT, pack
from training.dataset.plan import NoPhotographs, find_photos, plan
from training.dataset.samples import Settings
from training.dataset.store import PairStore
from training.dataset.unpack import gather, nothing_left

_BATCH = 4  # photographs that are degraded in one go
_TO_LOAD = 30  # of the seconds that a GPU is lent for; a model may have to be loaded first
Skipped = tuple[tuple[str, str], ...]  # (file, why it was left out)


@dataclass(frozen=True)
class Request:
    """A data set to make.

    Attributes:
        folder: of this job alone; the photographs lie in it, and the pairs will.
        settings: what decides the samples.
        layout, maps: see `training.dataset.pack.pack`.
        skipped: files that are no photographs.
    """

    folder: Path
    settings: Settings
    layout: str
    maps: bool
    skipped: Skipped

    @property
    def output(self) -> Path:
        return self.folder / "pairs"


@dataclass(frozen=True)
class Progress:
    """A sign of life.

    Attributes:
        done, total: samples.
        degradation: what is being made; None at the end.
        skipped: photographs that turned out not to be readable.
    """

    done: int
    total: int
    degradation: str | None
    skipped: Skipped


@dataclass(frozen=True)
class DataSet:
    """What was made.

    Attributes:
        file: the ZIP.
        sheet: an image of some of the pairs.
        pairs: how many of each degradation.
        seed: that they can be made with again.
        asked: number of pairs that were asked for, of damaged photographs too.
        given_up: samples without an accepted intensity.
        photographs: of how many there are pairs.
        skipped: files that were left out.
        ended: why it holds less than was asked for, a sentence; empty if it does not.
    """

    file: Path
    sheet: Path
    pairs: dict[str, int]
    seed: int
    asked: int
    given_up: int
    photographs: int
    skipped: Skipped
    ended: str


def read_request(
    folder: Path,
    files: Sequence[Path],
    degradations: Any = None,
    per_image: Any = 1,
    layout: Any = LAYOUTS[0],
    maps: Any = False,
    seed: Any = 0,
    model: str | None = None,
    report: Report = lambda _: None,
) -> Request:
    """A request from what people and programs choose; the photographs are unpacked.

    Args:
        folder: new and empty; removed if there is anything wrong with the request.
        files: image files and ZIPs of them.
        degradations: a list of names; None: all six.
        per_image: pairs of each degradation that a photograph gets.
        model: one of `available_models()`; None: the first.
        report: see `gather`.

    Raises:
        UserError: for anything that cannot be done; the message is a sentence to act on.
    """
    try:
        names = list(DEGRADATIONS) if degradations is None else degradations
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise UserError("Name degradations as a list of words.")
        asked = {get_degradation(name).name for name in names}
        if not asked:
            raise UserError("Choose at least one degradation.")
        most = limit("GENDEG_MAX_PAIRS")
        per_image = whole("The number of pairs of each kind", per_image, 1, most)
        if layout not in LAYOUTS:
            raise UserError(f"The layout must be one of: {', '.join(LAYOUTS)}.")
        seed = whole("The seed", seed, 0, MAX_SEED)
        model_source(model)
        photos = folder / "photos"
        photos.mkdir()
        skipped = gather(files, photos, report)
        count = sum(path.is_file() for path in photos.rglob("*"))
        if (pairs := count * len(asked) * per_image) > most:
            raise UserError(
                f"That would be {pairs} pairs ({count} photographs, {len(asked)} degradations, {per_image} of each); "
                f"the limit here is {most}. Ask for fewer."
            )
        settings = Settings(
            clean=str(photos),
            model=next(iter(available_models())) if model is None else model,
            degradations=[name for name in DEGRADATIONS if name in asked],
            per_image=per_image,
            resolution=None,
            steps=None,
            captions="none",
            seed=seed,
            format="imagefolder",
        )
        report(None)
        return Request(folder, settings, layout, bool(maps), tuple(skipped))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def make_of_files(
    models: Models,
    folders: tuple[Path, Path],
    files: Sequence[Path],
    choices: Sequence[Any],
    cancelled: threading.Event | None = None,
) -> Iterator[Progress | DataSet | None]:
    """Unpack what was sent, and make the pairs; see `read_request` and `make_data_set`.

    Args:
        folders: of the request, and for the ZIP.
        choices: degradations and what follows them.
    """
    request = None
    reading = run_job(threading.Lock(), lambda report: read_request(folders[0], files, *choices, report=report))
    try:
        with closing(until(cancelled, reading)) as events:
            for event in events:
                request = event if isinstance(event, Request) else None
                yield None
        if request:
            with closing(make_data_set(models, request, folders[1], cancelled)) as events:
                yield from events
    finally:
        shutil.rmtree(folders[0], ignore_errors=True)


def make_data_set(
    models: Models, request: Request, target: Path, cancelled: threading.Event | None = None
) -> Iterator[Progress | DataSet | None]:
    """Make the pairs: progress, None at least every third of a second while they are made, and what was made.

    The folder of the request is gone when this ends. Closing the iterator stops the work at the generator's next step,
    and drops what there is.

    Args:
        target: a folder for the ZIP.
        cancelled: once it is set, the data set ends with what there is; before the first pair, nothing is yielded.

    Raises:
        UserError: if no pair could be made; the message says why.
        Exception: whatever else has kept the first pair from being made.
    """
    last, failed, ended = Progress(0, 0, None, ()), None, ""
    try:
        try:
            with closing(until(cancelled, models.run(_make, request, request.settings.model))) as events:
                for event in events:
                    if event is CANCELLED:
                        ended = CANCELLED
                    else:
                        last = event if isinstance(event, Progress) else last
                        yield event if isinstance(event, Progress) else None
        except Exception as error:
            failed = error
        store = PairStore(request.output, asdict(request.settings))
        if not store.pairs and failed:
            raise failed
        if not store.pairs and ended:
            return
        skipped = (*request.skipped, *last.skipped)
        if not store.pairs:
            if not store.discarded:
                raise nothing_left(skipped)
            raise UserError(f"None of the {len(store.discarded)} samples reached an intensity that is accepted.")
        yield None
        pack(store, target / f"{ROOT}.zip", request.layout, request.maps, _command(request.settings))
        sheet = Path(shutil.copy(request.output / SHEET, target))
        yield _made(request, store, target / f"{ROOT}.zip", sheet, last, skipped, sentence(failed) if failed else ended)
    finally:
        shutil.rmtree(request.folder, ignore_errors=True)


def _made(
    request: Request, store: PairStore, file: Path, sheet: Path, last: Progress, skipped: Skipped, ended: str
) -> DataSet:
    degradations = [degradation for _, degradation, _ in store.pairs]
    return DataSet(
        file=file,
        sheet=sheet,
        pairs={name: degradations.count(name) for name in request.settings.degradations},
        seed=request.settings.seed,
        asked=last.total,
        given_up=len(store.discarded),
        photographs=len({photo for photo, _, _ in store.pairs}),
        skipped=skipped,
        ended=ended,
    )


def _make(pipeline: GenDegPipeline, request: Request, report: Report) -> bool:
    """The job: fills the store of the request's folder."""
    settings, clean = request.settings, Path(request.settings.clean)
    end = time.monotonic() + (MOST_SECONDS - _TO_LOAD if zero_gpu() else math.inf)

    def step_done(*_: Any) -> None:
        report(None)
        if time.monotonic() > end:
            raise UserError("A GPU is lent for two minutes here, which are over. Ask for fewer pairs.")

    try:
        photos, unreadable = find_photos(clean, settings.degradations, pipeline.working_size)
        store = PairStore(request.output, asdict(settings))
        batches = plan(photos, settings.per_image, _BATCH)
        total, done, skipped = sum(len(batch.photos) for batch in batches), 0, dict(unreadable)
        set_tiling(pipeline, max(len(batch.photos) * math.prod(batch.photos[0].size) for batch in batches))
        report(Progress(0, total, batches[0].degradation, tuple(skipped.items())))
        results = make_locally(settings, request.output, batches, pipeline, step_done)
        for number, made in enumerate(results, 1):
            store.record([row for row, _, _ in made.pairs], made.discarded)
            os.utime(request.folder)  # else it would be swept away when an hour old
            done, skipped = done + len(batches[number - 1].photos), skipped | dict(made.unreadable)
            following = batches[number].degradation if number < len(batches) else None
            report(Progress(done, total, following, tuple(skipped.items())))
        return True
    except NoPhotographs as error:
        raise nothing_left([*request.skipped, *error.skipped]) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    finally:
        if not clean.is_dir():  # nobody waits for this any more, and what came since would stay
            shutil.rmtree(request.folder, ignore_errors=True)
    release_memory()  # here, where the error does not hold the memory any more
    raise UserError(f"There is not enough memory for {_BATCH} photographs at once. Choose a smaller model.")


def _command(settings: Settings) -> str:
    """The command line that makes the same pairs of the photographs in a folder `photos`."""
    options = ["--clean", "photos", "--output", ROOT, "--model", settings.model, "--degradations"]
    options += [*settings.degradations, "--per-image", str(settings.per_image), "--seed", str(settings.seed)]
    return shlex.join(["python", "-m", "training.create_dataset", *options])
