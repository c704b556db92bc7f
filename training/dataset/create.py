"""Makes a pair data set: python -m training.create_dataset --clean PHOTOS --output DIR

Every clean photograph is degraded in the ways that its own data set lacks, at intensities drawn like those of real data
sets (GenDeg, arXiv 2411.17687, Section 4, "GenDS"). Images whose mean degradation falls outside the accepted range are
discarded and drawn anew. What --clean holds as `metadata.jsonl` (or `metadata.csv`) may say which degradations a file
has already: fields `file_name` and `degradations` (a list; in CSV, names separated by spaces). A mixture, haze+rain, is
a degradation of its own: it is drawn, judged and discarded by its parts (`gendeg/mixture.py`).

A sample depends on the seed, its photograph's path below --clean, its degradation and its copy number alone. The same
command goes on with an interrupted data set, or with one whose photographs have become more.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gendeg.checkpoints import load_pipeline, quiet
from gendeg.degradations import DEGRADATIONS
from gendeg.importer import check_repository, push_folder
from gendeg.mixture import in_listed_order, mixture_name
from gendeg.request import MAX_SEED
from runtime.errors import UserError
from runtime.files import UNFINISHED
from runtime.limits import limit
from training.command_line import listing
from training.dataset.card import write_card
from training.dataset.engines import make_locally, make_on_ray
from training.dataset.plan import find_photos, plan, with_captions
from training.dataset.samples import MAX_ATTEMPTS, Settings
from training.dataset.store import AppendLog, PairStore
from training.loop import Interruption


def create(
    settings: Settings,
    output: Path,
    batch_size: int,
    engine: str,
    workers: int | None,
    command: str,
    minutes: float = math.inf,
) -> tuple[PairStore, list[tuple[str, str]], bool]:
    """Make the data set, or go on with it; after `minutes`, of all runs together, it is complete with what there is.

    Returns:
        (what there is, (file, why it was skipped), whether it is complete; not so after Ctrl-C).

    Raises:
        UserError: for input that cannot be worked on; the message says why.
    """
    began, clean = time.monotonic(), Path(settings.clean)
    if output.resolve().is_relative_to(clean.resolve()):
        raise UserError("Choose an output folder outside the folder of clean photographs.")
    pipeline = load_pipeline(settings.model, device="cpu" if engine == "ray" else None)
    photos, skipped = find_photos(
        clean, settings.degradations, lambda height, width: pipeline.working_size(height, width, settings.resolution)
    )
    if not any(photo.degradations for photo in photos):
        raise UserError(f"Every photograph in {clean} has all these degradations already.")
    store = PairStore(output, _identity(settings))
    if store.packed:
        store.remove_packed_images()
        return store, skipped, True
    photos = with_captions(photos, settings.captions, clean, AppendLog(output / ".progress" / "captions.jsonl"))
    batches = plan(photos, settings.per_image, batch_size)
    total = sum(len(batch.photos) for batch in batches)
    todo = [
        replace(batch, photos=left)
        for batch in batches
        if (left := tuple(p for p in batch.photos if (p.path, batch.degradation, batch.copy) not in store))
    ]
    done = total - sum(len(batch.photos) for batch in todo)
    if store.pairs and store.seconds >= 60 * minutes:
        todo = []
    unreadable: dict[str, str] = {}
    if engine == "ray":
        results = make_on_ray(settings, output, todo, workers)
    else:
        results = make_locally(settings, output, todo, pipeline)
    with Interruption() as interruption, tqdm(total=total, initial=done, desc=output.name, unit="sample") as bar:
        for made in results:
            ended = time.monotonic()
            store.record([row for row, _, _ in made.pairs], made.discarded, ended - began)
            began = ended
            unreadable |= dict(made.unreadable)
            bar.set_postfix(discarded=f"{_discarded_share(store):.1%}", refresh=False)
            bar.update(len(made.pairs) + len(made.discarded) + len(made.unreadable))
            if interruption.asked:
                results.close()
                return store, skipped, False
            if store.seconds >= 60 * minutes:
                results.close()
                break
    skipped += sorted(unreadable.items())
    if not store.pairs:
        raise UserError(f"None of the {len(store.discarded)} samples reached an intensity that is accepted.")
    store.finish()
    write_card(store, command)
    if store.shards:
        store.remove_packed_images()
    return store, skipped, True


def _identity(settings: Settings) -> dict[str, Any]:
    """The settings, with a fingerprint of the captions: other words give other images."""
    captions = Path(settings.captions)
    digest = f", sha256 {hashlib.sha256(captions.read_bytes()).hexdigest()[:12]}" if captions.is_file() else ""
    return asdict(settings) | {"captions": settings.captions + digest}


def _discarded_share(store: PairStore) -> float:
    """Share of the generated images that were discarded."""
    generated = store.generated
    return (generated - len(store.pairs)) / generated if generated else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0; 2 after a sentence on stderr; 130 after Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(arguments)
    quiet()
    command = shlex.join(
        ["python", "-m", "training.create_dataset", *(sys.argv[1:] if arguments is None else arguments)]
    )
    settings = _settings(args)
    store, skipped, complete = create(
        settings, args.output, args.batch_size, args.engine, args.workers, command, args.minutes
    )
    print(
        f"{len(store.pairs)} pairs of {len({k[0] for k in store.pairs})} photographs in {args.output}; "
        f"{_discarded_share(store):.1%} of the generated images were discarded, "
        f"{len(store.discarded)} samples given up after {MAX_ATTEMPTS}."
    )
    if skipped:
        files = listing([f"{path}: {reason}" for path, reason in skipped])
        print(f"{len(skipped)} files were skipped:{files}", file=sys.stderr)
    if not complete:
        raise KeyboardInterrupt
    if args.push_to_hub:
        ignored = [".progress/*", UNFINISHED]
        push_folder(args.output, args.push_to_hub, "data set", repo_type="dataset", ignore_patterns=ignored)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.create_dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clean", type=Path, required=True, help="folder of clean photographs, searched recursively")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or that of a run to go on with")
    parser.add_argument("--model", default="compact", help="bundled name, local folder or Hub repository (%(default)s)")
    parser.add_argument(
        "--degradations",
        nargs="+",
        default=list(DEGRADATIONS),
        help="such as: rain snow haze+rain, the last a mixture (default: all six)",
    )
    parser.add_argument(
        "--per-image", type=int, default=1, help="samples of each degradation a photograph (%(default)s)"
    )
    parser.add_argument("--resolution", type=int, help="short side in pixels (default: the model's own)")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--batch-size", type=int, default=8, help="images in one go, a matter of memory (%(default)s)")
    parser.add_argument(
        "--captions",
        default="none",
        help="of the scenes: JSONL file with file_name and caption; blip2 makes them; none: the phrase alone (default)",
    )
    parser.add_argument("--seed", type=int, default=0, help=f"0 to {MAX_SEED} (%(default)s)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: at RAY_ADDRESS, or a new one")
    parser.add_argument("--workers", type=int, help="ray: actors that generate (default: one for each GPU or 4 CPUs)")
    parser.add_argument(
        "--format",
        choices=("imagefolder", "webdataset"),
        default="imagefolder",
        help="%(default)s, or shards, for many: packing them at the end needs room for all images twice",
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many, earlier runs' included")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the complete data set there")
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    """The checked settings.

    Raises:
        UserError: for a value that cannot be; the message says which are possible.
    """
    if not args.minutes > 0:
        raise UserError(f"--minutes {args.minutes}: a data set needs more than none.")
    for name, low, high in (
        ("per_image", 1, None),
        ("batch_size", 1, None),
        ("workers", 1, None),
        ("resolution", 1, None),
        ("steps", 1, limit("GENDEG_MAX_STEPS")),
        ("seed", 0, MAX_SEED),
    ):
        value = getattr(args, name)
        if value is not None and (value < low or (high is not None and value > high)):
            bounds = f"from {low} to {high}" if high else f"at least {low}"
            raise UserError(f"--{name.replace('_', '-')} must be {bounds}, not {value}.")
    if args.push_to_hub:
        check_repository(args.push_to_hub)
    return Settings(
        clean=str(args.clean.resolve()),
        model=args.model,
        degradations=in_listed_order({mixture_name(name) for name in args.degradations}),
        per_image=args.per_image,
        resolution=args.resolution,
        steps=args.steps,
        captions=args.captions,
        seed=args.seed,
        format=args.format,
    )
