"""How is a stage of the whole run carried out? Its commands in processes of their own, one after another, on record."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from runtime.errors import UserError
from runtime.files import write_whole
from training.reproduce.facts import facts_of_training, processor

RECORDS, LOG = "reproduce.json", "reproduce.log"
Run = Callable[[list[str], Path, Callable[[], None]], int]  # see `run_process`


@dataclass(frozen=True)
class Stage:
    """A stage: its commands, as `python -m` takes them, and what they need and make.

    Attributes:
        recipe: None where it has none: it trains nothing.
        output: its folder.
        result: the file or folder in there that is there when it is done.
        needs: what stages before it made.
    """

    name: str
    commands: list[list[str | Path]]
    output: Path
    result: Path
    needs: list[Path]
    recipe: Path | None = None


def load_records(folder: Path) -> dict[str, Any]:
    """What earlier runs did there, stage by stage."""
    file = folder / RECORDS
    return json.loads(file.read_bytes()) if file.exists() else {}


def run_stages(
    stages: Iterable[Stage],
    records: dict[str, Any],
    data: str,
    run: Run,
    before: Callable[[Stage], None],
    processes: int = 1,
) -> int:
    """Run the stages that are not done yet. Returns the exit code of the command that ended it; 0 if all went well.

    Args:
        stages: each is taken when those before it are done.
        before: called before each that is run.
        data, processes: see `run_stage`.

    Raises:
        UserError: if a stage lacks what one before it makes.
    """
    for stage in stages:
        if records.get(stage.name, {}).get("done") and stage.result.exists():
            print(f"{stage.name}: done already.")
            continue
        if missing := [path for path in stage.needs if not path.exists()]:
            raise UserError(f"{stage.name} needs {missing[0]}, which the stages before it make.")
        before(stage)
        if code := run_stage(stage, records, data, run, processes):
            print(f"{stage.name} ended early; the same command goes on from there.", file=sys.stderr)
            return code
    return 0


def run_stage(stage: Stage, records: dict[str, Any], data: str, run: Run, processes: int = 1) -> int:
    """Run those of a stage's commands that are not finished, and keep the record of it. Returns the exit code.

    Args:
        data: what it learns from, in words.
        processes: that train it together.
    """
    launcher = []
    if processes > 1 and stage.recipe:
        launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        launcher += ["--main_process_port", "0", "-m"]  # one that is free
    if not stage.output.exists() or records.get(stage.name, {}).get("done"):  # what it made has been deleted
        records.pop(stage.name, None)
    stage.output.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = records.setdefault(stage.name, {"started": now, "minutes": 0.0, "finished": 0, "done": False})
    record["commands"] = [shlex.join(map(_portable, ["python", "-m", *launcher, *c])) for c in stage.commands]
    record |= {"data": data, "torch": torch.__version__, "processor": processor()}
    before, start, folder = record["minutes"], time.monotonic(), stage.output.parent

    def keep() -> None:
        record["minutes"] = round(before + (time.monotonic() - start) / 60, 2)
        record.update(facts_of_training(stage.recipe, stage.output))
        write_whole(folder / RECORDS, (json.dumps(records, indent=1) + "\n").encode())

    for command in stage.commands[record["finished"] :]:
        code = run([sys.executable, "-m", *launcher, *map(str, command)], folder / LOG, keep)
        record["finished"] += not code
        keep()
        if code:
            return code
    record["done"] = True
    keep()
    return 0


def _portable(part: str | Path) -> str:
    """An argument without the folders of this machine."""
    return part.name if isinstance(part, Path) and part.is_absolute() else str(part)


def run_process(command: list[str], log: Path, keep: Callable[[], None]) -> int:
    """Run a command; what it says goes to the terminal and to the end of `log`. Returns its exit code.

    Args:
        keep: called now and then.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "5"}
    if "accelerate.commands.launch" in command and not torch.accelerator.is_available():
        count = int(command[command.index("--num_processes") + 1])
        environment |= {"ACCELERATE_USE_CPU": "true"}  # the option --cpu would start a single process, without a word
        environment = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // count))} | environment
    with (
        log.open("ab") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as child,
    ):
        # The terminal gives Ctrl-C to the child as well, which saves what it has; then it ends, and so do we.
        handlers = {signal.SIGTERM: lambda *_: child.terminate(), signal.SIGINT: lambda *_: None}
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        next_time = 0.0
        try:
            while said := child.stdout.read1():
                for stream in (file, sys.stdout.buffer):
                    stream.write(said)
                    stream.flush()
                if time.monotonic() > next_time:
                    keep()
                    next_time = time.monotonic() + 10
            return child.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
