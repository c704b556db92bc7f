"""One command makes every checkpoint: it goes on where it was stopped, and what it makes can be loaded."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gendeg import load_pipeline
from gendeg.estimator import load_estimator
from restorers import load_restorer
from runtime.errors import UserError
from tests.in_this_process import InThisProcess
from training.pair_folders import PairFolders, is_held_back
from training.photos import Photos
from training.reproduce import __main__ as command
from training.reproduce.pack import pack
from training.reproduce.run import run_process

RESTORERS = ("nafnet", "promptir", "swin")


def _arguments(output: Path, **changes) -> Namespace:
    settings = {"photos": [], "pairs": [], "test": None, "minutes": None, "only": None, "recipes": "smoke", "terms": ""}
    settings["processes"] = 1
    return Namespace(output=output, **settings | changes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        photo = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(photo).resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, photos):
    """Real pairs, so to speak: of a scene to learn from and of one that is held back."""
    folder = tmp_path_factory.mktemp("pairs")
    scenes = [{"dataset": "Foggy", "scene": str(number), "degradation": "haze"} for number in range(20)]
    chosen = [next(row for row in scenes if is_held_back(row) == held_back) for held_back in (False, True)]
    rows = []
    for number, row in enumerate(chosen):
        clean = Image.open(photos / f"{number}.png")
        clean.save(folder / f"clean-{number}.png")
        clean.point(lambda value: value // 2 + 100).save(folder / f"{number}.png")
        rows.append(row | {"file_name": f"{number}.png", "clean_file_name": f"clean-{number}.png"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, photos, pairs):
    """All of it, by smoke recipes; stopped once, in the generator's first stage."""
    test = tmp_path_factory.mktemp("test")
    shutil.copy(photos / "0.png", test)
    args = _arguments(
        tmp_path_factory.mktemp("made"), photos=[photos], pairs=[pairs], test=test, terms="Do as you like"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop._asked_anywhere", lambda *_: (args.output / "generator").exists())
        assert command.reproduce(args, InThisProcess()) == 1
    stopped = json.loads((args.output / "reproduce.json").read_text())
    again = InThisProcess()
    assert command.reproduce(args, again) == 0
    return args, stopped, again.modules


def test_an_interrupted_stage_goes_on_and_what_is_done_is_left_alone(made, capsys):
    args, stopped, again = made
    assert stopped["codec"]["done"] and not stopped["generator"]["done"] and "structure" not in stopped
    assert "training.codec" not in again and again[0] == "training.generator"
    records = json.loads((args.output / "reproduce.json").read_text())
    assert records["generator"]["started"] == stopped["generator"]["started"]
    assert records["generator"]["minutes"] > stopped["generator"]["minutes"]
    third = InThisProcess()
    assert command.reproduce(args, third) == 0
    assert third.modules == [], "a second call leaves out everything"
    assert capsys.readouterr().out.count("done already") == len(records) == 10


def test_what_it_makes_can_be_used(made):
    checkpoints, photo = made[0].output / "checkpoints", np.full((64, 80, 3), 128, np.uint8)
    assert load_estimator(checkpoints / "estimator").estimate(Image.fromarray(photo)).probabilities
    pipeline = load_pipeline(checkpoints / "compact", device="cpu")
    assert pipeline.structure_correction is not None
    assert pipeline(photo, "haze", mu=0.1, sigma=0.1).images[0].size == (80, 64)
    for name in RESTORERS:
        restorer = load_restorer(checkpoints / "restorers" / name, device="cpu")
        assert restorer.network.architecture == name and restorer(photo).shape == photo.shape


def test_the_cards_say_how_it_was_made(made):
    output = made[0].output
    records = json.loads((output / "reproduce.json").read_text())
    facts = records["generator"]
    assert facts["recipe"] == "generator-smoke.yaml" and [s["steps"] for s in facts["stages"]] == [20, 10]
    assert facts["stages"][0]["samples"] == 160 and facts["stages"][0]["last"]["loss"] > 0
    assert records["dataset"]["pairs"] > 0
    folders = [output / "checkpoints" / "compact", *(output / "checkpoints" / "restorers" / n for n in RESTORERS)]
    for folder, stage in zip(folders, ("generator", *RESTORERS), strict=True):
        card = (folder / "README.md").read_text()
        recipe = records[stage]["recipe"]
        assert f"| {stage} | `training/recipes/{recipe}` | {records[stage]['minutes']:.1f} |" in card
        assert "Do as you like" in card and "(2 photographs)" in card and "| motion blur |" in card
        assert "(2 pairs)" in card and "| Foggy | 1 |" in card
        assert (folder / "reproduce.json").read_text() == (output / "reproduce.json").read_text()
    assert str(output.parent) not in (output / "reproduce.json").read_text(), "no folders of this machine"
    tables = json.loads((output / "restorer-tables" / "restorers.json").read_text())
    assert "nafnet_psnr" in tables["haze"] and "swin psnr" in (output / "tables.md").read_text()


def _minutes(stages) -> dict[str, float]:
    commands = {stage.name: stage.commands for stage in stages}
    return {n: sum(float(c[c.index("--minutes") + 1]) for c in commands[n]) for n in command.SHARES}


def test_the_minutes_are_shared(tmp_path, photos):
    everything = _minutes(command.stages(_arguments(tmp_path, photos=[photos, photos], minutes=200.0)))
    for name, share in command.SHARES.items():
        assert everything[name] == pytest.approx(200 * share / sum(command.SHARES.values()), abs=0.02), name
    alone = _minutes(command.stages(_arguments(tmp_path, photos=[photos], minutes=9.0, only=["generator"])))
    assert alone["generator"] == 9


def test_a_stage_says_what_it_lacks(tmp_path, photos):
    with pytest.raises(UserError, match=r"generator needs .*codec"):
        command.reproduce(_arguments(tmp_path, photos=[photos], only=["generator"]), InThisProcess())


def test_two_processes_train_together(tmp_path, photos):
    args = _arguments(tmp_path, photos=[photos], only=["codec"], processes=2)
    assert command.reproduce(args, run_process) == 0
    assert (tmp_path / "codec" / "checkpoint" / "random_states_1.pkl").exists(), "there was no second process"
    record = json.loads((tmp_path / "reproduce.json").read_text())["codec"]
    assert "--num_processes 2" in record["commands"][0]
    assert record["stages"][0]["samples"] == 40 * 8, "both together have the recipe's batch"


def test_a_process_is_logged_and_told_to_end(tmp_path):
    program = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit('saved'))\nprint('ready')\nsignal.pause()"
    log, kept = tmp_path / "log", []

    def end() -> None:
        while not (log.exists() and b"ready" in log.read_bytes()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    assert run_process([sys.executable, "-c", program], log, lambda: kept.append(1)) == 1
    thread.join()
    assert log.read_bytes().splitlines() == [b"ready", b"saved"] and kept


def test_a_pack_is_as_large_as_it_may_be_and_whole(tmp_path, photos):
    pairs = tmp_path / "lot"
    for side in ("clean", "degraded"):
        (pairs / side).mkdir(parents=True)
        for number in range(9):
            Image.effect_noise((40, 30), 50).convert("RGB").save(pairs / side / f"{number}.png")
    size = sum(f.stat().st_size for f in photos.iterdir()) + 5 * (pairs / "clean" / "0.png").stat().st_size
    pack([photos], [pairs], tmp_path / "pack", size)
    assert len(Photos(tmp_path / "pack" / "photos").files) == 2
    packed = PairFolders([tmp_path / "pack" / "pairs" / "lot"])
    assert 1 <= len(packed.files) <= 3 and packed.rows[0]["file_name"].startswith("degraded/")
    assert sum(f.stat().st_size for f in (tmp_path / "pack").rglob("*.png")) <= size
