import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restorers import save_restorer
from restorers.__main__ import main
from restorers.nafnet import NAFNet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(bundle):
    network = NAFNet(width=4, enc_blk_nums=(1,), dec_blk_nums=(1,))
    with torch.no_grad():
        network.ending.weight.zero_()
        network.ending.bias.fill_(0.2)  # brightens by 51
    save_restorer(network, bundle / "bundled" / "nafnet", ["low-light"])


def _photo(path, value=100, size=(20, 13)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def _value(path):
    image = np.asarray(Image.open(path).convert("RGB"))
    return image.shape[:2], round(image.mean())


def test_one_photograph(weights, tmp_path):
    photo = _photo(tmp_path / "photo.png")
    assert main([str(photo), "--restorer", "nafnet", "-o", str(tmp_path / "new" / "out.jpg")]) == 0
    assert _value(tmp_path / "new" / "out.jpg") == ((13, 20), 151)
    assert main([str(photo), "-o", str(tmp_path / "new")]) == 0
    assert _value(tmp_path / "new" / "photo.png") == ((13, 20), 151)


def test_a_folder_goes_on_where_it_stopped(weights, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "photos" / "restored"
    for name in ("a.png", "b.jpg", "deep/c.webp", "deep/d.PNG"):
        _photo(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    assert main([str(folder), "-o", str(out)]) == 0
    results = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert results == {"a.png", "b.jpg", "deep/c.webp", "deep/d.PNG"}
    assert all(_value(out / name) == ((13, 20), 151) for name in results)

    (out / "b.jpg").unlink()
    _photo(out / "a.png", 7)
    capsys.readouterr()
    assert main([str(folder), "-o", str(out)]) == 0
    assert "3 of 4 are done already." in capsys.readouterr().err
    assert _value(out / "b.jpg")[1] == 151
    assert _value(out / "a.png")[1] == 7, "what is there must not be done again"
    assert main([str(folder), "-o", str(out)]) == 0


def test_a_broken_photograph_does_not_stop_the_rest(weights, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    _photo(folder / "b.png")
    (folder / "a.png").write_text("no image")
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:60])
    assert main([str(folder), "-o", str(out)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and "a.png cannot be read" in lines[0] and "c.png cannot be read" in lines[1]
    assert [file.name for file in out.iterdir()] == ["b.png"]


def test_a_photograph_too_large_does_not_stop_the_rest(weights, tmp_path, monkeypatch, capsys):
    def restore(network, image, *_):
        if image.shape[-1] > 30:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return image

    monkeypatch.setattr("restorers.registry.restore", restore)
    _photo(tmp_path / "photos" / "a.png", size=(40, 20))
    _photo(tmp_path / "photos" / "b.png")
    assert main([str(tmp_path / "photos"), "-o", str(tmp_path / "out")]) == 2
    assert "a.png could not be restored: DefaultCPUAllocator" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b.png"]


def test_a_folder_into_the_one_around_it(weights, tmp_path):
    _photo(tmp_path / "photos" / "a.png")
    assert main([str(tmp_path / "photos"), "-o", str(tmp_path)]) == 0
    assert _value(tmp_path / "a.png") == ((13, 20), 151)


def test_upright_and_transparent_photographs(weights, tmp_path):
    turned = Image.new("RGB", (20, 13), (100, 100, 100))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert main([str(tmp_path / "turned.jpg"), "-o", str(tmp_path / "out.png")]) == 0
    assert _value(tmp_path / "out.png") == ((20, 13), 151)
    Image.new("RGBA", (20, 13), (100, 100, 100, 60)).save(tmp_path / "glass.png")
    assert main([str(tmp_path / "glass.png"), "-o", str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").getpixel((0, 0)) == (151, 151, 151, 60)
    assert main([str(tmp_path / "glass.png"), "-o", str(tmp_path / "out.jpg")]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.png", "-o", "out.png"], "There is no nothing.png."),
        (["photo.png", "-o", "out.xyz"], "must end in"),
        (["photo.png", "-o", "out.png", "--restorer", "unheard"], "no restorer 'unheard'"),
        (["photo.png", "-o", "out.png", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["empty", "-o", "out"], "holds no photographs"),
        (["full", "-o", "full"], "other than the input"),
        (["full", "-o", "photo.png"], "is a file"),
        (["photo.png", "-o", "photo.png"], "would be replaced"),
        (["photo.png", "-o", "."], "would be replaced"),
        pytest.param(
            ["photo.png", "-o", "out.png", "--device", "cuda"],
            "device 'cuda' cannot be used",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it can be used"),
        ),
        (["photo.png", "-o", "photo.png/out.png"], "cannot be written"),
    ],
)
def test_mistakes_are_sentences(weights, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    _photo(tmp_path / "photo.png")
    _photo(tmp_path / "full" / "a.png")
    (tmp_path / "empty").mkdir()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_what_the_opener_changed_is_said(weights, tmp_path, capsys):
    Image.new("RGB", (20, 13)).save(
        tmp_path / "photo.gif", save_all=True, append_images=[Image.new("RGB", (20, 13), 9)]
    )
    assert main([str(tmp_path / "photo.gif"), "-o", str(tmp_path / "out.png")]) == 0
    assert capsys.readouterr().err.strip() == f"{tmp_path / 'photo.gif'}: first of several frames."


def test_names_that_are_too_long_or_no_text(weights, tmp_path):
    """In a process of its own, whose streams refuse what is no UTF-8."""
    _photo(tmp_path / "photo.png")
    for name, output in (("x" * 300 + ".png", "out.png"), ("photo.png", "x" * 300 + ".png"), ("\udce9.png", "out.png")):
        command = [sys.executable, "-m", "restorers", str(tmp_path / name), "-o", str(tmp_path / output)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, errors="strict")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


def test_a_format_that_is_only_read_gets_a_png_beside_its_name(weights, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.gif", "a.gif.txt", "b.png"):
        _photo(folder / name) if name != "a.gif.txt" else (folder / name).write_text("no photograph")
    assert main([str(folder), "-o", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == {"a.gif.png", "b.png"}
    assert main([str(folder / "a.gif"), "-o", str(tmp_path)]) == 0
    assert _value(tmp_path / "a.gif.png") == ((13, 20), 151)
