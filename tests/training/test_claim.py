"""The paper's claim by one command: tests stay apart from trainings, runs go on, tables say what was measured."""

import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from PIL import Image

from gendeg.degradations import DEGRADATIONS
from runtime.errors import UserError
from runtime.images import image_files
from tests.in_this_process import InThisProcess
from training.claim.command import _BEFORE, RECIPES, claim, stages
from training.claim.setting import prepare, seen_in_training
from training.claim.tables import gains, means, verdict
from training.claim.trainings import derived_recipe, trainings
from training.command_line import load_recipe
from training.evaluate.__main__ import main
from training.pair_folders import PairFolders, is_held_back
from training.pairs import TrainingPairs
from training.photos import Photos
from training.scenes import draw_scenes
from training.simulators.matching import SIMULATORS

SMOKE = load_recipe(RECIPES / "claim-smoke.yaml")
ROWS = [f"{network}, {data}" for network in ("nafnet", "promptir") for data in ("existing", "generated", "both")]


class Stopped(InThisProcess):
    """Ends at one module, as by Ctrl-C."""

    def __call__(self, arguments, log, keep):
        return 130 if arguments[2] == "training.evaluate" else super().__call__(arguments, log, keep)


def _arguments(output: Path, **changes) -> Namespace:
    return Namespace(output=output, **{"photos": [], "pairs": [], "minutes": None, "recipes": "smoke"} | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The smoke form, stopped once; and what ran afterwards."""
    args, again = _arguments(tmp_path_factory.mktemp("claim") / "results"), InThisProcess()
    assert claim(args, Stopped()) == 130
    assert claim(args, again) == 0
    return args, again.modules


def test_a_run_goes_on_and_what_is_done_is_left_alone(made, capsys):
    args, modules = made
    assert modules[0] == "training.evaluate" and "training.codec" not in modules, "the first restorer was trained"
    assert modules.count("training.restorer") == len([*trainings(SMOKE, 12)]) - 1
    third = InThisProcess()
    assert claim(args, third) == 0 and third.modules == []
    assert "report: done already." in capsys.readouterr().out


def test_what_is_deleted_is_made_anew_and_the_report_with_it(made, tmp_path):
    args, ran = _arguments(tmp_path / "results"), []
    shutil.copytree(made[0].output, args.output)
    shutil.rmtree(args.output / "nafnet-both-6-0")
    assert claim(args, lambda arguments, log, keep: ran.append(arguments[2]) or 0) == 0
    assert ran == ["training.restorer", "training.evaluate", "training.claim.report"]
    assert not (args.output / "report" / "claim.md").exists(), "there is none of what was there before"


def test_tables_and_figures_say_what_was_measured(made):
    output = made[0].output
    text = (output / "report" / "claim.md").read_text()
    for figure in ("number", "map", "rising"):
        assert f"({figure}.png)" in text and min(Image.open(output / "report" / f"{figure}.png").size) > 200
    for number, columns in ((1, 6), (2, 6), (3, 2)):
        rows = text.partition(f"## Table {number}")[2].partition("##")[0].strip().splitlines()[4:]
        cells = {row.split(" | ")[0].strip("| "): row.strip("|").split(" | ")[1:] for row in rows}
        assert list(cells) == ["as it is", *ROWS] and {len(values) for values in cells.values()} == {columns}
        assert all("±" in cell for cell in cells["nafnet, both"]), "of two seeds"
    tables = [json.loads((output / f"nafnet-both-{seed}" / "quality.json").read_text()) for seed in (0, 1)]
    reached = fmean(table[name]["restorer"]["psnr"] for table in tables for name in table if name.startswith("out/"))
    assert cells["nafnet, both"][1].startswith(f"{reached:.2f} ±")
    assert "LPIPS: not available" in text or "/ LPIPS /" in text
    assert "## Generated or simulated" in text and "| NAFNet, existing | 0.211 / 71.3 |" in text


def test_no_scene_of_a_test_is_learned_from(made, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(made[0].output / "data", data)
    assert seen_in_training(data) == []
    test = next((data / "out").rglob("clean/*"))
    copy = Image.open(test).resize((90, 80))
    copy.save(data / "photographs" / "copy.jpg", quality=60)
    wide = Image.effect_noise((3 * copy.width, copy.height), 80).convert("RGB")
    wide.paste(copy, (copy.width, 0))
    wide.save(data / "photographs" / "wide.png")
    found = [data / "photographs" / name for name in ("copy.jpg", "wide.png")]
    assert seen_in_training(data) == found, "also where the test is the centre of it"
    shutil.copyfile(test, next((data / "existing").rglob("clean/*")))
    with pytest.raises(UserError, match="is of an earlier run with other photographs"):
        prepare(SMOKE, [], [], data)
    generated = PairFolders([made[0].output / "generated" / "pairs"])
    degraded = {row["source_file"] for row in generated.rows}
    assert degraded <= {file.name for file in image_files(made[0].output / "data" / "photographs")}


def test_pairs_of_files_that_were_made_anew_are_not_taken_for_these(made, tmp_path):
    shutil.copytree(made[0].output / "data" / "existing", tmp_path / "existing")

    def name() -> str:
        return TrainingPairs(Photos(), 32, sources=[(PairFolders([tmp_path / "existing"]), {"snow": 1.0})]).name(6)

    before = name()
    assert name() == before
    file = next((tmp_path / "existing").rglob("snow-*/degraded/*"))
    Image.open(file).rotate(90).save(file)
    assert name() != before


def test_trainings_learn_from_folders_alone_and_differ_in_nothing_else(made):
    output = made[0].output
    of_data = {"seed", "published_shares", "generated_shares", "generated_count"}
    networks = {}
    for training in trainings(SMOKE, 12):
        recipe = yaml.safe_load((output / "recipes" / f"{training.name}.yaml").read_text())
        for name in DEGRADATIONS:
            found = recipe["published_shares"].get(name, 0) + recipe["generated_shares"].get(name, 0)
            assert found == 1 or recipe["shares"][name] == 0, "nothing is simulated on the way"
        networks.setdefault(training.network, []).append({k: v for k, v in recipe.items() if k not in of_data})
        assert recipe["seed"] == training.seed
    assert all(recipe == recipes[0] for recipes in networks.values() for recipe in recipes)
    for name in ("codec", "generator", "structure"):
        recipe = yaml.safe_load((output / "recipes" / f"{name}.yaml").read_text())
        assert recipe["published_shares"] == dict.fromkeys(DEGRADATIONS, 1.0)
        (command,) = json.loads((output / "reproduce.json").read_text())[name]["commands"]
        assert command.count("--pairs") == 1 and "existing" in command and "--photos" not in command


def test_minutes_are_shared_and_steps_are_equal(made):
    args = _arguments(made[0].output, minutes=32.0)
    records = json.loads((args.output / "reproduce.json").read_text())
    records["nafnet-existing-0"]["stages"][0]["steps"] = 7
    given = {}
    for stage in stages(args, records):
        for command in stage.commands:
            if "--minutes" in command:
                given[stage.name] = float(command[command.index("--minutes") + 1])
        if stage.name.startswith("nafnet"):
            loop = yaml.safe_load(stage.recipe.read_text())["stages"][0]["loop"]
            assert loop["steps"] == (2 if stage.name == "nafnet-existing-0" else 7)
    assert list(given) == ["codec", "generator", "structure", "generated", "nafnet-existing-0", "promptir-existing-0"]
    assert set(given.values()) == {round(32 / 15, 3)}, "11 trainings, and 4 before"
    records["nafnet-existing-0"]["stages"] = []
    with pytest.raises(UserError, match="nafnet-existing-0 was over before it had begun"):
        list(stages(args, records))


def _published(folder: Path, photos: list[Path], scenes: list[str], degradation: str) -> Path:
    """A data set of a pair a scene."""
    for side in ("clean", "degraded"):
        (folder / side).mkdir(parents=True)
    rows = []
    for number, (photo, scene) in enumerate(zip(photos, scenes, strict=True)):
        image = Image.open(photo)
        image.save(folder / "clean" / f"{number}.png")
        image.point(lambda value: value // 3).save(folder / "degraded" / f"{number}.png")
        names = {"file_name": f"degraded/{number}.png", "clean_file_name": f"clean/{number}.png"}
        rows.append(names | {"dataset": "nights", "scene": scene, "degradation": degradation})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_published_pairs_are_existing_ones_by_scene_and_tests_of_other_sources(tmp_path):
    files = image_files(draw_scenes(tmp_path / "photos", 14, 48))
    names = {
        side: [n for n in map(str, range(99)) if is_held_back({"dataset": "nights", "scene": n}) is side]
        for side in (True, False)
    }
    held_back, kept = sorted(names[True])[:2], sorted(names[False])[:3]
    # The last scene to learn from is that of a test, under another name.
    nights = _published(tmp_path / "nights", [*files[:4], files[0]], [*held_back, *kept], "low_light")
    dusk = _published(tmp_path / "dusk", files[4:6], ["a", "b"], "low_light")
    for file in (*files[2:4], files[5]):  # what the photographs show, too, are then files 0, 1 and 4
        file.unlink()
    recipe = SMOKE | {"size": 48, "photographs": {"test": 2, "existing": 1, "generated": 9}, "scenes": {"low_light": 3}}
    recipe |= {
        "existing": {"low_light": ["nights"]},
        "out_of_distribution": {"low_light": ["dusk", "dawn", "nightfall"]},
    }
    photos, data = [tmp_path / "photos"], tmp_path / "data"
    facts = prepare(recipe, photos, [nights, dusk], data)
    sets = {
        "in/low_light-nights": 2,
        "out/low_light-dusk": 2,
        "out/low_light-nightfall": 2,
        "existing/low_light-nights": 2,
    }
    assert facts["sets"] == sets and facts["missing"] == ["dawn"]
    assert facts["photographs"] + facts["left_out"] == 11 - 2 - 1 + 1 and 2 <= facts["left_out"] <= 4
    assert json.loads((data / "setting.json").read_text()) == facts and seen_in_training(data) == []
    with pytest.raises(UserError, match="tests on 2 photographs, makes existing pairs of 40 others"):
        settings = recipe | {"photographs": {"test": 2, "existing": 40, "generated": 9}}
        prepare(settings, photos, [nights, dusk], tmp_path / "other")
    with pytest.raises(UserError, match="No pair of low light is left"):
        prepare(recipe | {"existing": {"low_light": ["dusk"]}, "scenes": {"low_light": 0}}, photos, [dusk], data)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--photos", "nowhere"), "There is no folder nowhere"),
        (("--pairs", "nowhere"), "No pairs in nowhere"),
        (("--minutes", "0"), "--minutes 0: a training needs more than none."),
        (("--recipes", "huge"), "invalid choice: 'huge'"),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "claim", *arguments, "--output", str(tmp_path / "out")])
    try:
        code = main()
    except SystemExit as end:  # of argparse
        code = end.code
    assert code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_existing_pairs_that_are_not_there_are_named(tmp_path):
    recipe = load_recipe(RECIPES / "claim-compact.yaml")
    with pytest.raises(UserError, match="existing pairs of haze from the data set sots-indoor, which is in none of"):
        prepare(recipe | {"size": 48}, [draw_scenes(tmp_path / "photos", 2, 48)], [], tmp_path / "data")


@pytest.mark.parametrize("name", ["compact", "smoke"])
def test_what_a_recipe_names_is_there(name):
    recipe = load_recipe(RECIPES / f"claim-{name}.yaml")
    published = {"sots-indoor", "rain200h-samples", "reds", "reds-small", "lol-our485"}
    for kind in ("existing", "out_of_distribution"):
        assert list(recipe[kind]) == list(DEGRADATIONS)
        assert all({*sources} <= {*SIMULATORS[n]} | published for n, sources in recipe[kind].items())
    for degradation in DEGRADATIONS:  # haze has one kind of simulator only
        tests, others = recipe["out_of_distribution"][degradation], recipe["existing"][degradation]
        assert degradation == "haze" or not {*tests} & {*others, recipe["simulated"][degradation]}
        assert recipe["simulated"][degradation] in SIMULATORS[degradation]
    planned = [*trainings(recipe, 6000)]
    assert len({training.name for training in planned}) == len(planned)
    assert {training.network for training in planned} | set(_BEFORE) == set(recipe["time_shares"])
    assert any(training.data == "simulated" for training in planned), "its number is one of generated pairs, too"
    for of, base in recipe["recipes"].items():
        assert derived_recipe(recipe, load_recipe(RECIPES / f"{base}.yaml"), [*DEGRADATIONS])["workers"] >= 0, of


def test_gains_are_means_over_degradations():
    def quality(haze: float, one: float, other: float, known: float) -> dict:
        sets = {"out/haze-a": haze, "out/rain-a": one, "out/rain-b": other, "in/haze-c": known}
        return {name: {"pairs": 2, "psnr": value} for name, value in sets.items()}

    existing, both = quality(20, 10, 14, 30), quality(21, 12, 16, 29.9)
    assert means(existing, "out") == {"psnr": 16} and means(existing, "out", "rain") == {"psnr": 12}
    gained = gains([both], [existing])
    assert gained == {"out": [1.5], "in": [pytest.approx(-0.1)]}
    assert verdict("swin", gained).endswith("the aim is reached.")
    assert "not reached" in verdict("swin", gained | {"in": [-0.4]})
    assert "not reached" in verdict("swin", gained | {"out": [0.9]})
