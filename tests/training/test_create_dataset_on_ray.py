"""Ray makes the same data set as one process does."""

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

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
    folders = {}
    for engine, options in (("local", []), ("ray", ["--workers", "2"])):
        folders[engine] = tmp_path / engine / "train"
        assert create_dataset.main([*common, "--output", str(tmp_path / engine), "--engine", engine, *options]) == 0
    rows = {
        engine: [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        for engine, folder in folders.items()
    }
    assert len(rows["ray"]) == len(rows["local"]) > 0
    for row, wanted in zip(rows["ray"], rows["local"], strict=True):
        for name, value in wanted.items():
            assert row[name] == (pytest.approx(value, abs=1e-4) if name.endswith("_reached") else value)
        for name in ("file_name", "clean_file_name"):
            ours, theirs = (np.asarray(Image.open(folders[e] / row[name])).astype(int) for e in ("ray", "local"))
            assert np.abs(ours - theirs).max() <= 1
    (clean / "torn.png").unlink()  # what could not be read is tried again
    files = {file: file.stat().st_mtime_ns for file in folders["ray"].rglob("*.png")}
    assert create_dataset.main([*common, "--output", str(tmp_path / "ray"), "--engine", "ray"]) == 0  # nothing is left
    assert {file: file.stat().st_mtime_ns for file in folders["ray"].rglob("*.png")} == files


def test_an_address_that_is_none(tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    (tmp_path / "clean").mkdir()
    Image.fromarray(skimage.data.astronaut()).resize((64, 64)).save(tmp_path / "clean" / "face.png")
    options = ["--clean", str(tmp_path / "clean"), "--output", str(tmp_path / "out"), "--engine", "ray"]
    assert create_dataset.main([*options, "--model", str(tiny_pipeline_folder)]) == 2
    assert "Ray cannot be reached at nonsense: Invalid address format" in capsys.readouterr().err
