"""In which processes are the samples made? In this one, or on Ray in as many as there are GPUs."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gendeg.checkpoints import quiet
from gendeg.pipeline import GenDegPipeline
from runtime.errors import UserError
from training.dataset.plan import Batch, forget, read
from training.dataset.samples import Made, PairMaker, Settings, write


def make_locally(
    settings: Settings,
    output: Path,
    batches: list[Batch],
    pipeline: GenDegPipeline,
    callback: Callable[..., Any] | None = None,
) -> Iterator[Made]:
    """Batch after batch in this process; results come when their images are stored. `callback` sees every step."""
    maker = PairMaker(settings, pipeline, callback)
    try:
        for batch in batches:
            yield write(output, maker(batch, read(Path(settings.clean), batch)))
    finally:
        forget()


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
            quiet()
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
    root = str(Path(__file__).resolve().parents[2])
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
