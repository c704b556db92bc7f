"""python -m gendeg writes what it says, and answers mistakes with a sentence and exit code 2."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gendeg.__main__ import main


@pytest.fixture
def run(tiny_pipeline_folder: Path, photo: Path, tmp_path: Path):
    def run(*arguments: str, degradation: str = "haze", output: str = "out.png", source: Path = photo) -> int:
        common = ["--degradation", degradation, "-o", str(tmp_path / output), "--model", str(tiny_pipeline_folder)]
        return main([str(source), *common, *arguments])

    return run


def test_writes_and_reports(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("--mu", "0.15", "--sigma", "0.08", "--seed", "3", "--clean-output", str(tmp_path / "clean.png")) == 0
    asked, _, delivered = capsys.readouterr().out.splitlines()
    assert asked.split() == ["asked", "mu", "0.1500", "sigma", "0.0800"]
    degraded, clean = (np.asarray(Image.open(tmp_path / n)) / 255 for n in ("out.png", "clean.png"))
    difference = np.abs(degraded - clean)
    assert difference.shape == (240, 320, 3) and delivered.startswith("at 320 x 240  mu ")
    assert float(delivered.split()[5]) == pytest.approx(difference.mean(), abs=0.002)
    assert float(delivered.split()[7]) == pytest.approx(difference.std(), abs=0.002)


def test_intensity_is_drawn_with_the_seed(run, capsys: pytest.CaptureFixture) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        assert run("--seed", seed, "--steps", "1") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_mixture(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    clean = ("--clean-output", str(tmp_path / "clean.png"))
    assert run("--mu", "0.1,0.05", "--sigma", "0.06,0.04", "--steps", "1", *clean, degradation="rain+haze") == 0
    haze, rain, together, delivered = capsys.readouterr().out.splitlines()
    assert haze.startswith("haze: asked mu 0.0500  sigma 0.0400, reached mu 0.")
    assert rain.startswith("rain: asked mu 0.1000  sigma 0.0600, reached mu 0.")
    assert together.startswith("together mu 0.")
    degraded, clean = (np.asarray(Image.open(tmp_path / n)) / 255 for n in ("out.png", "clean.png"))
    assert float(delivered.split()[5]) == pytest.approx(np.abs(degraded - clean).mean(), abs=0.0001)


def test_only_where_the_mask_is_white(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mask = Image.new("L", (320, 240), 0)
    mask.paste(255, (0, 0, 160, 240))
    mask.save(tmp_path / "mask.png")
    clean = ("--clean-output", str(tmp_path / "clean.png"))
    assert run("--mu", "0.2", "--steps", "1", "--mask", str(tmp_path / "mask.png"), *clean) == 0
    *_, delivered, inside = capsys.readouterr().out.splitlines()
    degraded, clean = (np.asarray(Image.open(tmp_path / n)) / 255 for n in ("out.png", "clean.png"))
    difference = np.abs(degraded - clean)
    assert (difference[:, 190:] == 0).all() and difference[:, :130].mean() > 0
    assert float(delivered.split()[5]) == pytest.approx(difference.mean(), abs=0.0001)
    assert inside.startswith("inside the mask")
    assert float(inside.split()[4]) == pytest.approx(difference[:, :160].mean(), rel=0.05)
    Image.new("L", (9, 9), 0).save(tmp_path / "mask.png")
    assert run("--mask", str(tmp_path / "mask.png")) == 2
    assert "marks no place" in capsys.readouterr().err


def test_intensities_of_a_mixture_are_drawn(run, capsys: pytest.CaptureFixture) -> None:
    for options in ([], ["--mu", "0.1,0.05"]):
        assert run("--steps", "1", *options, degradation="snow+low-light") == 0
        dark, snow, *_ = capsys.readouterr().out.splitlines()
        assert dark.startswith("low_light: asked mu 0.") and snow.startswith("snow: asked mu 0.")
        assert not options or ("asked mu 0.0500" in dark and "asked mu 0.1000" in snow)


@pytest.mark.parametrize("value", ["much", "0.1,", "0.1;0.2", ""])
def test_what_is_no_number_is_said_so(run, capsys: pytest.CaptureFixture, value: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--mu", value)
    assert f"--mu: {value!r} is no number, nor several with commas between them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ([], {"degradation": "fog"}, "Choose one of: haze"),
        ([], {"degradation": "rain+fog"}, "Choose one of: haze"),
        ([], {"degradation": "rain+rain"}, "Rain is given twice"),
        ([], {"degradation": "rain+haze+snow+raindrop"}, "A mixture has 1 to 3 degradations, not 4"),
        (["--mu", "0.1"], {"degradation": "rain+haze"}, "--mu gives 1 values for 2 degradations. Give one for each"),
        (["--sigma", "0.1,0.1"], {}, "--sigma gives 2 values for 1 degradations"),
        (["--mu", "0.1,5"], {"degradation": "rain+haze"}, "mu must be a number from 0 to 0.7"),
        (["--mu", "5"], {}, "mu must be a number from 0 to 0.7"),
        (["--mu", "nan"], {}, "mu must be a number"),
        (["--sigma", "-1"], {}, "sigma must be a number from 0 to 0.4"),
        (["--seed", "-1"], {}, "The seed must be a whole number"),
        (["--steps", "0"], {}, "The number of steps must be a whole number"),
        (["--resolution", "10"], {}, "The resolution must be a whole number"),
        ([], {"output": "out.xyz"}, "must end in one of .png"),
        ([], {"output": "nowhere/out.png"}, "There is no folder"),
        ([], {"source": Path("none.png")}, "There is no file"),
        (["--model", "/nowhere"], {}, "No generator"),
    ],
)
def test_mistakes(run, capsys: pytest.CaptureFixture, arguments: list[str], options: dict, sentence: str) -> None:
    assert run(*arguments, **options) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.out == ""


def test_never_overwrites_the_photograph(run, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    for arguments in (["-o", str(photo)], ["-o", str(tmp_path / "link.png")], ["--clean-output", str(photo)]):
        assert run(*arguments) == 2
        assert "would overwrite" in capsys.readouterr().err
    assert run("--clean-output", str(tmp_path / "out.png")) == 2
    assert photo.read_bytes() == before
    Image.new("L", (9, 9), 255).save(tmp_path / "mask.png")
    mask = (tmp_path / "mask.png").read_bytes()
    assert run("--mask", str(tmp_path / "mask.png"), "-o", str(tmp_path / "mask.png")) == 2
    assert "would overwrite" in capsys.readouterr().err and (tmp_path / "mask.png").read_bytes() == mask
