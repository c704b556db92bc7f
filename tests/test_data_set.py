"""The Data set tab: what its ZIP holds, what is said of bad files and requests, and that nothing of a visitor stays."""

import json
import re
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import datasets
import numpy as np
import pytest
import skimage.data
import torch
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from gendeg.degradations import DEGRADATIONS
from gendeg.jobs import Models
from gendeg.pipeline import GenDegPipeline
from gendeg.scheduler import BridgeScheduler
from training import create_dataset
from training.dataset import plan
from training.dataset.jobs import make_of_files
from training.dataset.tab import run_data_set
from training.pair_folders import PairFolders

TWO = ["haze", "rain"]  # of which the tiny model reaches an accepted intensity


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `photos` of four photographs: of two sizes, one of them a GIF, one in a folder."""
    folder = tmp_path_factory.mktemp("data-set") / "photos"
    (folder / "trip").mkdir(parents=True)
    for name, photo, size in (
        ("astronaut.png", "astronaut", (80, 64)),
        ("trip/cät.jpg", "chelsea", (80, 64)),
        ("rocket.gif", "rocket", (80, 64)),
        ("tall.png", "coffee", (64, 96)),
    ):
        Image.fromarray(getattr(skimage.data, photo)()).resize(size).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def sent(photos: Path) -> Path:
    """These in a ZIP, with a damaged photograph, a text and a nameless copy of a Mac's."""
    with zipfile.ZipFile(photos.parent / "sent.zip", "w") as archive:
        for file in sorted(photos.rglob("*.*")):
            archive.write(file, file.relative_to(photos))
        archive.writestr("torn.png", (photos / "tall.png").read_bytes()[:4000])
        archive.writestr("<b>.jpg", b"no photograph")
        archive.writestr("notes.txt", "no photograph")
        archive.writestr("__MACOSX/._tall.png", "nothing")
    return photos.parent / "sent.zip"


@pytest.fixture
def make(app_url: str) -> Callable[..., tuple[Path, dict[str, Any]]]:
    client = Client(app_url, verbose=False)

    def make(files: Any, *arguments: Any, **options: Any) -> tuple[Path, dict[str, Any]]:
        files = files if isinstance(files, list) else [files]
        values = [handle_file(str(file)) for file in files]
        file, numbers = client.submit(values, *arguments, **options, api_name="/data_set").result(timeout=120)
        return Path(file), numbers

    return make


def unpacked(file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    assert [entry.name for entry in folder.iterdir()] == ["pairs"]
    return folder / "pairs"


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def working_folders(app_uploads: Path) -> list[str]:
    return [str(path) for path in app_uploads.rglob("photos")] + [str(path) for path in app_uploads.rglob(".progress")]


@pytest.fixture
def uploads(app_url: str) -> Iterator[Path]:
    """The app's folder of files; after the test no job has left its own in it."""
    folder = Path(get_upload_folder())
    yield folder
    deadline = time.monotonic() + 30
    while (left := working_folders(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


# ------------------------------------------------------------------------------------------------------ what is made


def test_as_the_command_of_its_card_makes_it_and_read_as_all_pairs_are(
    make, uploads: Path, photos: Path, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, numbers = make(sent, TWO, 2, "imagefolder", True, 5)
    folder = unpacked(file, tmp_path / "zip")
    assert numbers["pairs"] == len(rows(folder / "train")) == sum(numbers["pairs_of_each"].values())
    assert numbers["pairs"] + numbers["given_up"] == 4 * 2 * 2 and numbers["asked"] == 5 * 2 * 2, "one was torn"
    assert numbers["photographs"] == 4 and numbers["seed"] == 5 and numbers["ended"] == ""
    assert numbers["skipped_files"] == 3
    assert numbers["skipped"]["sent.zip: notes.txt"] == "not an image file"
    assert "damaged or incomplete" in numbers["skipped"]["torn.png"]
    assert "is not an image" in numbers["skipped"]["_b_.jpg"]
    for row in rows(folder / "train"):
        clean, degraded, map_ = (pixels(folder / "train" / row[f"{kind}file_name"]) for kind in ("clean_", "", "map_"))
        assert np.array_equal(map_, np.abs(clean - degraded))
        assert row["mu_reached"] == pytest.approx(map_.mean() / 255, abs=1e-5)

    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(loaded) == numbers["pairs"] and {"image", "clean", "map", "seed"} <= set(loaded.column_names)
    assert len(PairFolders([folder]).files) == len(loaded)

    card = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        "map_file_name" in card and (folder / "contact-sheet.jpg").is_file() and (folder / "intensities.png").is_file()
    )
    (command,) = re.findall(r"^python -m training\.create_dataset (.*)$", card, re.MULTILINE)
    assert str(photos) not in card and str(uploads) not in card
    monkeypatch.chdir(photos.parent)
    output = tmp_path / "pairs"
    assert create_dataset.main([str(output) if part == "pairs" else part for part in shlex.split(command)]) == 0
    made = {row["file_name"]: row for row in rows(output / "train")}
    assert len(made) == numbers["pairs"]
    for row in rows(folder / "train"):
        assert made[row["file_name"]]["seed"] == row["seed"] and made[row["file_name"]]["mu_asked"] == row["mu_asked"]
        assert (
            np.abs(pixels(output / "train" / row["file_name"]) - pixels(folder / "train" / row["file_name"])).max() <= 1
        )


def test_plain_folders_have_equal_names(make, uploads: Path, sent: Path, tmp_path: Path) -> None:
    folder = unpacked(make(sent, TWO, layout="folders", maps=True)[0], tmp_path / "zip")
    names = [{file.name for file in (folder / kind).iterdir()} for kind in ("gt", "lq", "map")]
    assert names[0] == names[1] == names[2] and len(names[0]) == len(rows(folder))
    for name in names[0]:
        clean, degraded, map_ = (pixels(folder / kind / name) for kind in ("gt", "lq", "map"))
        assert np.array_equal(map_, np.abs(clean - degraded)) and map_.any()
    assert len(PairFolders([folder]).files) == len(names[0])
    (folder / "metadata.jsonl").unlink()
    assert {degraded.name for _, degraded in PairFolders([folder]).files} == names[0]
    assert "lq/" in (folder / "README.md").read_text() and "train/" not in (folder / "README.md").read_text()


def test_photographs_one_by_one_all_degradations_by_default(make, photos: Path, tmp_path: Path) -> None:
    file, numbers = make([photos / "astronaut.png", photos / "tall.png"])
    assert len(numbers["pairs_of_each"]) == 6 and numbers["asked"] == 12 and not numbers["skipped"]
    train = unpacked(file, tmp_path / "zip") / "train"
    assert {row["source_file"] for row in rows(train)} == {"astronaut.png", "tall.png"}
    assert not (train / "map").exists() and "map_file_name" not in rows(train)[0]


def test_the_seed_decides(make, photos: Path, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((1, 1, 2)):
        train = unpacked(make(photos / "astronaut.png", ["rain"], seed=seed)[0], tmp_path / f"{number}") / "train"
        made.append((rows(train)[0]["seed"], pixels(train / rows(train)[0]["file_name"])))
    assert made[0][0] == made[1][0] != made[2][0]
    assert np.array_equal(made[0][1], made[1][1]) and not np.array_equal(made[0][1], made[2][1])


def test_visitors_get_their_own(app_url: str, uploads: Path, tmp_path: Path) -> None:
    def visit(number: int) -> int:
        photo = tmp_path / f"{number}" / "photo.png"  # one name, other pictures
        photo.parent.mkdir()
        Image.new("RGB", (80, 64), (40 * number, 128, 128)).save(photo)
        values = [handle_file(str(photo))]
        file, _ = Client(app_url, verbose=False).submit(values, ["rain"], api_name="/data_set").result(timeout=120)
        train = unpacked(Path(file), photo.parent / "zip") / "train"
        (row,) = rows(train)
        return round(pixels(train / row["clean_file_name"])[..., 0].mean())

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(visit, range(1, 4))) == [40, 80, 120]


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"degradations": []}, "Choose at least one degradation"),
        ({"degradations": ["fog"]}, "Choose one of: haze"),
        ({"degradations": [5]}, "Name degradations as a list of words"),
        ({"per_image": 0}, "The number of pairs of each kind must be a whole number from 1 to 600, not 0"),
        ({"per_image": 1.5}, "must be a whole number"),
        ({"per_image": 60}, r"1440 pairs \(4 photographs, 6 degradations, 60 of each\); the limit here is 600"),
        ({"layout": "tar"}, "The layout must be one of: imagefolder, folders"),
        ({"seed": -1}, "The seed must be a whole number"),
        ({"model": "/etc"}, "There is no model"),
    ],
)
def test_bad_choices(make, uploads: Path, photos: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        make(sorted(photos.rglob("*.*")), **options)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("photos.zip", b"no ZIP", r"There is no photograph .*photos\.zip: no ZIP, or damaged"),
        ("notes.txt", b"no ZIP", r"notes\.txt: neither a photograph nor a ZIP"),
        ("photo.png", b"no image", r"There is no photograph .*photo\.png is not an image"),
        ("small.png", (20, 20), r"There is no photograph .*The image is 20 x 20 pixels"),
        ("torn.png", None, r"There is no photograph .*torn\.png is damaged or incomplete"),
    ],
)
def test_bad_files(make, uploads: Path, photos: Path, tmp_path: Path, name: str, content: Any, sentence: str) -> None:
    if isinstance(content, tuple):
        Image.new("RGB", content).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content or (photos / "tall.png").read_bytes()[:4000])
    with pytest.raises(AppError, match=sentence) as caught:
        make(tmp_path / name)
    assert str(uploads) not in str(caught.value)


def test_nothing_sent(app_url: str) -> None:
    client = Client(app_url, verbose=False)
    for nothing in (None, []):
        with pytest.raises(AppError, match="There is nothing to work on yet"):
            client.predict(nothing, api_name="/data_set")


def test_intensities_that_are_not_accepted(make, uploads: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEGRADATIONS, "haze", replace(DEGRADATIONS["haze"], accepted_mu=(0.6, 0.61)))
    with pytest.raises(AppError, match="None of the 1 samples reached an intensity that is accepted"):
        make(photos / "tall.png", ["haze"])
    _, numbers = make(photos / "tall.png", TWO)
    assert numbers["pairs_of_each"] == {"haze": 0, "rain": 1} and numbers["given_up"] == 1


# ------------------------------------------------------------------------------------------------------- how it ends


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every step takes a while; the times at which they were taken."""
    steps, step = [], BridgeScheduler.step

    def slow_step(self: BridgeScheduler, *values: Any, **options: Any) -> Any:
        steps.append(time.monotonic())
        time.sleep(0.1)
        return step(self, *values, **options)

    monkeypatch.setattr(BridgeScheduler, "step", slow_step)
    return steps


def test_when_its_time_is_over_what_is_done_is_there(
    make, uploads: Path, photos: Path, slow: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENDEG_MAX_SECONDS", "6")
    file, numbers = make(photos / "tall.png", TWO, 100)
    assert numbers["ended"].startswith("This took longer than 6 seconds, which is the limit here")
    assert 0 < numbers["pairs"] < numbers["asked"] == 200
    assert len(rows(unpacked(file, tmp_path / "zip") / "train")) == numbers["pairs"]


def test_cancel_keeps_what_is_done(
    app_url: str, uploads: Path, photos: Path, slow: list[float], tmp_path: Path
) -> None:
    cancelled, answers = Event(), []
    file = {"path": str(uploads / "tall.png")}
    (uploads / "tall.png").write_bytes((photos / "tall.png").read_bytes())
    for status, _, download in run_data_set(Models(), cancelled, [file], TWO, 50, "folders", False, 0, None):
        answers.append((status, download))
        if isinstance(status, str) and re.match(r"[1-9]\d* of 100 pairs made, now (haze|rain)", status):
            cancelled.set()
    status, download = answers[-1]
    done = int(re.match(r"Cancelled\. The ZIP holds (\d+) of the 100 pairs asked for\.", status)[1])
    folder = unpacked(Path(download["value"]), tmp_path / "zip")
    assert 0 < done < 100 and len(rows(folder)) == len(list((folder / "lq").iterdir())) == done
    assert f"{done} pairs for training" in (folder / "README.md").read_text()


def test_a_zip_is_unpacked_in_a_job_that_can_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, cancelled = (tmp_path / "request", tmp_path / "target"), Event()
    folders[0].mkdir()

    def unpacked_slowly(files: Any, folder: Path, report: Callable[[Any], None]) -> None:
        while True:
            time.sleep(0.05)
            report(None)

    monkeypatch.setattr("training.dataset.jobs.gather", unpacked_slowly)
    events = make_of_files(Models(), folders, [], [["haze"]], cancelled)
    assert [next(events) for _ in range(3)] == [None] * 3, "signs of life"
    cancelled.set()
    assert not any(events)
    time.sleep(0.3)
    assert not folders[0].exists()


def test_cancel_before_the_first_pair_is_said(app_url: str, uploads: Path, photos: Path, slow: list[float]) -> None:
    cancelled = Event()
    cancelled.set()
    (uploads / "tall.png").write_bytes((photos / "tall.png").read_bytes())
    file = {"path": str(uploads / "tall.png")}
    *_, (status, _, _) = run_data_set(Models(), cancelled, file, TWO, 50, "folders", False, 0, None)
    assert status == "Cancelled before the first pair was done."


def test_who_hangs_up_leaves_no_work_behind(
    app_url: str, make, uploads: Path, photos: Path, slow: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [handle_file(str(photos / "tall.png"))]
    job = Client(app_url, verbose=False).submit(values, TWO, 50, api_name="/data_set")
    deadline = time.monotonic() + 60
    while not (slow and job.outputs()) and time.monotonic() < deadline:  # else the client has none to end
        time.sleep(0.05)
    job.cancel()
    deadline = time.monotonic() + 30
    while time.monotonic() - slow[-1] < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert time.monotonic() - slow[-1] >= 2, "it goes on"


def test_an_error_of_ours_keeps_what_is_done(
    make, uploads: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, denoise = [], GenDegPipeline.denoise

    def fail(*values: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > good:
            raise error
        return denoise(*values, **options)

    monkeypatch.setattr(GenDegPipeline, "denoise", fail)
    good, error = 0, torch.OutOfMemoryError()
    with pytest.raises(AppError, match="There is not enough memory for 4 photographs at once"):
        make(photos / "tall.png", TWO)
    calls, good, error = [], 3, RuntimeError("secret")
    file, numbers = make(photos / "tall.png", TWO, 5)
    assert "on our side" in numbers["ended"] and "secret" not in str(numbers)
    assert 0 < numbers["pairs"] <= 3 and len(rows(unpacked(file, tmp_path / "zip") / "train")) == numbers["pairs"]


def test_a_status_shows_no_markup_of_a_name(app_url: str, uploads: Path, sent: Path) -> None:
    (uploads / "sent.zip").write_bytes(sent.read_bytes())
    with zipfile.ZipFile(uploads / "sent.zip", "a") as archive:
        archive.writestr("<img src=x>.txt", b"")
    file = {"path": str(uploads / "sent.zip")}
    *_, (status, sheet, _) = run_data_set(Models(), None, file, ["rain"], 1, "imagefolder", False, 0, None)
    assert status.startswith("Done: ") and "4 files left out:<ul><li>" in status and "<img" not in status
    assert Image.open(sheet["value"]).width > 100


def test_the_app_starts_without_what_large_data_sets_need() -> None:
    """And imports none of it, nor what trains, before its first answer."""
    code = """
import sys
for name in ("ray", "webdataset", "datasets", "spandrel"):
    sys.modules[name] = None
import app
assert "training.dataset.tab" in sys.modules
print([name for name in ("training.loop", "training.generator", "training.simulators") if name in sys.modules])
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("[]"), done.stderr[-2000:]


def test_photographs_do_not_stay_in_memory(make, photos: Path) -> None:
    make(photos / "tall.png", ["rain"])
    assert plan._read_or_reason.cache_info().currsize == 0
