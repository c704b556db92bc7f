"""Folders of pairs: which belong together, and that whatever is wrong with them is said at once, before training."""

import json

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UserError
from runtime.images import open_image
from training.pair_folders import PairFolders, degradations_of


def _image(seed, size=(40, 50)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _write(path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_image(seed, **options)).save(path)


@pytest.fixture(params=["metadata", "degraded", "input"])
def folder(request, tmp_path):
    """Three pairs; the clean images are 0, 1, 2, the degraded ones 10, 11, 12."""
    for i in range(3):
        if request.param == "metadata":
            _write(tmp_path / "train" / "rain" / f"{i}.png", 10 + i)
            _write(tmp_path / "train" / "clean" / f"{i}.png", i)
            row = {"file_name": f"rain/{i}.png", "clean_file_name": f"clean/{i}.png", "mu": 0.1}
            with (tmp_path / "train" / "metadata.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        else:
            other = {"degraded": "clean", "input": "target"}[request.param]
            _write(tmp_path / request.param / f"{i}.png", 10 + i)
            _write(tmp_path / other / f"{i}.png", i)
    return tmp_path


def test_pairs_of_a_folder_belong_together(folder):
    source = PairFolders([folder])
    assert len(source.files) == 3
    seen = set()
    for files in source.files:
        clean, degraded = (np.asarray(open_image(file)) for file in files)
        number = next(i for i in range(3) if np.array_equal(clean, _image(i)))
        assert np.array_equal(degraded, _image(10 + number))
        seen.add(number)
    assert seen == {0, 1, 2}


def test_a_folder_without_pairs_is_refused(tmp_path):
    _write(tmp_path / "degraded" / "a.png", 0)
    _write(tmp_path / "clean" / "b.png", 1)
    with pytest.raises(UserError, match="No pairs in"):
        PairFolders([tmp_path])


def _rows(folder, *lines):
    (folder / "metadata.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def _row(**changed):
    return json.dumps({"file_name": "a.png", "clean_file_name": "b.png"} | changed).encode()


@pytest.fixture
def two(tmp_path):
    """A folder of two images of one size, and others that are no pair to them."""
    folder = tmp_path / "pairs"
    for seed, name in enumerate(("a.png", "b.png", "../outside.png")):
        _write(folder / name, seed)
    _write(folder / "small.png", 3, size=(30, 30))
    (folder / "empty.png").touch()
    return folder


def test_byte_order_mark_blank_lines_and_separators_in_strings_are_no_faults(two):
    row = json.dumps({"file_name": "a.png", "clean_file_name": "b.png", "caption": "one\u2028two"}, ensure_ascii=False)
    _rows(two, b"\xef\xbb\xbf" + row.encode(), b"", b"  ", _row(degradation="low-light"))
    pairs = PairFolders([two])
    assert pairs.files == [(two / "b.png", two / "a.png")] * 2
    assert [row.get("caption") for row in pairs.rows] == ["one\u2028two", None]


def test_a_mixture_is_what_its_parts_are(two):
    _rows(two, _row(degradation="Rain+haze"), _row(degradation="snow"), _row())
    assert [degradations_of(row) for row in PairFolders([two]).rows] == [["rain", "haze"], ["snow"], []]


FAULTS = {
    b"{": "is not a JSON object",
    b"[1]": "is not a JSON object",
    b"\xff{}": "is not a JSON object",
    b"[" * 100_000: "is not a JSON object",
    _row(file_name=7): "file_name must be the name of a file, not 7",
    _row(clean_file_name=None): "clean_file_name must be the name of a file, not None",
    _row(file_name=""): "file_name must be the name of a file, not ''",
    _row(file_name="../outside.png"): "file_name leads out of",
    _row(file_name="/etc/hostname"): "file_name leads out of",
    _row(file_name="nowhere.png"): "There is no file",
    _row(file_name="a" * 300): "File name too long",
    _row(file_name="a\0b.png"): "There is no file",
    _row(file_name="small.png"): "differ in size: 50 x 40 and 30 x 30 pixels",
    _row(file_name="empty.png"): "empty.png is not an image",
    _row(file_name="metadata.jsonl"): "metadata.jsonl is not an image",
    _row(degradation="fog"): "Unknown degradation 'fog'",
    _row(degradation=3): "Unknown degradation 3",
    _row(degradation="rain+fog"): "Unknown degradation 'fog'",
    _row(degradation="rain+rain"): "Rain is given twice",
}


@pytest.mark.parametrize("line", FAULTS, ids=FAULTS.values())
def test_a_fault_is_said_with_its_line(two, line):
    _rows(two, _row(), line)
    with pytest.raises(UserError) as told:
        PairFolders([two])
    (fault,) = str(told.value).splitlines()[1:]
    assert "metadata.jsonl, line 2" in fault and FAULTS[line] in fault


def test_all_faults_of_all_folders_are_said_at_once(two, tmp_path):
    _rows(two, *[b"{"] * 12, *FAULTS, _row())
    for name, size in (("degraded", (40, 50)), ("clean", (41, 50))):
        _write(tmp_path / "other" / name / "x.png", 0, size=size)
    with pytest.raises(UserError) as told:
        PairFolders([two, tmp_path / "other"])
    lines = str(told.value).splitlines()[1:]
    assert lines[20:] == [f"  and {12 + len(FAULTS) + 1 - 20} more"]
    assert "metadata.jsonl, line 1 " in lines[0]
    _rows(two, _row())
    with pytest.raises(UserError, match=r"other/degraded/x\.png: .*differ in size") as told:
        PairFolders([two, tmp_path / "other"])


def test_images_are_compared_upright_and_by_their_headers_alone(tmp_path):
    for name in ("degraded", "clean"):
        (tmp_path / name).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_image(0, size=(400, 500))).save(tmp_path / "degraded" / "x.jpg", exif=exif)
    Image.fromarray(_image(1, size=(500, 400))).save(tmp_path / "clean" / "x.jpg")
    assert len(PairFolders([tmp_path]).files) == 1
    for name in ("degraded", "clean"):
        file = tmp_path / name / "x.jpg"
        file.write_bytes(file.read_bytes()[:2000])
    assert len(PairFolders([tmp_path]).files) == 1


def test_scenes_are_either_learned_from_or_held_back(tmp_path):
    rows = [{"dataset": d, "scene": str(n)} for d, count in (("small", 20), ("large", 100)) for n in range(count)]
    for part, kept in (("all", rows), ("some", rows[::3])):
        for i, row in enumerate([*kept, *kept]):
            _write(tmp_path / part / f"{i}.png", 0)
            with (tmp_path / part / "metadata.jsonl").open("a") as file:
                file.write(json.dumps(row | {"file_name": f"{i}.png", "clean_file_name": f"{i}.png"}) + "\n")
    scenes = {
        (part, which): {(r["dataset"], r["scene"]) for r in PairFolders([tmp_path / part], scenes=which).rows}
        for part in ("all", "some")
        for which in ("training", "held_back")
    }
    learned, held = scenes["all", "training"], scenes["all", "held_back"]
    assert not learned & held and len(learned) + len(held) == len(rows)
    assert 0.1 < len(held) / len(rows) < 0.3
    assert scenes["some", "held_back"] <= held, "a part of the pairs holds back the same scenes"
    assert scenes["some", "training"] <= learned


def test_pairs_that_name_no_scene_are_learned_from(folder):
    assert len(PairFolders([folder], scenes="training").files) == 3
    assert not PairFolders([folder], scenes="held_back").files


def test_fewer_pairs_are_among_more(tmp_path):
    for i in range(12):
        for side in ("clean", "degraded"):
            _write(tmp_path / side / f"{i}.png", i)
    kept = []
    for count in (3, 7, 20):
        pairs = PairFolders([tmp_path])
        pairs.keep(count)
        assert len(pairs.files) == len(pairs.rows) == min(count, 12)
        kept.append(set(pairs.files))
    assert kept[0] < kept[1] < kept[2]
    assert max(int(clean.stem) for clean, _ in kept[0]) > 3, "from all over the folder"
