"""The pair data set: complete, reproducible, resumable, and read by what is meant to read it."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import skimage.data
import webdataset
from PIL import Image

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import MU_MAX, NUM_BINS, SIGMA_MAX
from gendeg.prior import PRIOR, UNIFORM_EVERY
from tests.gendeg.test_prior import assert_follows
from training import create_dataset
from training.dataset.samples import MAX_ATTEMPTS, draw
from training.dataset.store import AppendLog, PairStore, image_name
from training.pair_folders import PairFolders
from training.photos import random_crop_of_pair


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of two sizes; two of them have the same stem, in different folders."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "trips").mkdir()
    for name, photo, size in (
        ("face.png", "astronaut", (80, 64)),
        ("trips/face.jpg", "chelsea", (80, 64)),
        ("test image.png", "coffee", (80, 64)),
        ("rocket.webp", "rocket", (80, 64)),
        ("tall.png", "chelsea", (64, 96)),
        ("tall too.png", "coffee", (64, 96)),
    ):
        Image.fromarray(getattr(skimage.data, photo)()).resize(size).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def command(photos: Path, tiny_pipeline_folder: Path):
    """The command line, with the tiny model, for a data set in `output`."""

    def command(output: Path, *options: str, clean: Path = photos) -> list[str]:
        return ["--clean", str(clean), "--output", str(output), "--model", str(tiny_pipeline_folder), *options]

    return command


@pytest.fixture(scope="module")
def made(command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted data set: every photograph, every degradation."""
    output = tmp_path_factory.mktemp("made") / "pairs"
    assert create_dataset.main(command(output)) == 0
    return output


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "train" / "metadata.jsonl").read_text().splitlines()]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def images(output: Path) -> dict[str, bytes]:
    train = output / "train"
    return {file.relative_to(train).as_posix(): file.read_bytes() for file in train.rglob("*.png")}


def assert_same(output: Path, other: Path, *, chosen=lambda row: True) -> None:
    """The same rows, up to what floating-point noise does to the measured values, and images within 1/255."""
    ours, theirs = rows(output), [row for row in rows(other) if chosen(row)]
    assert len(ours) == len(theirs) > 0
    for row, wanted in zip(ours, theirs, strict=True):
        for name, value in wanted.items():
            assert row[name] == (pytest.approx(value, abs=1e-4) if name.endswith("_reached") else value)
        for name in ("file_name", "clean_file_name"):
            assert np.abs(pixels(output / "train" / row[name]) - pixels(other / "train" / row[name])).max() <= 1


def test_every_photograph_gets_every_degradation(made: Path, photos: Path) -> None:
    discarded = [r for entry in AppendLog(made / ".progress" / "log.jsonl").read() for r in entry["discarded"]]
    samples = {(r["source_file"], r["degradation"]) for r in rows(made) + discarded}
    files = {file.relative_to(photos).as_posix() for file in photos.rglob("*.*")}
    assert samples == {(file, name) for file in files for name in DEGRADATIONS}
    assert len(rows(made)) + len(discarded) == len(samples)
    assert len(rows(made)) > 20
    order = [(r["source_file"], list(DEGRADATIONS).index(r["degradation"])) for r in rows(made)]
    assert order == sorted(order)


def test_rows_say_what_the_files_hold(made: Path) -> None:
    named = set()
    for row in rows(made):
        degraded, clean = (pixels(made / "train" / row[name]) / 255 for name in ("file_name", "clean_file_name"))
        difference = np.abs(degraded - clean)
        assert (row["mu_reached"], row["sigma_reached"]) == pytest.approx(
            (difference.mean(), difference.std()), abs=1e-5
        )
        low, high = DEGRADATIONS[row["degradation"]].accepted_mu
        assert low <= row["mu_reached"] <= high
        assert row["prompt"] == DEGRADATIONS[row["degradation"]].phrase_for(row["source_dataset"])
        assert row["structure_correction"] is False  # the tiny model has no module for it
        named |= {row["file_name"], row["clean_file_name"]}
    assert named == set(images(made))
    assert len({row["clean_file_name"] for row in rows(made)}) == len({row["source_file"] for row in rows(made)})


def test_a_row_is_enough_to_generate_its_image_again(made: Path, photos: Path, tiny_pipeline_folder: Path) -> None:
    import torch

    from gendeg import load_pipeline

    row = rows(made)[-1]
    photo = Image.open(photos / row["source_file"]).convert("RGB")
    size = Image.open(made / "train" / row["file_name"]).size
    output = load_pipeline(tiny_pipeline_folder)(
        photo.resize(size, Image.Resampling.LANCZOS),
        row["degradation"],
        mu=row["mu_asked"],
        sigma=row["sigma_asked"],
        phrase=row["prompt"],
        generator=torch.Generator().manual_seed(row["seed"]),
    )
    assert np.abs(np.asarray(output.images[0]).astype(int) - pixels(made / "train" / row["file_name"])).max() <= 1


def test_read_as_imagefolder_and_as_training_pairs(made: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset("imagefolder", data_dir=str(made), cache_dir=str(tmp_path))
    assert list(loaded) == ["train"]
    assert len(loaded["train"]) == len(rows(made))
    first, row = loaded["train"][0], rows(made)[0]
    assert first["image"].size == first["clean"].size
    np.testing.assert_array_equal(np.asarray(first["image"]), pixels(made / "train" / row["file_name"]))
    np.testing.assert_array_equal(np.asarray(first["clean"]), pixels(made / "train" / row["clean_file_name"]))
    assert first["mu_reached"] == row["mu_reached"]
    assert len(datasets.load_dataset(str(made), cache_dir=str(tmp_path))["train"]) == len(rows(made))  # by the card
    pairs = PairFolders([made])
    assert len(pairs.files) == len(rows(made))
    clean, degraded = random_crop_of_pair(pairs.files[0], 32, np.random.default_rng(0))
    assert clean.shape == degraded.shape and clean.dtype == np.uint8 and (clean != degraded).any()


def test_the_card_counts(made: Path, photos: Path) -> None:
    card = (made / "README.md").read_text()
    for name, degradation in DEGRADATIONS.items():
        count = sum(row["degradation"] == name for row in rows(made))
        assert f"| {degradation.label} | {count} | " in card
    assert f"| **all** | {len(rows(made))} | " in card
    assert f"python -m training.create_dataset --clean {photos} --output {made}" in card
    for picture in ("contact-sheet.jpg", "intensities.png"):
        assert f"({picture})" in card
        assert min(Image.open(made / picture).size) > 100


def test_a_sample_depends_on_nothing_but_its_name(made: Path, command, photos: Path, tmp_path: Path) -> None:
    """Not on batch size, on the other degradations, on further copies, or on other photographs."""
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    (fewer / "face.png").unlink()
    output = tmp_path / "pairs"
    asked = ("rain", "raindrop")
    assert create_dataset.main(command(output, "--batch-size", "1", "--degradations", *asked, clean=fewer)) == 0
    assert_same(output, made, chosen=lambda row: row["degradation"] in asked and row["source_file"] != "face.png")
    assert create_dataset.main(command(tmp_path / "two", "--degradations", "rain", "--per-image", "2")) == 0
    both = rows(tmp_path / "two")
    first = {r["source_file"]: r for r in both if r["copy"] == 0}
    assert {r["source_file"]: r["seed"] for r in rows(made) if r["degradation"] == "rain"} == {
        name: row["seed"] for name, row in first.items()
    }
    assert any(r["copy"] == 1 for r in both)
    assert all(r["seed"] != first.get(r["source_file"], {}).get("seed") for r in both if r["copy"] == 1)


# ---------------------------------------------------------------------------------------------------- interruptions


def test_killed_at_random_moments(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ten SIGKILLs and resumptions leave is, to the byte, what an uninterrupted run leaves."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as here: sums over several threads round differently
    output, log = tmp_path / "pairs", tmp_path / "pairs" / ".progress" / "log.jsonl"
    options = ("--batch-size", "1", "--per-image", "3")  # enough steps for every kill to find the run at work
    asked = command(output, *options)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["training.create_dataset"])
    chance = random.Random(time.time_ns())
    kills = 0
    while kills < 10:
        before = log.stat().st_size if log.exists() else 0
        process = processes.Process(target=create_dataset.main, args=(asked,))
        process.start()
        while process.is_alive() and (not log.exists() or log.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.15)
        assert process.is_alive(), f"the run was over after {kills} kills"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert create_dataset.main(asked) == 0
    whole = tmp_path / "whole"
    assert create_dataset.main(command(whole, *options)) == 0
    assert rows(output) == rows(whole)
    assert images(output) == images(whole)
    assert not list(output.rglob("*.partial"))


def test_what_a_kill_can_leave_is_mended(made: Path, command, tmp_path: Path) -> None:
    output = tmp_path / "pairs"
    shutil.copytree(made, output)
    log, victim = output / ".progress" / "log.jsonl", rows(made)[3]
    whole = log.read_bytes()
    log.write_bytes(whole[: whole.rstrip().rfind(b"\n") + 50])  # the last line torn
    (output / "train" / victim["file_name"]).unlink()
    (output / "train" / "clean" / "left.png.123.partial").write_bytes(b"half")
    (output / "train" / "degraded" / "rain" / "orphan-0.png").write_bytes(b"no row")
    (output / "train" / "metadata.jsonl").unlink()
    assert create_dataset.main(command(output)) == 0
    assert_same(output, made)
    assert set(images(output)) == set(images(made))
    assert len({(r["source_file"], r["degradation"], r["copy"]) for r in rows(output)}) == len(rows(output))
    assert not list(output.rglob("*.partial"))


def test_a_complete_one_is_left_as_it_is(made: Path, command) -> None:
    before = {file: file.stat().st_mtime_ns for file in (made / "train").rglob("*.png")}
    assert create_dataset.main(command(made)) == 0
    assert {file: file.stat().st_mtime_ns for file in (made / "train").rglob("*.png")} == before


def test_ctrl_c_ends_after_the_running_batch(command, made: Path, tmp_path: Path, capfd) -> None:
    output = tmp_path / "pairs"

    def interrupt() -> None:
        while not (output / ".progress" / "log.jsonl").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert create_dataset.main(command(output)) == 130
    thread.join()
    assert "the same command goes on" in capfd.readouterr().err
    logged = [row for entry in AppendLog(output / ".progress" / "log.jsonl").read() for row in entry["pairs"]]
    assert 0 < len(logged) < len(rows(made))
    assert {row["file_name"] for row in logged} == {name for name in images(output) if name.startswith("degraded")}
    assert create_dataset.main(command(output)) == 0
    assert images(output) == images(made)


def test_it_can_end_after_some_time_and_go_on(command, made: Path, tmp_path: Path) -> None:
    output = tmp_path / "pairs"
    assert create_dataset.main(command(output, "--minutes", "0.0001")) == 0
    first = rows(output)
    assert 0 < len(first) < len(rows(made)) and (output / "README.md").exists(), "whole, with fewer pairs"
    spent = PairStore(output, json.loads((output / ".progress" / "settings.json").read_bytes())).seconds
    assert spent > 0
    assert create_dataset.main(command(output, "--minutes", str(spent / 60))) == 0
    assert rows(output) == first, "the time of the run before counts"
    assert create_dataset.main(command(output)) == 0
    assert_same(output, made)


def test_a_full_disk(command, tmp_path: Path, capfd) -> None:
    """A limit on the size of files stands for the end of the disk."""
    output = tmp_path / "pairs"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        code = create_dataset.main(command(output, "--degradations", "rain"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "File too large. What is complete is kept" in capfd.readouterr().err
    assert not list(output.rglob("*.partial"))
    assert create_dataset.main(command(output, "--degradations", "rain")) == 0


# -------------------------------------------------------------------------------------------------------- intensity


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_drawn_intensities_follow_the_histograms(name: str) -> None:
    drawn = [draw(0, f"photo-{i}.jpg", name, 0, 1)[0][0] for i in range(10_000)]
    bins = [[int(s.mu / MU_MAX * NUM_BINS), int(s.sigma / SIGMA_MAX * NUM_BINS)] for s in drawn]
    counts = np.zeros((NUM_BINS, NUM_BINS))
    np.add.at(counts, tuple(np.array(bins).T), 1)
    real = PRIOR.mu_histogram(name)[:, None] * PRIOR.sigma_given_mu(name)
    uniform = np.outer(*(_uniform(*of) for of in zip(PRIOR.range(name), (MU_MAX, SIGMA_MAX), strict=True)))
    wanted = real * (1 - 1 / UNIFORM_EVERY) + uniform / UNIFORM_EVERY
    assert_follows(counts, wanted)
    for axis in (0, 1):
        assert_follows(counts.sum(axis), wanted.sum(axis))


def _uniform(bounds: tuple[float, float], maximum: float) -> np.ndarray:
    """Probability of each bin when values are uniform between the bounds, which are edges of bins."""
    centres = (np.arange(NUM_BINS) + 0.5) * maximum / NUM_BINS
    inside = (centres > bounds[0]) & (centres < bounds[1])
    return inside / inside.sum()


def test_what_is_not_accepted_is_drawn_anew_or_given_up(command, tmp_path: Path, monkeypatch) -> None:
    """The tiny model's rain reaches a mu of 0.008 to 0.034 as it is asked, its haze never one of 0.5."""
    for name, accepted in (("rain", (0.015, 0.3)), ("haze", (0.5, 0.6))):
        monkeypatch.setitem(DEGRADATIONS, name, replace(DEGRADATIONS[name], accepted_mu=accepted))
    output = tmp_path / "pairs"
    asked = command(output, "--degradations", "rain", "haze")
    assert create_dataset.main(asked) == 0
    assert {row["degradation"] for row in rows(output)} == {"rain"}
    assert all(row["mu_reached"] >= 0.015 for row in rows(output))
    assert max(row["attempts"] for row in rows(output)) > 1
    for row in rows(output):
        (drawn,), seed = draw(0, row["source_file"], "rain", 0, row["attempts"])
        assert (row["mu_asked"], row["seed"]) == (pytest.approx(drawn.mu, abs=1e-6), seed)
    log = (output / ".progress" / "log.jsonl").read_bytes()
    given_up = [record for line in log.splitlines() for record in json.loads(line)["discarded"]]
    assert sum(record["degradation"] == "haze" for record in given_up) == 6
    assert all(record["attempts"] == MAX_ATTEMPTS for record in given_up)
    generated = sum(entry["attempts"] for entry in rows(output) + given_up)
    share = (generated - len(rows(output))) / generated
    assert (
        f"| **all** | {len(rows(output))} | {len(rows(output))} | {generated} | {share:.1%} | {len(given_up)} |"
        in (output / "README.md").read_text()
    )
    assert {name for name in images(output) if name.startswith("clean")} == {r["clean_file_name"] for r in rows(output)}
    assert create_dataset.main(asked) == 0  # what was given up stays so
    assert (output / ".progress" / "log.jsonl").read_bytes() == log


# ------------------------------------------------------------------------------------------------------------ input


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_only_degradations_that_the_own_data_set_lacks(command, photos: Path, tmp_path: Path, form: str, capfd) -> None:
    clean, output = tmp_path / "clean", tmp_path / "pairs"
    clean.mkdir()
    for name in ("face.png", "rocket.webp"):
        shutil.copy(photos / name, clean)
    if form == "jsonl":
        lines = [{"file_name": "face.png", "degradations": ["rain", "Low light"]}, {"file_name": "gone.png"}]
        lines += [{"file_name": "lost.png", "degradations": ["haze"]}]
        (clean / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    else:
        (clean / "metadata.csv").write_text("file_name,degradations\nface.png,rain low_light\nlost.png,haze\n")
    assert create_dataset.main(command(output, "--degradations", "rain", "low_light", "snow", clean=clean)) == 0
    log = AppendLog(output / ".progress" / "log.jsonl").read()
    samples = {(r["source_file"], r["degradation"]) for entry in log for r in entry["pairs"] + entry["discarded"]}
    assert samples == {("face.png", "snow"), *(("rocket.webp", name) for name in ("rain", "low_light", "snow"))}
    assert "lost.png: in the metadata, but not in the folder" in capfd.readouterr().err


def test_captions_lead_the_prompts(command, photos: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "captions.jsonl", tmp_path / "pairs"
    file.write_text(json.dumps({"file_name": "trips/face.jpg", "caption": "a cat"}) + "\n")
    assert create_dataset.main(command(output, "--captions", str(file), "--degradations", "haze", "rain")) == 0
    prompts = {(row["source_file"], row["prompt"]) for row in rows(output)}
    assert ("trips/face.jpg", "a cat, in hazy conditions") in prompts
    assert ("face.png", "in hazy conditions") in prompts


def test_without_the_captioning_model_nothing_is_made(command, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert create_dataset.main(command(tmp_path / "pairs", "--captions", "blip2")) == 2
    assert "captioning model" in capfd.readouterr().err
    assert not images(tmp_path / "pairs")


def test_bad_files_are_listed_and_skipped(command, photos: Path, tmp_path: Path, capfd) -> None:
    clean, output = tmp_path / "clean", tmp_path / "pairs"
    shutil.copytree(photos, clean)
    (clean / "notes.txt").write_text("no photograph")
    (clean / "empty.png").touch()
    Image.new("RGB", (20, 20)).save(clean / "tiny.png")
    Image.new("RGB", (2000, 40)).save(clean / "narrow.png")
    (clean / "torn.png").write_bytes((photos / "tall.png").read_bytes()[:4000])
    assert create_dataset.main(command(output, "--degradations", "rain", clean=clean)) == 0
    err = capfd.readouterr().err
    assert "5 files were skipped:" in err
    for words in (
        "notes.txt: not an image file",
        "empty.png: empty.png is not an image",
        "tiny.png: The image is 20 x 20 pixels",
        "narrow.png: The image is 2000 x 40 pixels, too long and narrow",
        "torn.png: torn.png is damaged or incomplete",
    ):
        assert words in err
    assert {row["source_file"] for row in rows(output)} <= {
        f.relative_to(photos).as_posix() for f in photos.rglob("*.*")
    }


def test_names_of_source_files_never_collide() -> None:
    names = ["a/b.jpg", "a_b.jpg", "a/b.png", "b.jpg", "x/b.jpg", "ü/b.jpg", "a.b.jpg", "A/b.jpg", "b" * 200 + ".jpg"]
    made = [image_name(name) for name in names]
    assert len({name.lower() for name in made}) == len(names)
    assert all(name.isascii() and "." not in name and "/" not in name and len(name) < 80 for name in made)


def test_mistakes_get_a_sentence(command, made: Path, photos: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "bad.jsonl").write_text("{")
    new = tmp_path / "new"
    for arguments, sentence in (
        (command(new, clean=tmp_path / "nowhere"), "There is no folder"),
        (command(new, clean=tmp_path / "empty"), "There is no photograph to work on in"),
        (command(photos / "pairs"), "outside the folder of clean photographs"),
        (command(made, "--seed", "7"), "other settings: --seed 0 instead of 7"),
        (command(made, "--per-image", "2"), "--per-image 1 instead of 2"),
        (command(tmp_path / "other"), "is not empty"),
        (command(new, "--degradations", "fog"), "Choose one of: haze"),
        (command(new, "--degradations", "rain+fog"), "Choose one of: haze"),
        (command(new, "--degradations", "rain+Rain"), "Rain is given twice"),
        (command(new, "--degradations", "rain+haze+snow+raindrop"), "A mixture has 1 to 3 degradations, not 4"),
        (command(new, "--seed", "-1"), "--seed must be from 0"),
        (command(new, "--batch-size", "0"), "--batch-size must be at least 1"),
        (command(new, "--steps", "1000"), "--steps must be from 1 to 200"),
        (command(new, "--resolution", "3"), "The resolution must be at least"),
        (command(new, "--captions", str(tmp_path / "none.jsonl")), "There is no file of captions"),
        (command(new, "--captions", str(tmp_path / "bad.jsonl")), "line 1 is not a JSON object"),
        (command(new, "--model", "/nowhere"), "No generator"),
        (command(new, "--push-to-hub", "not a name"), "is no name of a repository"),
    ):
        assert create_dataset.main(arguments) == 2
        assert sentence in capfd.readouterr().err
        shutil.rmtree(new, ignore_errors=True)


def test_a_hub_that_cannot_be_reached_costs_nothing_but_the_upload(command, made: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    before = images(made)
    assert create_dataset.main(command(made, "--push-to-hub", "someone/pairs")) == 2
    assert f"complete in {made}, but the Hub did not take it" in capfd.readouterr().err
    assert images(made) == before


# ----------------------------------------------------------------------------------------------------------- shards


def test_shards_hold_the_same_pairs(command, made: Path, tmp_path: Path, capfd) -> None:
    output = tmp_path / "pairs"
    asked = command(output, "--format", "webdataset", "--degradations", "rain", "snow")
    assert create_dataset.main(asked) == 0
    wanted = [row for row in rows(made) if row["degradation"] in ("rain", "snow")]
    shards = [str(file) for file in sorted((output / "train").iterdir())]
    assert [Path(file).name for file in shards] == ["pairs-000000.tar"]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(samples) == len(wanted)
    for sample, row in zip(samples, wanted, strict=True):
        np.testing.assert_array_equal(sample["degraded.png"], pixels(made / "train" / row["file_name"]))
        np.testing.assert_array_equal(sample["clean.png"], pixels(made / "train" / row["clean_file_name"]))
        assert sample["json"] == {name: value for name, value in row.items() if not name.endswith("file_name")}
    loaded = datasets.load_dataset("webdataset", data_dir=str(output), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(loaded) == len(wanted)
    before = Path(shards[0]).stat().st_mtime_ns
    assert create_dataset.main(asked) == 0
    assert f"{len(wanted)} pairs" in capfd.readouterr().out
    assert Path(shards[0]).stat().st_mtime_ns == before


# --------------------------------------------------------------------------------------------------------- mixtures


@pytest.fixture(scope="module")
def some_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of the photographs; one of them has the mixture already."""
    folder = tmp_path_factory.mktemp("some")
    for name in ("face.png", "rocket.webp", "tall.png"):
        shutil.copy(photos / name, folder)
    (folder / "metadata.jsonl").write_text('{"file_name": "rocket.webp", "degradations": ["Rain+haze"]}\n')
    return folder


@pytest.fixture(scope="module")
def mixed(command, some_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mixed") / "pairs"
    assert create_dataset.main(command(output, "--degradations", "rain+haze", "snow", clean=some_photos)) == 0
    return output


def test_a_mixture_says_what_each_part_and_the_whole_have(mixed: Path, made: Path) -> None:
    kinds = [(row["source_file"], row["degradation"]) for row in rows(mixed)]
    wanted = [("face.png", "snow"), ("face.png", "haze+rain"), ("rocket.webp", "snow"), ("tall.png", "snow")]
    assert kinds == [*wanted, ("tall.png", "haze+rain")]
    assert len({frozenset(row) for row in rows(mixed)}) == 1, "one set of columns"
    for row in rows(mixed):
        parts = row["parts"]
        degraded, clean = (pixels(mixed / "train" / row[name]) / 255 for name in ("file_name", "clean_file_name"))
        difference = np.abs(degraded - clean)
        whole = (difference.mean(), difference.std())
        assert (row["mu_reached"], row["sigma_reached"]) == pytest.approx(whole, abs=1e-5)
        assert "+".join(part["degradation"] for part in parts) == row["degradation"]
        assert all(0.005 < part["mu_reached"] < 0.3 and part["mu_asked"] > 0 for part in parts)
        if row["degradation"] == "haze+rain":
            assert row["mu_asked"] is row["sigma_asked"] is row["source_dataset"] is None
            assert row["file_name"].startswith("degraded/haze+rain/")
            assert row["prompt"] == "in hazy conditions, in rainy conditions"
            assert [part["prompt"] for part in parts] == row["prompt"].split(", ")
            drawn, seed = draw(0, row["source_file"], "haze+rain", 0, row["attempts"])
            assert [part["mu_asked"] for part in parts] == pytest.approx([part.mu for part in drawn], abs=1e-6)
            assert row["seed"] == seed
    alone = [row for row in rows(made) if row["degradation"] == "snow" and row["source_file"] in dict(wanted)]
    assert [{**row, "parts": None} for row in rows(mixed) if row["degradation"] == "snow"] == [
        {**row, "parts": None} for row in alone
    ], "a single degradation is what it is without mixtures beside it"


def test_a_row_is_enough_to_generate_its_mixture_again(mixed: Path, some_photos: Path, tiny_pipeline_folder) -> None:
    import torch

    from gendeg import degrade_mixture, load_pipeline

    row = rows(mixed)[-1]
    output = degrade_mixture(
        load_pipeline(tiny_pipeline_folder),
        Image.open(some_photos / row["source_file"])
        .convert("RGB")
        .resize(Image.open(mixed / "train" / row["file_name"]).size, Image.Resampling.LANCZOS),
        row["degradation"],
        mu=[part["mu_asked"] for part in row["parts"]],
        sigma=[part["sigma_asked"] for part in row["parts"]],
        generator=torch.Generator().manual_seed(row["seed"]),
    )
    assert np.abs(pixels(mixed / "train" / row["file_name"]) - np.asarray(output.images[0]).astype(int)).max() <= 1
    reached = [part.mu[0] for part in output.parts]
    assert [part["mu_reached"] for part in row["parts"]] == pytest.approx(reached, abs=0.002)


def test_mixtures_go_on_however_they_are_spelled(command, mixed: Path, some_photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "pairs"
    asked = ("--degradations", "Snow", "haze+RAIN")
    assert create_dataset.main(command(output, *asked, "--minutes", "0.0001", clean=some_photos)) == 0
    assert 0 < len(rows(output)) < len(rows(mixed))
    assert create_dataset.main(command(output, "--degradations", "rain+haze", "snow", clean=some_photos)) == 0
    assert rows(output) == rows(mixed) and images(output) == images(mixed)


def test_mixtures_are_read_as_all_pairs_are(command, mixed: Path, some_photos: Path, tmp_path: Path) -> None:
    card = (mixed / "README.md").read_text()
    for line in (
        "| Haze and rain | 2 | 2 |",
        "| **all** | 5 | 3 |",
        "| Rain in haze+rain | sigma |",
        "| parts | of each",
    ):
        assert line in card
    assert PairFolders([mixed]).rows == rows(mixed)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(mixed), cache_dir=str(tmp_path))["train"]
    assert [row["degradation"] for row in loaded] == [row["degradation"] for row in rows(mixed)]
    assert loaded[1]["parts"][1]["mu_asked"] == rows(mixed)[1]["parts"][1]["mu_asked"]
    output = tmp_path / "shards"
    asked = ("--format", "webdataset", "--degradations", "rain+haze", "snow")
    assert create_dataset.main(command(output, *asked, clean=some_photos)) == 0
    packed = datasets.load_dataset("webdataset", data_dir=str(output), cache_dir=str(tmp_path / "cache"))["train"]
    assert [row["json"]["degradation"] for row in packed] == [row["degradation"] for row in rows(mixed)]


def test_a_mixture_is_discarded_if_one_of_its_parts_is(command, some_photos: Path, tmp_path: Path, monkeypatch) -> None:
    """The whole, and rain, would be accepted."""
    monkeypatch.setitem(DEGRADATIONS, "haze", replace(DEGRADATIONS["haze"], accepted_mu=(0.5, 0.6)))
    output = tmp_path / "pairs"
    assert create_dataset.main(command(output, "--degradations", "rain+haze", "rain", clean=some_photos)) == 0
    assert {row["degradation"] for row in rows(output)} == {"rain"}
    assert "| Haze and rain | 0 | 0 | 8 | 100.0% | 2 |" in (output / "README.md").read_text()
