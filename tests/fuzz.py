"""Can anything that a visitor sends, or a file holds, make the app leak, hang, answer wrongly or fail with a traceback?

python -m tests.fuzz --cases 2000 --seed 0 starts the app with tiny models; --case 17 runs one case of them again;
--url asks another server (then only answers are judged, not its log). Exits with 1 if anything is found.
"""

from __future__ import annotations

import argparse
import base64
import http.server
import io
import json
import logging
import math
import os
import random
import re
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from gendeg import load_pipeline
from gendeg.checkpoints import read_settings
from restorers import load_restorer
from runtime.errors import OUR_FAULT, UserError
from runtime.images import open_image
from tests import tiny
from tests.fuzz_files import damaged_folder, emptied, image_file, pair_folder, photograph, weights_file, zip_file
from training.pair_folders import PairFolders
from training.photos import random_crop_of_pair

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 10.0  # that an answer may take on a machine of one's own; the jobs take a part of one
GRADIOS_OWN = {  # what Gradio writes of requests that none of our code sees, and that it answers
    "response already started": "to messages of a session that it does not know, it ends an answer that has begun",
}
SLOW, OWN = "too slow:", "Gradio's own:"
SECRET = "canary-7f3a19"  # what lies in files that nobody uploaded: this text, and images of this colour
SECRET_COLOUR = (17, 238, 34)
TELLING = re.compile(  # of us or our libraries: nothing that a user could act on
    r"Traceback|NoneType|object has no attribute|object is not|<class '|site-packages|\.py\b|0x[0-9a-f]{8}"
    r"|\b\w+(Error|Exception)\b|\btorch\b|pydantic|positional argument|unexpected keyword|list index|not subscriptable"
)
LITERALS = ("1e400", "-1e400", "1e-400", "1" + "0" * 400, "9" * 5000, "NaN", "-Infinity")  # no Python value of JSON
ODD_TEXTS = (
    "", " ", "\0", "\ud800", "\udfff\ud800", "\u202egnp.exe", "אבג דהו", "ب" * 300, "x" * 10**5, "%s%n{}{0}", "../../",
    "<img src=x onerror=alert(1)>", "' OR 1=1 --", "😀" * 100, "\r\n\r\n", "nan", "inf", "0.1", "haze", "None", "true",
)  # fmt: skip
ODD_VALUES = (
    None, True, False, -1, 0, 1, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**9, [], {}, [None],
    [[]], [[["haze"]]], {"a": 1}, {"__type__": "update"}, {"__type__": "update", "value": 1}, {"value": "haze"},
    ["haze"], ["nafnet"], [1, 2], [True], {"path": None}, {"path": []}, {"path": 5}, {"url": "x"}, {"meta": {}},
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


@dataclass
class World:
    """What the cases share.

    Attributes:
        url: of the app, with a slash at its end.
        dependencies, components: of the app's config, by their ids.
        folder: for files of the cases.
        photo: uploaded file, 80 x 60.
        foreign: paths, and an address, that nobody uploaded.
        fetched: how often the address was asked for.
        log: what the server wrote; nothing if it is another process.
    """

    url: str
    folder: Path
    pipeline: Path
    restorers: Path
    foreign: list[str]
    fetched: list[str]
    log: Log
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20 * SECONDS))
    dependencies: dict[int, dict[str, Any]] = field(default_factory=dict)
    components: dict[int, dict[str, Any]] = field(default_factory=dict)
    photo: str = ""

    def __post_init__(self) -> None:
        config = self.client.get(f"{self.url}config").json()
        self.dependencies = {d["id"]: d for d in config["dependencies"]}
        self.components = {c["id"]: c for c in config["components"]}
        file = io.BytesIO()
        photograph(random.Random(0), 80, 60).save(file, "PNG")
        self.photo = self.upload("photo.png", file.getvalue())

    def upload(self, name: str, content: bytes) -> str:
        """The path that the app gives a file."""
        (path,) = self.client.post(f"{self.url}gradio_api/upload", files={"files": (name, content)}).json()
        return path


class Log(logging.Handler):
    """Collects what this process writes to stderr and logs."""

    def __init__(self) -> None:
        super().__init__()
        self.text = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        self.text.write(logging.Formatter("%(levelname)s %(message)s").format(record) + "\n")

    def taken(self) -> str:
        """What has come since the last call."""
        text = self.text.getvalue()
        self.text.seek(0)
        self.text.truncate()
        return text

    @contextmanager
    def collecting(self) -> Iterator[None]:
        before = [(logging.getLogger(name), logging.getLogger(name).handlers) for name in (None, "uvicorn")]
        stderr, sys.stderr = sys.stderr, self.text
        for logger, _ in before:
            logger.handlers = [self]
        try:
            yield
        finally:
            sys.stderr = stderr
            for logger, handlers in before:
                logger.handlers = handlers


@dataclass
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        text: all of it.
        data: values of the function's outputs, the last ones; None if it failed.
        error: what it says of a failure; None if it has not failed.
    """

    status: int
    text: str = ""
    data: list[Any] | None = None
    error: Any = None
    values: list[Any] = field(default_factory=list)


# -------------------------------------------------------------------------------------------------------- requests


def seconds() -> float:
    """How long an answer may take now, where others use the machine too."""
    return SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def as_json(body: Any) -> str:
    """JSON as it stands in a request; "@literal" stands for what is no Python value."""
    text = json.dumps(body)
    for literal in LITERALS:
        text = text.replace(f'"@{literal}"', literal)
    return text


def post(world: World, path: str, body: Any) -> httpx.Response:
    """The response to a body, sent as it is if it is a text."""
    content = body if isinstance(body, bytes) else as_json(body).encode()
    headers = {"Content-Type": "application/json"}
    return world.client.post(f"{world.url}gradio_api/{path}", content=content, headers=headers)


def listened(world: World, path: str) -> Answer:
    """What the server sends of a job, to its end."""
    answer, event, end = Answer(200), "", time.monotonic() + seconds()
    with world.client.stream("GET", f"{world.url}gradio_api/{path}") as stream:
        for line in stream.iter_lines():
            if time.monotonic() > end:
                raise TimeoutError("no end")
            answer.text += line + "\n"
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            if not line.startswith("data: "):
                continue
            message = json.loads(line.removeprefix("data: "), parse_constant=not_json)
            if path.startswith("queue"):
                event, output = message["msg"], message.get("output")
                if event == "process_completed":
                    answer.error = None if message["success"] else (output or {}).get("error", "")
                    answer.data = output.get("data") if message["success"] else None
                    if not message["success"] and not answer.error:
                        answer.error = ""
                    return answer
                if event == "process_generating" and message["success"] and output:
                    answer.values.append(output.get("data"))
                if event == "unexpected_error":
                    answer.error = message["message"]
                    return answer
            elif event == "complete":
                answer.data = message
                return answer
            elif event == "generating":
                answer.values.append(message)
            elif event == "error":
                answer.error = (message or {}).get("error") if isinstance(message, dict) else message
                answer.error = answer.error or ""
                return answer
    answer.error = "the stream ended without an end"
    return answer


def not_json(constant: str) -> Any:
    raise ValueError(f"{constant} in an answer")


def call(world: World, function: dict[str, Any], values: Any, way: str, session: str, **body: Any) -> Answer:
    """Call a function of the page, or a named endpoint."""
    if way == "v2":
        names = world.client.get(f"{world.url}gradio_api/info").json()["named_endpoints"][f"/{function['api_name']}"]
        keys = [parameter["parameter_name"] for parameter in names["parameters"]]
        response = post(world, f"call/v2/{function['api_name']}", dict(zip(keys, values, strict=False)) | body)
    elif way == "named":
        response = post(world, f"call/{function['api_name']}", {"data": values} | body)
    else:
        target = "queue/join" if way == "queue" else "run/predict"
        body = {"data": values, "fn_index": function["id"], "session_hash": session, "simple_format": True} | body
        response = post(world, target, body)
    answer = Answer(response.status_code, response.text)
    if response.status_code != 200:
        with suppress(ValueError):
            content = response.json()
            answer.error = content.get("error", content.get("detail")) if isinstance(content, dict) else content
        answer.error = answer.error or ""
        return answer
    content = json.loads(response.text, parse_constant=not_json)
    if way == "direct":
        answer.data = content["data"]
        return answer
    if way in ("named", "v2"):
        return listened(world, f"call/{function['api_name']}/{content['event_id']}")
    return listened(world, f"queue/data?session_hash={session}")


# ---------------------------------------------------------------------------------------------------------- values


def sound_value(world: World, component: dict[str, Any], rng: random.Random) -> Any:
    """A value that a component may have."""
    kind, props = component["type"], component["props"]
    label = str(props.get("label", ""))
    if kind in ("image", "downloadbutton", "file"):
        if "lean" in label and rng.random() < 0.5:
            return None
        file = {"path": world.photo, "meta": {"_type": "gradio.FileData"}}
        if props.get("file_count") == "multiple":
            return [file] * rng.choice((1, 1, 2))
        return file if rng.random() < 0.7 or kind != "image" else {"path": world.photo}
    if kind == "slider":
        low, high = props["minimum"], props["maximum"]
        if label in ("Steps", "Resolution"):
            return low
        return rng.choice((low, high, round(rng.uniform(low, high), 3)))
    if kind == "number":
        for start, choices in (("Asked mu", (0, 0.1, 0.7)), ("Asked sigma", (0, 0.06, 0.4)), ("Steps", (1, 2))):
            if label.startswith(start):
                return rng.choice((None, *choices))
        if label == "Pairs of each":
            return rng.choice((1, 2))
        return rng.choice((0, 1, 2**32 - 1)) if label.startswith("Seed") else None
    if kind in ("dropdown", "radio", "checkboxgroup"):
        choices = [choice[1] for choice in props.get("choices") or ()]
        if label == "Model":
            return choices[0]  # the others are not tiny
        if kind == "checkboxgroup" or props.get("multiselect"):
            return rng.sample(choices or ["nafnet", "swin"], rng.choice((1, 1, 2)))
        return rng.choice(choices) if choices else None
    if kind == "checkbox":
        return rng.random() < 0.5
    if kind == "dataset":
        return 0
    if kind == "textbox" and "caption" in label:
        return rng.choice(("", "a street"))
    return None if kind == "state" else props.get("value")


def odd_value(world: World, component: dict[str, Any], rng: random.Random) -> Any:
    """A value that a component should not have, mostly."""
    if component["type"] in ("image", "downloadbutton", "file", "state") and rng.random() < 0.75:
        return odd_file(world, rng)
    what = rng.random()
    if what < 0.3:
        return rng.choice(ODD_TEXTS)
    if what < 0.5:
        return f"@{rng.choice(LITERALS)}"
    if what < 0.55:
        return odd_file(world, rng)
    if what < 0.6:
        return nested(rng.choice(ODD_VALUES), rng.choice((3, 100, 5000)))
    return rng.choice(ODD_VALUES)


def odd_file(world: World, rng: random.Random) -> Any:
    """A file that nobody uploaded, or a strange file object."""
    path = rng.choice(world.foreign)
    meta = {"_type": "gradio.FileData"}
    return rng.choice(
        (
            {"path": path}, {"path": path, "meta": meta}, {"path": path, "meta": {"_type": "x"}},
            {"path": path, "url": path, "meta": meta}, {"path": world.photo, "url": path, "meta": meta}, {"url": path},
            {"url": path, "meta": meta}, {"path": path, "meta": 5}, path, [path], [{"path": path}],
            {"path": path, "is_stream": True}, {"path": path, "is_stream": True, "meta": meta},
            {"path": f"{world.photo}/../../../../..{path}"},
            {"path": path, "orig_name": "photo.png", "size": 10**30, "meta": meta}, {"data": path},
            {"image": {"path": path}}, {"value": {"path": path}}, {"path": world.photo + "\0"}, [[{"path": path}]],
            {"path": world.photo, "meta": meta, "size": "x"}, {"path": f"file://{path}", "meta": meta},
        )
    )  # fmt: skip


def nested(value: Any, depth: int) -> Any:
    """A value in so many lists; as text, since Python's own writer refuses deep ones."""
    for _ in range(min(depth, 200)):
        value = [value]
    return value if depth <= 200 else f"@nested {depth}"


def mutated(world: World, values: list[Any], components: list[dict[str, Any]], rng: random.Random) -> list[Any]:
    """Values of which one or some are odd, too few or too many."""
    values = values.copy()
    files = [i for i, component in enumerate(components) if component["type"] in ("image", "downloadbutton", "file")]
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not values:
            break
        place = rng.choice(files) if files and rng.random() < 0.4 else rng.randrange(len(values))
        if place < len(values):
            values[place] = odd_value(world, components[place], rng)
        if rng.random() < 0.1:
            values = values[: rng.randrange(len(values) + 1)]
        if rng.random() < 0.1:
            values.append(rng.choice(ODD_VALUES))
            break
    return values


# ------------------------------------------------------------------------------------------------- what must not be


def strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of all texts in a JSON value."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, name)


def is_secret(image: Image.Image) -> bool:
    """Whether a good part of an image has the colour of files that nobody uploaded."""
    difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - SECRET_COLOUR).max(2)
    return bool((difference < 12).mean() > 0.02)


def problems_of(world: World, answer: Answer, sent: Any) -> Iterator[str]:
    """What an answer must not hold, whatever was sent."""
    if SECRET in answer.text:
        yield "content of a foreign file came back"
    own = {text for _, text in strings(sent)}
    if answer.status >= 500 and answer.error in (None, ""):
        yield f"HTTP {answer.status} without a sentence: {answer.text[:200]!r}"
    if answer.error == "" and answer.status == 200:
        yield "it failed without a sentence"
    parts = [answer.error, answer.data, *answer.values]
    for key, text in (pair for part in parts for pair in strings(part)):
        if key in ("path", "url") and text.removeprefix(f"{world.url}gradio_api/file=") in world.foreign:
            yield f"a foreign file is served: {text}"
        if key not in ("path", "url", "orig_name") and "base64" not in text[:200]:
            shown = text
            for mine in own:
                shown = shown.replace(mine, "") if mine and len(mine) > 2 else shown
            if found := TELLING.search(shown[:5000]):
                yield f"an answer tells {found[0]!r}: {text[:300]!r}"
            shown = shown.replace(str(world.pipeline), "")  # GENDEG_MODEL is a name that visitors choose by
            told = [place for place in (str(ROOT), str(world.folder)) if place in shown]
            if not all(any(place in mine for mine in own) for place in told):  # else it is the visitor's own words
                yield f"an answer tells a path: {text[:300]!r}"
        if OUR_FAULT in text:
            yield "it says that the fault is ours"
        for encoded in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", text):
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                if is_secret(image):
                    yield "a foreign image came back"
    for file in files_in(answer.data):
        content = world.client.get(file["url"]).content if file.get("url") else b""
        if SECRET.encode() in content:
            yield "content of a foreign file came back"
        with suppress(OSError), Image.open(io.BytesIO(content)) as image:
            if is_secret(image):
                yield "a foreign image came back"


def files_in(value: Any) -> Iterator[dict[str, Any]]:
    """File objects in an answer."""
    if isinstance(value, dict):
        if isinstance(value.get("url"), str) and value["url"].startswith("http"):
            yield value
        for inner in value.values():
            yield from files_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from files_in(inner)


def served_image(world: World, file: Any) -> np.ndarray:
    """Pixels of a file in an answer, [H, W, 3] in [0, 1]."""
    content = world.client.get(file["url"]).content
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) / 255


def degrade_problems(world: World, data: list[Any], values: list[Any], size: tuple[int, int] | None) -> Iterator[str]:
    """What is wrong with a success of /degrade; size: of the photograph, if that is known and its own is asked for."""
    degraded, clean, colours = (served_image(world, file) for file in data[:3])
    numbers = data[3]
    if not degraded.shape == clean.shape == colours.shape:
        yield f"sizes differ: {degraded.shape}, {clean.shape}, {colours.shape}"
        return
    if size and degraded.shape != (size[1], size[0], 3):
        yield f"degraded to {degraded.shape}, it was {size}"
    for name, wanted, delivered in (
        ("mu", values[2:3], np.abs(degraded - clean).mean()),
        ("sigma", values[3:4], np.abs(degraded - clean).std()),
    ):
        if not math.isclose(numbers["at_output_size"][name], delivered, abs_tol=0.004):
            yield f"{name} is {delivered:.4f}, it says {numbers['at_output_size'][name]}"
        if not math.isfinite(numbers["reached"][name]):
            yield f"{name} {numbers['reached'][name]} was reached"
        if wanted and wanted[0] is not None and not same_number(wanted[0], numbers["asked"][name]):
            yield f"{name} {wanted[0]!r} was asked, it says {numbers['asked'][name]}"
        if not 0 <= numbers["asked"][name] <= 0.7:
            yield f"{name} {numbers['asked'][name]} was accepted"
    if not 0 <= numbers["seed"] < 2**32 or (len(values) > 4 and not same_number(values[4], numbers["seed"])):
        yield f"seed {values[4:5]} was asked, it says {numbers['seed']}"


def restore_problems(world: World, data: list[Any], values: list[Any], size: tuple[int, int] | None) -> Iterator[str]:
    """What is wrong with a success of /restore."""
    files, numbers = data
    names = values[1] if len(values) > 1 else None
    if isinstance(names, list) and list(numbers) != list(dict.fromkeys(names)):
        yield f"{names} were asked, {list(numbers)} answered"
    for file in files:
        height, width, _ = served_image(world, file).shape
        if size and (width, height) != size:
            yield f"restored to {width} x {height}, it was {size}"
    for name, result in numbers.items():
        if "error" not in result and not 0 <= result["seconds"] < seconds():
            yield f"{name} says {result}"
        elif "error" in result:
            yield f"{name} failed: {result['error']}"


def data_set_problems(world: World, data: list[Any], values: list[Any], size: tuple[int, int] | None) -> Iterator[str]:
    """What is wrong with a success of /data_set."""
    file, numbers = data
    with zipfile.ZipFile(io.BytesIO(world.client.get(file["url"]).content)) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("metadata.jsonl"))
        rows = [json.loads(line) for line in archive.read(metadata).splitlines()]
        base = metadata.removesuffix("metadata.jsonl")
        if archive.testzip() or len(names) != len(set(names)) or "pairs/README.md" not in names:
            yield f"a damaged ZIP: {names}"
        for row in rows:
            pair = [np.asarray(Image.open(archive.open(base + row[f"{kind}file_name"]))) for kind in ("", "clean_")]
            difference = np.abs(pair[0].astype(float) - pair[1]) / 255
            if not math.isclose(difference.mean(), row["mu_reached"], abs_tol=1e-3):
                yield f"a mu of {difference.mean()} is said to be {row['mu_reached']}"
    if len(rows) != numbers["pairs"] or numbers["pairs"] + numbers["given_up"] > numbers["asked"] or numbers["ended"]:
        yield f"{len(rows)} pairs, it says {numbers}"
    if len(values) > 5 and not same_number(values[5], numbers["seed"]):
        yield f"seed {values[5]} was asked, it says {numbers['seed']}"


def same_number(sent: Any, came: float) -> bool:
    try:
        literal = sent.removeprefix("@") if isinstance(sent, str) else sent  # see `as_json`
        return math.isclose(float(literal), came, rel_tol=1e-6)
    except (TypeError, ValueError, OverflowError):
        return False


# ----------------------------------------------------------------------------------------------------------- cases


def named_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """A named endpoint, with sound or odd values."""
    function = rng.choice([d for d in world.dependencies.values() if d["api_visibility"] == "public"])
    components = [world.components[i] for i in function["inputs"]]
    sound = [sound_value(world, component, rng) for component in components]
    values, way = sound, rng.choice(("named", "named", "v2", "queue"))
    odd = rng.random() < 0.85
    if odd:
        values = mutated(world, sound, components, rng)
    answer = call(world, function, values, way, session)
    yield from problems_of(world, answer, values)
    if not odd and answer.error is not None:
        yield f"sound values were refused: {answer.error!r}, {values}"
    if answer.data is not None:
        if any(value not in (None, "") and "path" not in str(value) for value in values[:1]) or not values:
            yield f"it answers {values[:1]} as if that were a photograph"
        judges = {"degrade": degrade_problems, "restore": restore_problems, "data_set": data_set_problems}
        if judge := judges.get(function["api_name"]):
            names = [component["props"].get("label", "") for component in components]
            other = [value for name, value in zip(names, values, strict=False) if name.startswith("Output size")]
            yield from judge(world, answer.data, values, (80, 60) if other in ([], ["photo"]) else None)


def page_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """A function behind the page, after what must have gone before or not."""
    function = rng.choice(list(world.dependencies.values()))
    components = [world.components[i] for i in function["inputs"]]
    prepared = rng.random() < 0.5
    if prepared:
        for opened in world.dependencies.values():
            if any(event == "load" for _, event in opened["targets"]):
                call(world, opened, [None] * len(opened["inputs"]), "queue", session)
        for component in components:
            prepare(world, component, rng, session, set())
    sound = [sound_value(world, component, rng) for component in components]
    odd = rng.random() < 0.8
    values = mutated(world, sound, components, rng) if odd else sound
    body: dict[str, Any] = {}
    if rng.random() < 0.5:
        data = {key: odd_value(world, {"type": "number"}, rng) for key in ("mu", "sigma", "index", "value", "_data")}
        body["event_data"] = rng.choice((data, rng.choice(ODD_VALUES), {"index": rng.choice((0, 1, -1, 99))}))
    if rng.random() < 0.2:
        body[rng.choice(("trigger_id", "batched", "event_id", "simple_format", "oauth_token"))] = odd_value(
            world, {"type": "number"}, rng
        )
    way = "queue" if function["queue"] or rng.random() < 0.3 else "direct"
    answer = call(world, function, values, way, session, **body)
    yield from problems_of(world, answer, [values, body])
    if prepared and not odd and not body and answer.error is not None:
        yield f"sound values were refused: {answer.error!r}, {values}"


def prepare(world: World, component: dict[str, Any], rng: random.Random, session: str, done: set[int]) -> None:
    """Bring a session to where a state of it is set, as the page would."""
    if component["type"] != "state" or component["id"] in done:
        return
    done.add(component["id"])
    for function in world.dependencies.values():
        if component["id"] in function["outputs"]:
            inputs = [world.components[i] for i in function["inputs"]]
            for inner in inputs:
                prepare(world, inner, rng, session, done)
            values = [sound_value(world, inner, rng) for inner in inputs]
            call(world, function, values, "queue", session)
            return


def image_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """An odd or damaged image file, opened here and by the app."""
    content, name, size = image_file(rng)
    path = world.folder / session / Path(name).name
    path.write_bytes(content)
    opened = None
    try:
        opened = open_image(path)
    except UserError as error:
        yield from sentence_problems(error)
        if size:
            yield f"a sound image was refused: {error}"
    if opened is not None and (opened.mode != "RGB" or (size and opened.size != size)):
        yield f"it was opened as {opened.mode} of {opened.size}, it is {size}"
    odd_name = rng.choice(
        (name, name, name, "\u202egnp.png", "x" * 3000 + ".png", "a\0b.png", "../../a.png", "é😀.png")
    )
    try:
        upload = world.upload(odd_name, content)
    except (httpx.InvalidURL, ValueError):
        return  # Gradio refuses such a name
    names = [rng.choice(("nafnet", "swin"))]
    which, values = rng.choice((("restore", [{"path": upload}, names]), ("degrade", [{"path": upload}, "haze"])))
    if rng.random() < 0.2:
        which, values = "restore", [{"path": world.photo}, names, {"path": upload}]
    function = next(d for d in world.dependencies.values() if d["api_name"] == which)
    answer = call(world, function, values, "named", session)
    yield from problems_of(world, answer, values)
    if answer.data is not None:
        if opened is None:
            yield "the app opened what cannot be opened"
        elif which == "degrade":
            yield from degrade_problems(world, answer.data, values, opened.size)
        elif len(values) == 2:
            yield from restore_problems(world, answer.data, values, opened.size)
    elif opened is not None and which == "restore" and len(values) == 2:
        yield f"a photograph of {opened.size} was refused: {answer.error}"


def zip_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """An odd or damaged ZIP of photographs."""
    content, sound = zip_file(rng)
    upload = world.upload(rng.choice(("photos.zip", "photos.zip", "photos", "photos.ZIP", "é😀.zip")), content)
    values = [[{"path": upload}], ["rain"], 1, rng.choice(("imagefolder", "folders")), rng.random() < 0.3]
    function = next(d for d in world.dependencies.values() if d["api_name"] == "data_set")
    answer = call(world, function, values, "named", session)
    yield from problems_of(world, answer, values)
    if answer.data is not None:
        yield from data_set_problems(world, answer.data, values, None)
    elif sound and not re.search("reached an intensity|turned by a note", str(answer.error)):
        yield f"a ZIP with a sound photograph was refused: {answer.error}"
    left = [path for path in uploads_of(world).glob("gendeg-*/*") if path.name in ("photos", "pairs")]
    if left:
        yield f"a job left {left}"


def uploads_of(world: World) -> Path:
    """The app's folder of files."""
    return Path(world.photo).parents[1]


def route_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """Any address of the server, with what it does not expect."""
    function = rng.choice(list(world.dependencies.values()))
    name = rng.choice((function["api_name"], "none", "degrade", "restore", "%00", "..", "a" * 3000))
    foreign = rng.choice(world.foreign)
    quoted = httpx.QueryParams({"x": foreign}).__str__().removeprefix("x=") or "%00"
    odd = rng.choice((*ODD_VALUES, *ODD_TEXTS))
    body = rng.choice(
        (
            b"", b"{", b"null", b"[]", b'"x"', b"5", b'{"data":', b"\xff\xfe", b'{"data":[]}', b"[" * 10**5,
            b'{"data":[NaN', {"data": odd}, {"data": None}, {"event_id": session},
            {"data": [odd], "fn_index": odd, "session_hash": session},
            {"data": [], "fn_index": rng.choice((10**6, -1)), "session_hash": session},
            {"data": [], "fn_index": function["id"], "session_hash": odd},
            {"data": [], "fn_index": function["id"], "session_hash": session, "trigger_id": odd},
            {"event_id": odd, "session_hash": odd, "fn_index": odd},
            {"component_id": odd, "fn_name": odd, "session_hash": session, "data": odd},
            {"component_id": rng.choice(list(world.components)), "fn_name": rng.choice(("preprocess", "__init__", odd)),
             "session_hash": session, "data": {"path": foreign}},
        )
    )  # fmt: skip
    posts = (f"call/{name}", f"call/v2/{name}", f"run/{name}", "run/predict", "queue/join", "cancel", "reset")
    posts += ("component_server", "upload", f"stream/{name}", "process_recording", "vibe-edit", "vibe-code", "login")
    gets = (f"file={quoted}", f"file/{quoted}", f"file={world.photo}/../../{quoted}", f"proxy={quoted}", "deep_link")
    gets += (f"call/{name}/{session}", f"queue/data?session_hash={name}", f"custom_component/{name}/client/component/x")
    gets += (f"stream/{session}/{name}/1/playlist.m3u8", "info", "runs", "openapi.json", "vibe-code", "startup-events")
    if rng.random() < 0.6:
        response = post(world, rng.choice(posts), body)
    else:
        try:
            response = world.client.get(world.url + rng.choice(("gradio_api/", "")) + rng.choice(gets))
        except httpx.RemoteProtocolError:
            return  # see GRADIOS_OWN
    if SECRET in response.text:
        yield "content of a foreign file came back"
    with suppress(OSError), Image.open(io.BytesIO(response.content)) as image:
        if is_secret(image):
            yield "a foreign image came back"
    if "Traceback" in response.text:
        yield f"an answer tells a traceback: {response.text[:200]}"


def weights_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """A weights file, sound or not."""
    name = rng.choice(("nafnet", "promptir", "swin"))
    state = load_restorer(world.restorers / name, "cpu").network.state_dict()
    canary = world.folder / session / "canary"
    path, sound = weights_file(rng, state, world.folder / session, canary)
    yield from restorer_problems(path, sound)
    if canary.exists():
        yield "code in a weights file ran"


def restorer_folder_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """A restorer's folder with a damaged file."""
    name = rng.choice(("nafnet", "promptir", "swin"))
    yield from restorer_problems(damaged_folder(rng, world.restorers / name, world.folder / session / name), False)


def restorer_problems(path: Path, sound: bool) -> Iterator[str]:
    try:
        restorer = load_restorer(path, "cpu")
        result = restorer(torch.full((3, 32, 48), 0.5))
    except UserError as error:
        yield from sentence_problems(error)
        if sound:
            yield f"sound weights were refused: {error}"
        return
    if result.shape != (3, 32, 48) or not torch.isfinite(result).all():
        yield "a restorer was loaded that makes no numbers"
    if restorer.trained_for and not all(isinstance(name, str) for name in restorer.trained_for):
        yield f"it was trained for {restorer.trained_for!r}"


def generator_folder_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """A generator's folder with a damaged file."""
    folder = damaged_folder(rng, world.pipeline, world.folder / session / "generator")
    torch.manual_seed(0)
    try:
        read_settings(folder)
        pipeline = load_pipeline(folder, "cpu")
        result = pipeline(photograph(rng, 80, 64), "haze", mu=0.1, sigma=0.06, num_inference_steps=1, output_type="np")
    except UserError as error:
        yield from sentence_problems(error)
        return
    if not np.isfinite(result.images).all():
        yield "a generator was loaded that makes no numbers"


def pair_folder_case(world: World, rng: random.Random, session: str) -> Iterator[str]:
    """A folder of pairs with an odd row or image."""
    folder = pair_folder(rng, world.folder / session)
    try:
        pairs = PairFolders([folder])
        for seed in range(3):
            clean, degraded = random_crop_of_pair(pairs.files[seed % len(pairs.files)], 32, np.random.default_rng(seed))
            if clean.shape != degraded.shape or clean.dtype != np.uint8:
                yield f"a pair of {clean.shape} and {degraded.shape}"
    except UserError as error:
        yield from sentence_problems(error, paths=True)


def sentence_problems(error: UserError, paths: bool = False) -> Iterator[str]:
    """What a sentence must not hold."""
    text = str(error)
    if found := TELLING.search(text):
        yield f"a sentence tells {found[0]!r}: {text[:300]!r}"
    if not text.strip() or not (text.rstrip().endswith((".", "?")) or "\n  " in text):  # or a list of faults
        yield f"no sentence: {text[:300]!r}"


def log_problems(log: str) -> Iterator[str]:
    """What the server should not have written."""
    if "Traceback" not in log:
        return
    lines = log.splitlines()
    ours = [line.strip() for line in lines if is_ours(line)]
    last = next((line for line in reversed(lines) if re.match(r"\S*(Error|Exception)\b", line)), lines[-1])
    for sign, why in GRADIOS_OWN.items():
        if sign in last:
            yield f"{OWN} {why}"
            return
    yield f"traceback in the log ({ours[-1] if ours else 'before our code'}): {last[:300]}"


def is_ours(line: str) -> bool:
    """Whether a line of a traceback, or a file's name, is of this repository's functions."""
    return str(ROOT) in line and "/.venv/" not in line and "UploadGate" not in line and "in __call__" not in line


CASES: dict[Callable[[World, random.Random, str], Iterator[str]], int] = {
    named_case: 30, page_case: 30, image_case: 15, route_case: 8, weights_case: 8, restorer_folder_case: 3,
    generator_folder_case: 3, pair_folder_case: 3, zip_case: 6,
}  # fmt: skip


def run_case(world: World, seed: int, number: int) -> tuple[str, list[str], str]:
    """(kind, what was found, what the server wrote) of one case; the same each time.

    What takes too long is tried again: a case that hangs does so twice, a busy machine does not.
    """
    kind, found, log = _run_case(world, seed, number)
    return _run_case(world, seed, number) if any(SLOW in problem for problem in found) else (kind, found, log)


def _run_case(world: World, seed: int, number: int) -> tuple[str, list[str], str]:
    rng, session = random.Random(f"{seed} {number}"), f"case-{seed}-{number}-{time.monotonic_ns()}"
    (case,) = rng.choices(list(CASES), list(CASES.values()))
    found, hits, started = [], len(world.fetched), time.monotonic()
    world.log.taken()
    for _ in emptied(world.folder / session):
        try:
            found += case(world, rng, session)
        except (TimeoutError, httpx.TimeoutException) as error:
            found.append(f"{SLOW} {error!r}")
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames if is_ours(f.filename)]
            found.append(f"{type(error).__name__}: {str(error)[:300]} (at {ours[-1]})")
    if time.monotonic() - started > seconds():
        found.append(f"{SLOW} {time.monotonic() - started:.1f} s")
    if len(world.fetched) > hits:
        found.append(f"the server fetched {world.fetched[hits:]}")
    time.sleep(0.02)  # the server may answer first and write then
    log = world.log.taken()
    found += log_problems(log)
    return case.__name__, found, log


# -------------------------------------------------------------------------------------------------------- the world


@contextmanager
def world(url: str | None = None) -> Iterator[World]:
    """The app, started unless a URL is given, and what lies around it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        (folder / "foreign").mkdir()
        secret = folder / "foreign" / "private.png"
        Image.new("RGB", (64, 64), SECRET_COLOUR).save(secret)
        (folder / "foreign" / "private.txt").write_text(SECRET)
        os.mkfifo(folder / "foreign" / "fifo.png")
        fetched: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fetched.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(secret.read_bytes())

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        foreign = [
            str(folder / "foreign" / name) for name in ("private.png", "private.txt", "fifo.png", "none.png", "")
        ]
        foreign += ["/dev/zero", "/dev/stdin", "/proc/self/environ", "/etc/passwd", "private.png", "~", "a" * 5000]
        foreign += [f"http://127.0.0.1:{server.server_port}/private.png", "http://127.0.0.1:1/x.png"]
        foreign += [str(ROOT / "app.py"), f"http://localhost:{server.server_port}/x", "ftp://127.0.0.1/x", "//x/y"]
        pipeline, restorers = tiny.pipeline(folder / "tiny" / "pipeline"), tiny.restorers(folder / "tiny" / "restorers")
        if url is None:
            url = stack.enter_context(tiny.served(pipeline, restorers, folder / "uploads"))
        log = Log()
        stack.enter_context(log.collecting())
        yield World(url.rstrip("/") + "/", folder, pipeline, restorers, foreign, fetched, log)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one, with what the server wrote")
    parser.add_argument("--url", help="of a running app")
    arguments = parser.parse_args()
    numbers = range(arguments.cases) if arguments.case is None else [arguments.case]
    kinds: Counter[str] = Counter()
    failures = 0
    torch.set_num_threads(1)
    with world(arguments.url) as where:
        for number in numbers:
            started = time.monotonic()
            kind, found, log = run_case(where, arguments.seed, number)
            kinds[kind] += 1
            failures += any(OWN not in problem for problem in found)
            for problem in found:
                seconds = time.monotonic() - started
                print(f"--seed {arguments.seed} --case {number} ({kind}, {seconds:.1f} s): {problem}", flush=True)
            if arguments.case is not None:
                print(log)
    print(f"{len(numbers)} cases, {failures} with findings: {dict(kinds)}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
