"""Evaluation: its tables say of what is known what is so, and its commands write them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from gendeg import GenDegPipeline, load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.structure_correction import StructureCorrection
from restorers import load_restorer
from training.evaluate.__main__ import main
from training.evaluate.control import evaluate_control
from training.evaluate.inputs import SIZE, evaluation_squares
from training.evaluate.restorers import evaluate_restorers
from training.evaluate.structure import evaluate_structure
from training.generator.pipeline_folder import settings_of


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline_folder: Path) -> GenDegPipeline:
    """At the evaluation's size, with a structure correction that corrects nothing yet."""
    module = StructureCorrection(width=4, enc_blk_nums=[1], middle_blk_num=1, dec_blk_nums=[1])
    torch.nn.init.zeros_(module.ending.weight), torch.nn.init.zeros_(module.ending.bias)
    components = load_pipeline(tiny_pipeline_folder, device="cpu").components | {"structure_correction": module}
    return GenDegPipeline(**components, resolution=SIZE, num_inference_steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return evaluation_squares(None)[:3]


def test_what_is_left_as_it_is_gains_nothing(photos: torch.Tensor, tiny_restorers_folder: Path) -> None:
    class Same:
        name = "same"

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images

    table = evaluate_restorers([Same(), load_restorer(tiny_restorers_folder / "nafnet")], photos)
    assert list(table) == [*DEGRADATIONS, "clean"]
    for name in DEGRADATIONS:
        assert table[name]["same_psnr"] == table[name]["same_ssim"] == 0
        assert 8 < table[name]["psnr"] < 45 and 0.2 < table[name]["ssim"] < 1
        assert table[name]["nafnet_psnr"] != 0
    assert table["clean"]["same_psnr"] == float("inf") and table["clean"]["same_ssim"] == pytest.approx(1)


def test_a_correction_of_nothing_changes_nothing(pipeline: GenDegPipeline, photos: torch.Tensor) -> None:
    table = evaluate_structure(pipeline, photos)
    assert list(table) == list(DEGRADATIONS)
    for row in table.values():
        for measure in ("psnr", "detail_psnr"):
            assert row[f"{measure}_corrected"] == pytest.approx(row[measure], abs=1e-5)


def test_control_is_measured_without_matching(pipeline: GenDegPipeline, photos: torch.Tensor) -> None:
    plain = evaluate_control(pipeline, photos)
    matching = GenDegPipeline(**pipeline.components, **settings_of(pipeline) | {"match_intensity": True})
    assert evaluate_control(matching, photos) == plain
    for row in plain.values():
        assert all(-1 <= row[f"{number}_rank_correlation"] <= 1 for number in ("mu", "sigma"))


def test_command(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        main()

    run("codec", "--model", tiny_pipeline_folder, "--limit", 2, "--output", tmp_path / "codec.json")
    table = json.loads((tmp_path / "codec.json").read_text())["codec"]
    assert table["photographs"] == 2 and table["psnr_worst"] <= table["psnr_mean"]
    assert f"| codec | 2.000 | {table['psnr_mean']:.3f} |" in capsys.readouterr().out
    run("sheet", "--model", tiny_pipeline_folder, "--choose", *range(6), "--output", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (4 * SIZE + 3 * 4, 6 * (SIZE + 20))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("codec", "--output", "nowhere/codec.json"), "There is no folder nowhere to write codec.json to"),
        (("sheet", "--choose", "0", "1"), "A sheet shows 6 photographs, one for each row; here are 2."),
        (("codec", "--photos", "nowhere"), "There is no folder nowhere"),
        (("codec", "--model", "nowhere/nothing/at/all"), "nowhere/nothing/at/all"),
        (("restorers", "--restorers", "nothing"), "nothing"),
        (("restorers-sheet",), "needs --photos"),
        (("sheet", "--choose", "40"), "from 0 to 39"),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(
    arguments: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    try:
        code = main()
    except SystemExit as end:  # of argparse
        code = end.code
    assert code == 2 and sentence in capsys.readouterr().err


def test_restorers_of_one_name_are_told_apart(
    tiny_restorers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(tmp_path / run / "restorer") for run in "ab"]
    for folder in folders:
        shutil.copytree(tiny_restorers_folder / "nafnet", folder)
    command = ["evaluate", "restorers", "--restorers", *folders, "--limit", "1", "--output", str(tmp_path / "x.json")]
    monkeypatch.setattr(sys, "argv", command)
    main()
    table = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert all({f"{folder}_psnr" for folder in folders} <= set(row) for row in table.values())
    assert set(table["clean"]) < set(table["haze"])
