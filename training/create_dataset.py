"""Makes a pair data set: python -m training.create_dataset --clean PHOTOS --output DIR

Every clean photograph is degraded in the ways that its own data set lacks, at intensities drawn like those of real data
sets (GenDeg, arXiv 2411.17687, Section 4, "GenDS"). Images whose mean degradation falls outside the accepted range are
discarded and drawn anew. What --clean holds as `metadata.jsonl` (or `metadata.csv`) may say which degradations a file
has already: fields `file_name` and `degradations` (a list; in CSV, names separated by spaces).

A sample depends on the seed, its photograph's path below --clean, its degradation and its copy number alone. The same
command goes on with an interrupted data set, or with one whose photographs have become more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import pickle
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from huggingface_hub import HfApi
from tqdm import tqdm

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.importer import check_repository
from gendeg.intensity import intensity
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import UNIFORM_EVERY, IntensityPrior, IntensitySample
from gendeg.request import MAX_SEED
from runtime.errors import UserError
from runtime.files import UNFINISHED
from runtime.limits import limit
from training.command_line import command_line, listing
from training.dataset_card import write_card
from training.dataset_plan import Batch, Photo, find_photos, plan, read, with_captions
from training.dataset_store import AppendLog, PairStore, image_name, write_pair
from training.loop import Interruption

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


# ------------------------------------------------------------------------------------------------------- generation


def draw(seed: int, source_file: str, degradation: str, copy: int, attempt: int) -> tuple[IntensitySample, int]:
    """All that is random in an attempt at a sample: the intensity, and the seed of the generator's noise.

    One in UNIFORM_EVERY is uniform by chance, and not by counting: a sample must not depend on the others.
    """
    name = json.dumps([seed, source_file, degradation, copy, attempt])
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))
    uniform = rng.integers(UNIFORM_EVERY) == 0
    return PRIOR.sample(degradation, rng, uniform=uniform), int(rng.integers(MAX_SEED + 1))


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


# ---------------------------------------------------------------------------------------------------------- engines


def make_locally(settings: Settings, output: Path, batches: list[Batch], pipeline: GenDegPipeline) -> Iterator[Made]:
    """Batch after batch in this process; results come when their images are stored."""
    maker = PairMaker(settings, pipeline)
    for batch in batches:
        yield write(output, maker(batch, read(Path(settings.clean), batch)))


def make_on_ray(settings: Settings, output: Path, batches: list[Batch], workers: int | None) -> Iterator[Made]:
    """The same on Ray Data, in no particular order: read in tasks, generate in `workers` actors, store in tasks.

    Every node must see both folders and this code under the same paths. Each actor has a GPU or, on a cluster without
    one, its share of the CPUs.
    """
    if not batches:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # of connecting to a cluster; each takes 12 seconds
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install -r requirements-scale.txt") from error

    here, output = os.getcwd(), output.resolve()

    class Actor:
        def __init__(self) -> None:
            _quiet()
            os.chdir(here)  # the path of a model may be relative
            self.maker = PairMaker(settings)

        def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
            return {"made": pickle.dumps(self.maker(*pickle.loads(row["batch"])))}

    def read_task(row: dict[str, bytes]) -> dict[str, bytes]:
        batch = pickle.loads(row["batch"])
        return {"batch": pickle.dumps((batch, read(Path(settings.clean), batch)))}

    def write_task(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"made": pickle.dumps(write(output, pickle.loads(row["made"])))}

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    root = str(Path(__file__).resolve().parents[1])
    try:
        ray.init(  # at RAY_ADDRESS, or a Ray of its own on this machine
            log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": root}}
        )
    except Exception as error:  # it raises almost anything
        where = f"be reached at {os.environ['RAY_ADDRESS']}" if os.environ.get("RAY_ADDRESS") else "start"
        raise UserError(f"Ray cannot {where}: {str(error).splitlines()[0]}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), resources["CPU"]
        workers = workers or gpus or max(1, int(cpus) // 4)
        share = (cpus - 1) / workers  # one stays for reading and storing
        need = {"num_gpus": 1} if gpus else {"num_cpus": int(share) if share >= 1 else max(0.1, share)}
        # Many small blocks: a block's results are there, and logged, when all of it is done.
        items = [{"batch": pickle.dumps(batch)} for batch in batches]
        results = (
            ray.data.from_items(items, override_num_blocks=min(len(items), 10_000))
            .map(read_task, num_cpus=0.25)
            .map(Actor, concurrency=workers, **need)
            .map(write_task, num_cpus=0.25)
        )
        for row in results.iter_rows():
            yield pickle.loads(row["made"])
    finally:
        ray.shutdown()


# ---------------------------------------------------------------------------------------------------------- command


def create(
    settings: Settings, output: Path, batch_size: int, engine: str, workers: int | None, command: str
) -> tuple[PairStore, list[tuple[str, str]], bool]:
    """Make the data set, or go on with it.

    Returns:
        (what there is, (file, why it was skipped), whether it is complete; not so after Ctrl-C).

    Raises:
        UserError: for input that cannot be worked on; the message says why.
    """
    clean = Path(settings.clean)
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
    unreadable: dict[str, str] = {}
    if engine == "ray":
        results = make_on_ray(settings, output, todo, workers)
    else:
        results = make_locally(settings, output, todo, pipeline)
    done = total - sum(len(batch.photos) for batch in todo)
    with Interruption() as interruption, tqdm(total=total, initial=done, desc=output.name, unit="sample") as bar:
        for made in results:
            store.record([row for row, _, _ in made.pairs], made.discarded)
            unreadable |= dict(made.unreadable)
            bar.set_postfix(discarded=f"{_discarded_share(store):.1%}", refresh=False)
            bar.update(len(made.pairs) + len(made.discarded) + len(made.unreadable))
            if interruption.asked:
                results.close()
                return store, skipped, False
    skipped += sorted(unreadable.items())
    if not store.pairs:
        raise UserError(f"None of the {len(store.discarded)} samples reached an intensity that is accepted.")
    store.finish()
    write_card(store, command, MAX_ATTEMPTS)
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


def push(output: Path, repository: str) -> None:
    """Upload a complete data set to a Hub repository, which is created where there is none.

    Raises:
        UserError: if the Hub refuses or cannot be reached.
    """
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=output, repo_type="dataset", ignore_patterns=[".progress/*", UNFINISHED]
        )
    except Exception as error:  # its network library, and with it the errors, differ between versions
        raise UserError(
            f"The data set is complete in {output}, but the Hub did not take it: {str(error).splitlines()[0]} "
            f"Check `hf auth whoami` and the network, and run the same command again."
        ) from error


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0; 2 after a sentence on stderr; 130 after Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _quiet()
    command = shlex.join(
        ["python", "-m", "training.create_dataset", *(sys.argv[1:] if arguments is None else arguments)]
    )
    settings = _settings(args)
    store, skipped, complete = create(settings, args.output, args.batch_size, args.engine, args.workers, command)
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
        push(args.output, args.push_to_hub)
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
    parser.add_argument("--degradations", nargs="+", default=list(DEGRADATIONS), help="default: all six")
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
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the complete data set there")
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    """The checked settings.

    Raises:
        UserError: for a value that cannot be; the message says which are possible.
    """
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
    asked = {get_degradation(name).name for name in args.degradations}
    return Settings(
        clean=str(args.clean.resolve()),
        model=args.model,
        degradations=[name for name in DEGRADATIONS if name in asked],
        per_image=args.per_image,
        resolution=args.resolution,
        steps=args.steps,
        captions=args.captions,
        seed=args.seed,
        format=args.format,
    )


def _quiet() -> None:
    """Without a bar for every file that the libraries load."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    # The module under its own name and not as __main__, which is another one in the processes of Ray.
    from training import create_dataset

    sys.exit(create_dataset.main())
