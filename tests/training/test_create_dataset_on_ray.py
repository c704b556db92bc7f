"""Ray makes the same data set as one process does."""

from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.training.test_create_dataset import assert_same
from training import create_dataset

pytest.importorskip("ray", reason="Ray is not installed (requirements-scale.txt)")


def test_two_actors_make_what_one_process_makes(tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # at Ray's own 15, a busy machine would leave them nothing
    clean = tmp_path / "clean"
    clean.mkdir()
    for i, photo in enumerate(("astronaut", "chelsea", "coffee", "rocket")):
        Image.fromarray(getattr(skimage.data, photo)()).resize((80, 64)).save(clean / f"{i}.png")
    (clean / "torn.png").write_bytes((clean / "0.png").read_bytes()[:4000])
    common = ["--clean", str(clean), "--model", str(tiny_pipeline_folder), "--batch-size", "2"]
    for engine, options in (("local", []), ("ray", ["--workers", "2"])):
        assert create_dataset.main([*common, "--output", str(tmp_path / engine), "--engine", engine, *options]) == 0
    assert_same(tmp_path / "ray", tmp_path / "local")
    (clean / "torn.png").unlink()  # what could not be read is tried again
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "ray" / "train").rglob("*.png")}
    assert create_dataset.main([*common, "--output", str(tmp_path / "ray"), "--engine", "ray"]) == 0  # nothing is left
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "ray" / "train").rglob("*.png")} == files


def test_an_address_that_is_none(tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    (tmp_path / "clean").mkdir()
    Image.fromarray(skimage.data.astronaut()).resize((64, 64)).save(tmp_path / "clean" / "face.png")
    options = ["--clean", str(tmp_path / "clean"), "--output", str(tmp_path / "out"), "--engine", "ray"]
    assert create_dataset.main([*options, "--model", str(tiny_pipeline_folder)]) == 2
    assert "Ray cannot be reached at nonsense: Invalid address format" in capsys.readouterr().err
