import csv
import multiprocessing
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from runtime.errors import UserError
from runtime.files import UNFINISHED
from tests.runtime.test_files import full_disk
from training.loop import LoopSettings, train, unless_a_later_stage_began


class _Line(Dataset):
    """Vectors y = 3 x; sample i depends on i alone."""

    def __getitem__(self, index):
        x = torch.randn(6, generator=torch.Generator().manual_seed(index))
        return {"x": x, "y": 3 * x}


def _loss(model, batch):
    error = (model(batch["x"]) - batch["y"]).square().mean()
    return error, {"error": error}


def _run(folder, steps, stop_at=None, began=None, **changed):
    torch.manual_seed(0)
    model, saved, seen = torch.nn.Linear(6, 6), [], 0

    def loss(m, batch):
        nonlocal seen
        seen += 1
        if seen == stop_at:
            raise KeyboardInterrupt
        return _loss(m, batch)

    settings = {"batch_size": 8, "learning_rate": 0.05, "warmup_steps": 2, "ema_decay": 0.9, "log_every": 5}
    settings = LoopSettings(steps=steps, checkpoint_every=10, **(settings | changed))
    train(model, loss, _Line(), settings, folder, lambda m: saved.append(_factor(m)), began=began)
    return _factor(model), saved[-1]


def _factor(model):
    return model.weight.diag().mean().item()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_learns_and_saves_the_average(tmp_path, optimizer):
    held, saved = _run(tmp_path / "averaged", 300, optimizer=optimizer)
    _, last = _run(tmp_path / "last", 300, optimizer=optimizer, ema_decay=0.0)
    assert last == pytest.approx(3, abs=0.5)
    assert held == saved != last
    assert saved == pytest.approx(last, abs=0.2)


def test_learns_in_bfloat16_too(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.multiplies_bf16", lambda: True)
    weight, _ = _run(tmp_path, 300, bf16_on_cpu=True)
    assert weight == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, optimizer):
    whole = _run(tmp_path / "whole", 40, optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", 40, optimizer=optimizer, stop_at=27)
    assert _run(tmp_path / "parts", 40, optimizer=optimizer) == pytest.approx(whole, abs=1e-6)
    logs = [list(csv.DictReader((tmp_path / name / "log.csv").open())) for name in ("whole", "parts")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for ours, theirs in zip(*logs, strict=True):
        assert float(ours["error"]) == pytest.approx(float(theirs["error"]), rel=1e-3)


def test_a_stop_while_saving_loses_nothing(tmp_path):
    _run(tmp_path, 20)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.previous")
    (tmp_path / "checkpoint.partial").mkdir()
    _run(tmp_path, 30)
    steps = [int(row["step"]) for row in csv.DictReader((tmp_path / "log.csv").open())]
    assert steps == [5, 10, 15, 20, 25, 30]


def _half(folder):
    """A run of 20 steps that ends after its checkpoint at 10."""
    with pytest.raises(KeyboardInterrupt):
        _run(folder, 20, stop_at=13)


def _steps(folder):
    return [int(row["step"]) for row in csv.DictReader((folder / "log.csv").open())]


@pytest.mark.parametrize("left", [0, 100, -1, None])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys, name, left):
    """For the one before if there is one, else for a new start."""
    expected = _run(tmp_path / "whole", 20)
    for previous in (True, False):
        folder = tmp_path / f"{previous}"
        _half(folder)
        if previous:
            shutil.copytree(folder / "checkpoint", folder / "checkpoint.previous")
        file = folder / "checkpoint" / name
        file.unlink() if left is None else file.write_bytes(file.read_bytes()[:left])
        assert _run(folder, 20) == pytest.approx(expected, abs=1e-6)
        told = "" if previous else f"{folder / 'checkpoint'} is damaged: this training starts anew.\n"
        assert capsys.readouterr().out == told
        assert _steps(folder) == [5, 10, 15, 20]


def test_a_checkpoint_of_another_model_is_not_overwritten(tmp_path):
    _run(tmp_path, 10)
    before = {file.name: file.read_bytes() for file in (tmp_path / "checkpoint").iterdir()}
    settings = LoopSettings(steps=10, batch_size=4, learning_rate=0.1)
    with pytest.raises(UserError, match="of other sizes"):
        train(torch.nn.Linear(7, 7), _loss, _Line(), settings, tmp_path, lambda m: None)
    assert {file.name: file.read_bytes() for file in (tmp_path / "checkpoint").iterdir()} == before


@pytest.mark.parametrize("damage", ["\n", "7,0.1\n", "13,0.1,0.2", "\x00\x00\x00", "x,1,1,1,1\n"])
def test_damaged_lines_of_the_log_are_dropped(tmp_path, capsys, damage):
    _run(tmp_path, 10)
    log = tmp_path / "log.csv"
    log.write_text(log.read_text() + damage)
    _run(tmp_path, 20)
    assert _steps(tmp_path) == [5, 10, 15, 20]
    assert capsys.readouterr().out == f"{log} is damaged: it is left with 2 whole rows.\n"


@pytest.mark.parametrize("content", ["", "\n", "step,lo", "step,lo\n5,0.1,0.2,0.3,0.4\n"])
def test_a_log_without_its_header_is_begun_anew(tmp_path, capsys, content):
    _run(tmp_path, 10)
    (tmp_path / "log.csv").write_text(content)
    _run(tmp_path, 20)
    assert _steps(tmp_path) == [15, 20]


def test_a_full_disk_leaves_the_last_whole_checkpoint(tmp_path, capsys):
    """Whichever file is the one that does not fit. (capsys: what goes to a file of pytest has no limit.)"""
    expected = _run(tmp_path / "whole", 20)
    full = []
    for size in (10, "a part of a line", 400, 2000):
        folder = tmp_path / str(size)
        _half(folder)
        size = (folder / "log.csv").stat().st_size + 20 if isinstance(size, str) else size
        with full_disk(size), pytest.raises(OSError) as told:
            _run(folder, 20)
        full.append(Path(told.value.filename).relative_to(folder).as_posix())
        assert not (folder / "checkpoint.partial").exists()
        assert _run(folder, 20) == pytest.approx(expected, abs=1e-6)
        assert _steps(folder) == [5, 10, 15, 20]
    assert full == ["log.csv", "log.csv", "checkpoint.partial", "checkpoint.partial"]


def test_a_kill_leaves_nothing_damaged(tmp_path, capsys):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["training.loop"])
    chance, log = random.Random(time.time_ns()), tmp_path / "log.csv"
    for _ in range(3):
        before = log.stat().st_size if log.exists() else 0
        process = processes.Process(target=_run, args=(tmp_path, 100_000))
        process.start()
        while process.is_alive() and (not log.exists() or log.stat().st_size <= before):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.3)
        assert process.is_alive()
        process.kill()
        process.join()
    _run(tmp_path, _steps(tmp_path)[-1] + 10)
    assert _steps(tmp_path) == [*range(5, _steps(tmp_path)[-1] + 1, 5)]
    assert not capsys.readouterr().out
    assert not list(tmp_path.rglob(UNFINISHED)), "the next checkpoint takes away what a kill left"


def test_a_finished_stage_does_not_replace_what_a_later_one_saved(tmp_path):
    saved = []
    for number in (1, 2, 10):
        unless_a_later_stage_began(saved.append, tmp_path, number)(number)
        (tmp_path / f"stage-{number}").mkdir()
    assert saved == [1, 2, 10]
    for number in (1, 2, 10):
        unless_a_later_stage_began(saved.append, tmp_path, number)(number)
    assert saved == [1, 2, 10, 10]


def test_preparation_counts_among_the_minutes_but_the_learning_rate_begins_high(tmp_path):
    """Where data take most of a budget, what is left is a whole training, and not the end of one."""
    started = time.monotonic()
    _run(tmp_path, 1, minutes=0.1, began=started - 4)
    assert 1 <= time.monotonic() - started < 4
    rates = [float(row["learning_rate"]) for row in csv.DictReader((tmp_path / "log.csv").open())]
    assert rates[0] > 0.8 * 0.05 and rates[-1] < 0.2 * 0.05


def test_a_budget_of_minutes_is_kept_and_the_learning_rate_fitted_to_it(tmp_path):
    started = time.monotonic()
    weight, _ = _run(tmp_path, 1, minutes=0.05)
    assert 3 <= time.monotonic() - started < 6
    assert weight == pytest.approx(3, abs=0.5)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert len(rows) > 2 and float(rows[-1]["learning_rate"]) == pytest.approx(0.05 / 20, rel=0.2)
    started = time.monotonic()
    _run(tmp_path, 1, minutes=0.05)
    assert time.monotonic() - started < 1, "it is over"
    _run(tmp_path, 1, minutes=0.07)
    more = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert len(more) > len(rows) and more[: len(rows)] == rows, "more minutes go on"


def test_batches_may_be_made_at_once(tmp_path):
    class Lines(_Line):
        def __getitems__(self, indices):
            return default_collate([self[i] for i in indices])

    one_by_one = _run(tmp_path / "one", 20)
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 6)
    settings = LoopSettings(20, 8, 0.05, warmup_steps=2, ema_decay=0.9)
    train(model, _loss, Lines(), settings, tmp_path / "batches", lambda m: None)
    assert _factor(model) == pytest.approx(one_by_one[0], abs=1e-6)


def test_accumulation_changes_nothing_but_memory(tmp_path):
    whole = _run(tmp_path / "whole", 20)
    parts = _run(tmp_path / "parts", 20, gradient_accumulation=4)
    assert parts == pytest.approx(whole, abs=1e-4)


def test_indivisible_batches_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not divide"):
        _run(tmp_path, 20, gradient_accumulation=3)


def test_an_unknown_optimizer_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="adamw and muon"):
        _run(tmp_path, 20, optimizer="adam")
