"""A mixture in the app: folded away until it is asked for, with the maps and numbers of each part."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from gendeg.degradations import DEGRADATIONS
from gendeg.figures import numbers, part_maps
from gendeg.jobs import Models, Step
from gendeg.request import Part, PartResult, Request, Result, read_request
from gendeg.tab import NONE, change_also, degrade_tab, progress, remember, run_generate, run_sweep
from runtime.errors import UserError

SETTINGS = (2, 1.0, 1.0, 256, "photo", "", "auto", "own", None)
NOTHING = (NONE, 0.1, 0.1)


@pytest.fixture
def run(tiny_pipeline_folder: Path, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch):
    """All that the button Generate yields for rain, and what is added to it."""
    folder = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    config = json.loads((folder / "model_index.json").read_text())
    config["num_inference_steps"] = dict.fromkeys(DEGRADATIONS, 3) | {"rain": 2}
    (folder / "model_index.json").write_text(json.dumps(config))
    monkeypatch.setenv("GENDEG_MODEL", str(folder))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(photo.parent))
    asked = (False, None, {"path": str(photo)}, "rain", 0.1, 0.06, 1)

    def run(*also: Any, cancelled: Event | None = None, settings: tuple[Any, ...] = SETTINGS) -> list[tuple[Any, ...]]:
        return list(run_generate(Models(), cancelled or Event(), *asked, *settings, *also))

    return run


def steps_of(yielded: list[tuple[Any, ...]]) -> list[str]:
    said = [line[0].split("<")[0] for line in yielded if isinstance(line[0], str)]
    return [line for line in said if "Step" in line or "Carrying" in line]


def test_a_mixture_shows_its_parts(run) -> None:
    status, _, images, whole, _, parts, difference, table, degraded, *_ = run("haze", 0.05, 0.04, *NOTHING)[-1]
    assert status.startswith("Done: 320 × 240 pixels, seed 1.")
    assert images[0].size == images[1].size == whole.size == (320, 240)
    assert parts["visible"] and not difference["visible"]
    maps, captions = zip(*parts["value"], strict=True)
    assert [caption.split(",")[0] for caption in captions] == ["Haze", "Rain"], "in the order of physics"
    assert all(image.size == (320, 240) for image in maps) and not np.array_equal(*map(np.asarray, maps))
    assert re.findall(r'"row">([^<]+)<', table) == ["Haze μ", "Haze σ", "Rain μ", "Rain σ", "All μ", "All σ"]
    assert "<td>0.050</td>" in table and "<td>0.100</td>" in table and '<td id="asked-mu">–</td>' in table
    assert Path(degraded["value"]).name == "astronaut-haze+rain-1-degraded.png"


def test_one_degradation_shows_what_it_always_did(run) -> None:
    alone, folded = run(), run(*NOTHING, *NOTHING)
    for *_, last in (alone, folded):
        assert not last[5]["visible"] and last[5]["value"] == []
        assert re.findall(r'"row">([^<]+)<', last[7]) == ["μ", "σ"]
        assert '<td id="asked-mu">0.100</td>' in last[7]
    assert steps_of(alone) == steps_of(folded) == ["Step 1 of 2", "Carrying it over to the photograph…"]
    assert np.array_equal(alone[-1][2][1], folded[-1][2][1])


def test_progress_covers_all_parts_and_each_has_its_own_steps(run) -> None:
    own = steps_of(run("haze", 0.05, 0.04))
    assert own == [
        "Degradation 1 of 2: Step 1 of 3",
        "Degradation 1 of 2: Step 2 of 3",
        "Degradation 1 of 2: Carrying it over to the photograph…",
        "Degradation 2 of 2: Step 1 of 2",
        "Degradation 2 of 2: Carrying it over to the photograph…",
    ]
    asked = steps_of(run("haze", 0.05, 0.04, settings=(1, *SETTINGS[1:])))
    assert asked == [f"Degradation {part} of 2: Carrying it over to the photograph…" for part in (1, 2)]
    shares = [
        float(re.search(r"width:(\d+)%", progress(Step(s, 4, part=p, parts=3)))[1]) for p in range(3) for s in (1, 4)
    ]
    assert shares == sorted(shares) and len(set(shares)) == 6 and shares[-1] == 100


def test_cancelling_stops_whichever_part_is_at_work(run, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled, generate = Event(), Models.generate

    def cancel_in_the_second(self: Models, *arguments: Any) -> Any:
        for event in generate(self, *arguments):
            if isinstance(event, Step) and event.part == 1:
                cancelled.set()
            yield event

    monkeypatch.setattr(Models, "generate", cancel_in_the_second)
    yielded = run("haze", 0.05, 0.04, cancelled=cancelled)
    assert yielded[-1][0] == "Cancelled." and len(yielded[-1]) == len(yielded[0])
    assert steps_of(yielded)[-1].startswith("Degradation 1")


@pytest.mark.parametrize(
    ("also", "sentence"),
    [
        (("rain", 0.1, 0.1), "Rain is given twice. A mixture takes each degradation once."),
        (("haze", 0.1, 0.1, "haze", 0.1, 0.1), "Haze is given twice"),
        (("fog", 0.1, 0.1), "Choose one of: haze"),
        (("haze", 5, 0.1), "mu must be a number from 0 to 0.7"),
    ],
)
def test_what_cannot_be_mixed_is_a_sentence(run, also: tuple[Any, ...], sentence: str) -> None:
    (only,) = run(*also)
    assert sentence in only[0]


def test_a_sweep_is_of_the_first_degradation(run, photo: Path) -> None:
    asked = (None, {"path": str(photo)}, "rain", 0.1, 0.06, 1, 1, *SETTINGS[1:])
    figures = [list(run_sweep(Models(), Event(), *asked, *also))[-1] for also in ((), ("haze", 0.1, 0.1))]
    assert all(status.startswith("Done") for status, _ in figures)
    assert np.array_equal(*(figure["value"] for _, figure in figures))


def test_sliders_of_a_further_degradation_are_there_when_it_is_chosen() -> None:
    assert [shown["visible"] for shown in change_also(NONE)] == [False] * 3
    strength, mu, sigma = change_also("snow")
    assert strength["visible"] and strength["value"] == "moderate"
    assert mu["visible"] and sigma["visible"] and (mu["value"], sigma["value"]) == DEGRADATIONS["snow"].typical
    assert mu["minimum"] < mu["value"] < mu["maximum"]


def test_the_page_wires_what_the_functions_take_and_give(tiny_pipeline_folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("GENDEG_MODEL", str(tiny_pipeline_folder))
    with gr.Blocks() as page:
        degrade_tab(page, Models())
    generate = next(event for event in page.fns.values() if event.name == "generate_clicked")
    labels = [getattr(component, "label", None) for component in generate.inputs]
    also, also_mu, _, further, _, further_sigma = generate.inputs[-6:]
    assert labels[-6] == "Also add" and also.value == further.value == NONE
    assert not also_mu.visible and not further_sigma.visible
    assert len(generate.inputs) == 2 + 6 + len(SETTINGS) + 6 and len(generate.outputs) == 10 + 1


def test_requests_of_mixtures(photo: Path) -> None:
    request = read_request(str(photo), "snow", 0.1, 0.05, also=[("Low light", None, 0.1), ("haze", 0.05, None)])
    dark, hazy = (DEGRADATIONS[name].typical for name in ("low_light", "haze"))
    assert request.parts == [Part("low_light", dark[0], 0.1), Part("haze", 0.05, hazy[1]), Part("snow", 0.1, 0.05)]
    assert replace(request, also=()).parts == [Part("snow", 0.1, 0.05)]
    with pytest.raises(UserError, match="A mixture has 1 to 3 degradations, not 4"):
        read_request(str(photo), "snow", also=[(name, 0.1, 0.1) for name in ("haze", "rain", "raindrop")])


def test_what_a_mixture_has_not_reached_yet_is_a_dash() -> None:
    image = Image.new("RGB", (40, 40))
    request = Request(image, "rain", 0.1, 0.06, also=(Part("haze", 0.05, 0.04),))
    assert numbers(request).count("–") == 2 * (2 + 2 + 3)
    assert numbers().count("–") == 6
    flat = np.zeros((40, 40))
    parts = (PartResult(flat, 0.051, 0.041), PartResult(flat, 0.11, 0.061))
    result = Result(image, image, flat, 0.15, 0.07, 0.16, 0.08, None, None, request, parts)
    assert numbers(request, result).count("–") == 2 * (1 + 1 + 1)
    assert [caption for _, caption in part_maps(result)] == ["Haze, to 0.02", "Rain, to 0.02"]


def test_with_a_mask_the_rest_stays_as_it_was(run, photo: Path) -> None:
    marked = Image.new("L", (32, 24), 0)
    marked.paste(255, (0, 0, 12, 24))
    marked.save(photo.parent / "mask.png")
    settings = (*SETTINGS[:-1], {"path": str(photo.parent / "mask.png")})
    for also in ((), ("haze", 0.05, 0.04)):
        *_, last = run(*also, settings=settings)
        clean, degraded = (np.asarray(image) for image in last[2])
        assert np.array_equal(clean[:, 180:], degraded[:, 180:]), "right of the soft edge"
        assert not np.array_equal(clean[:, :100], degraded[:, :100])
        rows = re.findall(r'"row">([^<]+)<', last[7])
        assert rows[-2:] == ["In the mask μ", "In the mask σ"]


def test_results_of_a_visit_are_kept_small_and_few(run, photo: Path) -> None:
    file, visit = run()[-1][8]["value"], None
    for number in range(14):
        (photo.parent / str(number)).mkdir()
        visit, shown = remember(visit, shutil.copy(file, photo.parent / str(number)))
    assert len(visit) == len(shown["value"]) == 12 and shown["visible"]
    small, name = shown["value"][0]
    assert name == "astronaut-rain-1" and max(Image.open(small).size) == 320
    last = str(photo.parent / "13" / Path(file).name)
    for nothing in (None, str(photo.parent / "gone.png"), last):  # the last: a click of which nothing came
        assert remember(visit, nothing) == (gr.skip(), gr.skip())
    for small, *_ in visit[1:]:
        Path(small).unlink()
    assert len(remember(visit, file)[1]["value"]) == 2, "what was deleted meanwhile is shown no more"
