"""Does the memory of the served app grow with the jobs it has run?

python -m tests.soak --jobs 500    starts the app with tiny models in a process of its own, sends it jobs of all kinds
(both endpoints, both tabs each time as a new visitor, failing ones, ones whose sender hangs up or never listens), and
prints resident memory and files. The app remembers fewer sessions here than it does, so that few jobs show what else
grows. The slope is that of the second half: the first loads models and fills caches.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import numpy as np
import psutil

import app
from tests import fuzz, tiny
from tests.fuzz import World, call, post, sound_value

SESSIONS = 50


def serve(folder: Path, pipe: Connection) -> None:
    """Serve the app with tiny models until the other end is closed; to each word answer with what is alive."""
    app.SESSIONS = SESSIONS
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    pipeline, restorers = tiny.pipeline(folder / "pipeline"), tiny.restorers(folder / "restorers")
    with tiny.served(pipeline, restorers, folder / "uploads") as url:
        pipe.send(url)
        while pipe.recv():
            gc.collect()
            names = Counter(type(o).__name__ for o in gc.get_objects())
            pipe.send({name: names[name] for name in ("SessionState", "Images", "generator", "Event", "Thread")})


def visit(world: World, rng: random.Random, session: str) -> None:
    """A visitor opens the page, and presses Generate or Restore."""
    for function in world.dependencies.values():
        if any(event == "load" for _, event in function["targets"]):
            call(world, function, [None] * len(function["inputs"]), "queue", session)
    name = rng.choice(("generate_clicked", "restore_clicked"))
    function = next(d for d in world.dependencies.values() if d["api_name"] == name)
    values = [sound_value(world, world.components[i], rng) for i in function["inputs"]]
    call(world, function, values, "queue", session)


def job(world: World, rng: random.Random, session: str) -> str:
    """Send one job of a kind by chance, whose name is returned."""
    photo = {"path": world.photo}
    kind = rng.choices(("degrade", "restore", "visit", "failing", "hung up", "unheard"), (30, 20, 25, 10, 10, 5))[0]
    if kind == "visit":
        visit(world, rng, session)
        return kind
    name, values = rng.choice((("degrade", [photo, "rain", 0.1, 0.06, 0, 4]), ("restore", [photo])))
    if kind in ("degrade", "restore"):
        name, values = kind, [photo, "snow", 0.1, 0.06, 1, 2] if kind == "degrade" else [photo, ["nafnet", "swin"]]
    elif kind == "failing":
        values = rng.choice(([{"path": "/none.png"}], [photo, 5], [photo, ["none"]], []))
    if kind in ("hung up", "unheard"):
        event = post(world, f"call/{name}", {"data": values}).json()["event_id"]
        if kind == "hung up":
            with world.client.stream("GET", f"{world.url}gradio_api/call/{name}/{event}") as stream:
                next(stream.iter_lines())
    else:
        function = next(d for d in world.dependencies.values() if d["api_name"] == name)
        call(world, function, values, "named", session)
    return kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(Path(folder), there))
        server.start()
        world = World(here.recv(), Path(folder), Path(folder), Path(folder), [], [], None)
        world.client.timeout, fuzz.SECONDS = httpx.Timeout(120), 120  # memory is what counts here, not time
        rng, kinds, measured = random.Random(arguments.seed), Counter(), []
        process = psutil.Process(server.pid)
        for number in range(1, arguments.jobs + 1):
            kinds[job(world, rng, f"visitor-{number}")] += 1
            if number % max(1, arguments.jobs // 10) == 0:
                here.send("count")
                alive = here.recv()
                megabytes = process.memory_info().rss / 1e6
                stored = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 1e6
                measured.append((number, megabytes))
                print(
                    f"{number} jobs: {megabytes:.0f} MB resident, {stored:.0f} MB of files, alive: {alive}", flush=True
                )
        half = np.array(measured[len(measured) // 2 :])
        if len(half) > 1:
            print(f"slope of the second half: {np.polyfit(*half.T, 1)[0] * 1000:.0f} kB a job; jobs: {dict(kinds)}")
        here.send("")
        server.join(10)
        server.kill()


if __name__ == "__main__":
    main()
