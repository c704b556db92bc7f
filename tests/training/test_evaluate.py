"""Evaluation: its tables say of what is known what is so, and its commands write them."""

import json
import shutil
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gendeg import GenDegPipeline, degrade_mixture, load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.robustness import rising_mus
from gendeg.structure_correction import StructureCorrection
from restorers import load_restorer, save_restorer
from restorers.nafnet import NAFNet
from training.evaluate.__main__ import main
from training.evaluate.control import evaluate_control
from training.evaluate.frechet import features, frechet
from training.evaluate.held_back import evaluate_held_back
from training.evaluate.inputs import SIZE, evaluation_squares, generated, real_intensities, simulated
from training.evaluate.mixtures import evaluate_mixtures
from training.evaluate.restorers import evaluate_restorers
from training.evaluate.structure import evaluate_structure
from training.generator.pipeline_folder import settings_of
from training.pair_folders import PairFolders


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

    restorers = [Same(), load_restorer(tiny_restorers_folder / "nafnet")]
    table = evaluate_restorers(restorers, photos, simulated(photos))
    assert list(table) == [*DEGRADATIONS, "clean"]
    for name in DEGRADATIONS:
        assert table[name]["same_psnr"] == table[name]["same_ssim"] == 0
        assert 8 < table[name]["psnr"] < 45 and 0.2 < table[name]["ssim"] < 1
        assert table[name]["nafnet_psnr"] != 0
    assert table["clean"]["same_psnr"] == float("inf") and table["clean"]["same_ssim"] == pytest.approx(1)


def test_held_back_scenes_are_degraded_at_their_own_intensities(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    rng = np.random.default_rng(0)
    for scene in range(12):  # of each two pairs, of which one is measured
        for part in ("a", "b"):
            clean = rng.integers(60, 200, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(clean).save(tmp_path / f"{scene}{part}.png")
            Image.fromarray(clean // 2).save(tmp_path / f"{scene}{part}-dark.png")
            row = {"file_name": f"{scene}{part}-dark.png", "clean_file_name": f"{scene}{part}.png", "scene": str(scene)}
            with (tmp_path / "metadata.jsonl").open("a") as file:
                file.write(json.dumps(row | {"degradation": "low_light", "dataset": "nights"}) + "\n")
    pairs = PairFolders([tmp_path], scenes="held_back")
    scenes = {row["scene"] for row in pairs.rows}
    assert 0 < len(scenes) < 12
    table = evaluate_held_back(load_pipeline(tiny_pipeline_folder, device="cpu"), pairs)  # of another resolution
    assert table["nights"]["pairs"] == len(scenes)
    assert table["nights"]["psnr_simulated"] > 15 and 0 < table["nights"]["psnr_generated"] < 60
    assert evaluate_held_back(load_pipeline(tiny_pipeline_folder, device="cpu"), pairs, limit=1)["nights"]["pairs"] == 1
    for unclear in (None, "low_light+haze"):
        for row in pairs.rows:
            row["degradation"] = unclear
        with pytest.raises(ValueError, match="do not say which degradation they show, show mixtures"):
            evaluate_held_back(load_pipeline(tiny_pipeline_folder, device="cpu"), pairs)


def test_mixtures_are_measured_against_what_their_second_part_got(
    pipeline: GenDegPipeline, photos: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate.mixtures.PHYSICAL_ORDER", ("low_light", "haze", "rain"))
    table = evaluate_mixtures(pipeline, photos)
    assert list(table) == ["low_light+haze", "low_light+rain", "haze+rain"]
    output = degrade_mixture(
        pipeline,
        photos,
        "haze+rain",
        *np.stack([real_intensities(name, 3, i) for i, name in enumerate(("haze", "rain"))])
        .transpose(2, 0, 1)
        .tolist(),
        generator=[torch.Generator().manual_seed(i) for i in range(3)],
        output_size="working",
    )
    off = np.abs(np.array(output.parts[1].mu) - real_intensities("rain", 3, 1)[:, 0])
    row = table["haze+rain"]
    assert row["second_mu_error"] == pytest.approx(np.median(off), abs=0.003)
    assert row["second_mu_within_0.02"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert row["mu_of_both"] == pytest.approx(np.mean(output.mu), abs=0.003) and 0 < row["mu_of_both"]
    assert row["mu_of_both"] <= row["sum_of_own_mu"] + 0.003, "two changes are together at most their sum"


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
    tiny_pipeline_folder: Path,
    tiny_restorers_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        main()

    run("codec", "--model", tiny_pipeline_folder, "--limit", 2, "--output", tmp_path / "codec.json")
    table = json.loads((tmp_path / "codec.json").read_text())["codec"]
    assert table["photographs"] == 2 and table["psnr_worst"] <= table["psnr_mean"]
    assert f"| codec | 2 | {table['psnr_mean']:.3f} |" in capsys.readouterr().out
    run("own", "--model", tiny_pipeline_folder, "--restorers", tiny_restorers_folder / "nafnet", "--limit", 1,
        "--output", tmp_path / "own.json")  # fmt: skip
    table = json.loads((tmp_path / "own.json").read_text())
    settings = [f"{name}, {setting}" for name in DEGRADATIONS for setting in ("typical", "real intensities")]
    assert list(table) == [*settings, "clean"] and all(table[row]["nafnet_psnr"] for row in table)
    run("robustness", "--model", tiny_pipeline_folder, "--restorers", tiny_restorers_folder / "nafnet", "--limit", 2,
        "--degradation", "rain", "--output", tmp_path / "rise.json")  # fmt: skip
    tables = json.loads((tmp_path / "rise.json").read_text())
    assert list(tables) == ["rain"] and list(tables["rain"]) == [f"mu {mu:.3f}" for mu in rising_mus("rain")]
    assert list(tables["rain"]["mu 0.271"]) == [
        "mu_reached", "sigma_reached", "psnr", "ssim", "nafnet_psnr", "nafnet_ssim"
    ]  # fmt: skip
    assert tables["rain"]["mu 0.000"]["psnr"] is None, "JSON knows no infinity"
    out = capsys.readouterr().out
    assert "### rain" in out and f"| mu 0.271 | {tables['rain']['mu 0.271']['mu_reached']:.3f} |" in out
    run("sheet", "--model", tiny_pipeline_folder, "--choose", *range(6), "--output", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (4 * SIZE + 3 * 4, 6 * (SIZE + 20))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("codec", "--output", "nowhere/codec.json"), "There is no folder nowhere to write codec.json to"),
        (("sheet", "--choose", "0", "1"), "A sheet shows 6 photographs, one for each row; here are 2."),
        (("robustness", "--degradation", "fog"), "invalid choice: 'fog'"),
        (("codec", "--photos", "nowhere"), "There is no folder nowhere"),
        (("codec", "--model", "nowhere/nothing/at/all"), "nowhere/nothing/at/all"),
        (("restorers", "--restorers", "nothing"), "nothing"),
        (("restorers-sheet",), "needs --photos"),
        (("sheet", "--choose", "40"), "from 0 to 39"),
        (("codec", "--limit", "0"), "--limit takes a number from 1"),
        (("published",), "--pairs names the folders"),
        (
            ("published", "--pairs", "x", "--photos", "y"),
            "--photos has no effect on published, which takes --restorers",
        ),
        (("codec", "--pairs", "x"), "--pairs has no effect on codec"),
        (("sheet", "--physics"), "--physics has no effect on sheet"),
        (("published", "--pairs", "nowhere"), "No pairs in nowhere"),
        (("own", "--restorers", "nothing"), "nothing"),
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


def test_the_generator_is_measured_as_it_delivers(pipeline: GenDegPipeline, photos: torch.Tensor) -> None:
    # of the tiny model only what matches intensities heeds what is asked
    pipeline = GenDegPipeline(**pipeline.components, **settings_of(pipeline) | {"match_intensity": True})
    rows = dict(islice(generated(pipeline, photos[:2]), 4))
    for i, photo in enumerate(photos[:2]):
        mu, sigma = DEGRADATIONS["rain"].typical
        generator = torch.Generator().manual_seed(i)
        alone = pipeline(photo, "rain", mu=mu, sigma=sigma, generator=generator, output_type="pt").images[0]
        torch.testing.assert_close(rows["rain, typical"][i], alone, atol=1.5 / 255, rtol=0)
    assert not torch.allclose(rows["rain, typical"], rows["rain, real intensities"], atol=1.5 / 255)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """`scenes`: ten pairs of five scenes; `lit`: three that name none; `same`: a restorer that changes nothing.

    The degraded images are the clean ones with every value lower by 10.
    """
    rng = np.random.default_rng(0)
    for name, count in (("scenes", 10), ("lit", 3)):
        for kind in ("clean", "degraded"):
            (tmp_path / name / kind).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(10, 256, (40 + i, 50 - i, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / name / "clean" / f"{i}.png")
            Image.fromarray(image - 10).save(tmp_path / name / "degraded" / f"{i}.png")
    rows = [
        {"file_name": f"degraded/{i}.png", "clean_file_name": f"clean/{i}.png", "dataset": "indoor", "scene": i // 2}
        for i in range(10)
    ]
    (tmp_path / "scenes" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    network = NAFNet(width=4, enc_blk_nums=[1], middle_blk_num=1, dec_blk_nums=[1])
    torch.nn.init.zeros_(network.ending.weight), torch.nn.init.zeros_(network.ending.bias)
    save_restorer(network, tmp_path / "same", trained_for=["haze"])
    for parameter in network.parameters():
        parameter.data.fill_(6e4)  # overflows
    save_restorer(network, tmp_path / "broken", trained_for=["haze"])
    return tmp_path


def _published(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: object) -> tuple[int, dict]:
    """Exit code, and what was written."""
    command = ["evaluate", "published", *map(str, arguments), "--output", str(folder / "published.json")]
    monkeypatch.setattr(sys, "argv", command)
    code = main()
    return code, json.loads((folder / "published.json").read_text())


def test_published_pairs_are_measured_as_papers_do(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # as where it is not installed
    folders = "--pairs", published / "scenes", published / "lit"
    code, tables = _published(monkeypatch, published, *folders, "--luma", "--restorers", published / "same")
    assert code == 0 and list(tables) == ["indoor", "lit"]
    assert [tables[name]["as it is"]["pairs"] for name in tables] == [4, 3], "two scenes of five are held back"
    for table in tables.values():
        assert list(table) == ["as it is", "same"] and table["same"] == pytest.approx(table["as it is"])
        assert table["same"]["psnr"] == pytest.approx(20 * np.log10(255 / 10))
        assert table["same"]["psnr_y"] == pytest.approx(20 * np.log10(255 / 10 * 255 / 219), abs=1e-3)
        assert 0.9 < table["same"]["ssim"] < 1 and 0.9 < table["same"]["ssim_y"] < 1
    printed = capsys.readouterr().out
    assert "### indoor" in printed and "| same | 4 | 28.131 |" in printed and "LPIPS: not available" in printed
    code, tables = _published(monkeypatch, published, *folders, "--all-scenes", "--restorers", published / "same")
    assert [tables[name]["same"]["pairs"] for name in tables] == [10, 3] and "psnr_y" not in tables["lit"]["same"]
    code, tables = _published(monkeypatch, published, *folders, "--limit", 1, "--restorers", published / "same")
    assert [tables[name]["same"]["pairs"] for name in tables] == [1, 1]


def test_frechet_distance_to_the_clean_images(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "--pairs", published / "lit", "--restorers", published / "same"
    _, tables = _published(monkeypatch, published, *command, "--frechet")
    assert 0 < tables["lit"]["as it is"]["frechet"] == pytest.approx(tables["lit"]["same"]["frechet"])
    _, tables = _published(monkeypatch, published, *command)
    assert "frechet" not in tables["lit"]["same"]


def test_frechet_distance_is_that_of_the_normal_distributions() -> None:
    one = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, one + 3) == pytest.approx(4 * 9, rel=1e-5)
    variances = one.double().var(0, correction=0).sum()
    assert frechet(one, 2 * one - one.mean(0)) == pytest.approx(float(variances), rel=1e-5), "deviations twice as large"
    assert features(torch.zeros(2, 3, 256, 300, dtype=torch.uint8)).shape[0] == 2 * 2 * 2, "tiles of 128 pixels"
    assert features(torch.zeros(1, 3, 40, 50, dtype=torch.uint8)).shape[0] == 1


def test_lpips_is_of_images_from_0_to_1(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate.__main__.load_lpips", lambda: lambda one, other: (one - other).abs().mean())
    _, tables = _published(monkeypatch, published, "--pairs", published / "lit", "--restorers", published / "same")
    assert tables["lit"]["same"]["lpips"] == pytest.approx(10 / 255)


def test_what_cannot_be_measured_is_said_and_the_rest_is_measured(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = published / "lit" / "degraded" / "1.png"
    file.write_bytes(file.read_bytes()[:2000])
    for kind in ("clean", "degraded"):
        Image.new("RGB", (20, 40)).save(published / "lit" / kind / "2.png")
    rows = (published / "scenes" / "metadata.jsonl").read_text().splitlines()
    (published / "scenes" / "metadata.jsonl").write_text("\n".join(rows[:2]))  # of a scene that is not held back
    restorers = "--restorers", published / "broken", published / "same"
    code, tables = _published(monkeypatch, published, "--pairs", published / "scenes", published / "lit", *restorers)
    assert code == 2 and list(tables) == ["lit"] and list(tables["lit"]) == ["as it is", "same"]
    assert tables["lit"]["same"]["pairs"] == 1
    said = capsys.readouterr().err
    assert "indoor: training leaves none of its scenes out; --all-scenes measures all." in said
    assert "lit: broken fails with 0.png: broken gave values that are not numbers" in said
    assert "lit: 1.png is damaged or incomplete" in said and "lit: 2.png is too small to be measured" in said
