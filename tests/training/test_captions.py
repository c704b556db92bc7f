"""python -m training.captions writes one line a photograph, goes on where it stopped, and names what it skipped."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gendeg.captions import Captioner
from tests.gendeg.test_captions import tiny_blip2
from training.captions import main
from training.dataset.plan import Photo, with_captions
from training.dataset.store import AppendLog


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_blip2(tmp_path_factory.mktemp("blip2"))


@pytest.fixture
def photos(tmp_path):
    """Five photographs in two folders, among them a broken one."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "more/a.png", "more/é.png"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def run(photos, model, capsys):
    def run(*arguments: str) -> tuple[int, str]:
        code = main([str(photos), "--model", model, *arguments])
        return code, capsys.readouterr().err

    return run


def rows(file: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    captions = {line["file_name"]: line["caption"] for line in lines}
    assert len(captions) == len(lines), "no photograph twice"
    return captions


def test_every_photograph_has_its_own_caption(run, photos, model):
    code, errors = run("--batch-size", "3")
    assert code == 0
    captions = rows(photos / "captions.jsonl")
    assert sorted(captions) == ["a.png", "b.jpg", "more/a.png", "more/é.png"]
    captioner = Captioner(model)
    for name, caption in captions.items():
        with Image.open(photos / name) as image:
            assert captioner.caption([image]) == [caption]
    assert "Skipped, because they cannot be read (1):\n  broken.png: broken.png is not an image." in errors


def test_goes_on_where_it_stopped(run, photos, tmp_path):
    assert run("--output", str(tmp_path / "whole.jsonl"))[0] == 0
    expected = rows(tmp_path / "whole.jsonl")
    output = tmp_path / "some" / "captions.jsonl"
    output.parent.mkdir()
    first = json.dumps({"file_name": "a.png", "caption": "kept as it is"})
    output.write_text(f'{first}\n{{"file_name": "b.jpg", "capt')  # torn by a kill
    assert run("--output", str(output))[0] == 0
    assert rows(output) == expected | {"a.png": "kept as it is"}
    before = output.read_bytes()
    assert run("--output", str(output))[0] == 0
    assert output.read_bytes() == before


def test_an_interrupted_run_keeps_what_is_done(run, photos, tmp_path, monkeypatch):
    calls = []
    caption = Captioner.caption

    def stopped_in_the_third(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return caption(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "caption", stopped_in_the_third)
        code, errors = run("--batch-size", "1")
    assert code == 130 and "goes on from there" in errors
    assert sorted(rows(photos / "captions.jsonl")) == ["a.png", "b.jpg"]
    assert run()[0] == 0 and len(rows(photos / "captions.jsonl")) == 4


def test_create_dataset_reads_them(run, photos, tmp_path):
    run("--output", str(tmp_path / "captions.jsonl"))
    asked = [Photo(name, (64, 64), frozenset({"haze"})) for name in ("a.png", "more/é.png", "broken.png")]
    log = AppendLog(tmp_path / "log.jsonl")
    captioned = with_captions(asked, str(tmp_path / "captions.jsonl"), photos, log)
    expected = rows(tmp_path / "captions.jsonl")
    assert [photo.caption for photo in captioned] == [expected["a.png"], expected["more/é.png"], ""]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--model", "/nowhere/blip2"], "'/nowhere/blip2' is not available"),
        (["--output", "{photos}/a.png/captions.jsonl"], "a.png"),
        (["--output", "{photos}/more"], "more"),
    ],
)
def test_mistakes(run, photos, arguments, sentence):
    code, errors = run(*(argument.format(photos=photos) for argument in arguments))
    last = errors.rstrip("\n").splitlines()[-1]
    assert code == 2 and last.startswith("captions: ") and sentence in last, errors


def test_folders_without_photographs(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "damaged" / "a.png")
    (tmp_path / "damaged" / "captions.jsonl").write_text("not JSON\n")
    for folder, sentence in (("none", "There is no folder"), ("empty", "No images in"), ("damaged", "is damaged")):
        assert main([str(tmp_path / folder)]) == 2
        errors = capsys.readouterr().err
        assert sentence in errors and errors.count("\n") == 1, errors
