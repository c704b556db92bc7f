"""How something gives way as mu rises: pictures as asked, rows that can be read again, bad input refused."""

import csv
import io
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gendeg import GenDegPipeline, load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import MU_MAX, NUM_BINS
from gendeg.prior import PRIOR
from gendeg.robustness import Robustness, Row, rising_mus, robustness, robustness_of_pairs
from runtime.errors import UserError

ASTRONAUT = Image.fromarray(skimage.data.astronaut()).resize((96, 80))
COFFEE = skimage.data.coffee()[::8, ::8]


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline_folder: Path) -> GenDegPipeline:
    return load_pipeline(tiny_pipeline_folder, device="cpu")


def brightness(image: Image.Image) -> float:
    return float(np.asarray(image).mean())


@given(st.sampled_from(list(DEGRADATIONS)), st.floats(0, MU_MAX))
def test_a_typical_sigma_is_one_that_real_data_have(degradation: str, mu: float) -> None:
    low, high = PRIOR.range(degradation)[1]
    assert low <= PRIOR.typical_sigma(degradation, mu) <= high


def test_a_typical_sigma_is_the_median_of_real_pairs() -> None:
    counts = PRIOR.pooled("haze")[18]  # thousands
    sigmas = np.repeat(np.arange(NUM_BINS), counts.astype(int)) * 0.4 / NUM_BINS
    mu = 18.5 * MU_MAX / NUM_BINS
    assert PRIOR.typical_sigma("haze", mu) == pytest.approx(np.median(sigmas) + 0.2 / NUM_BINS, abs=0.2 / NUM_BINS)
    alone, beside = PRIOR.typical_sigma("raindrop", 0.2), PRIOR.typical_sigma("raindrop", 0.19)  # one pair, none
    assert alone == pytest.approx(beside, abs=0.02)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_mu_rises_from_none_to_what_real_data_hold(degradation: str) -> None:
    mus = rising_mus(degradation)
    assert mus == sorted(set(mus)) and mus[0] == 0
    assert (mus[1], mus[-1]) == pytest.approx(DEGRADATIONS[degradation].mu_range)


def test_a_function_of_an_image_is_measured_on_every_picture(pipeline: GenDegPipeline) -> None:
    seen: list[Image.Image] = []

    def evaluate(image: Image.Image) -> Any:
        seen.append(image)
        return np.float32(brightness(image))

    done: list[tuple[int, int]] = []
    curve = robustness(
        evaluate, [ASTRONAUT, COFFEE], "rain", [0.1, 0, 0.1, 0.2], pipeline, 5, progress=lambda *n: done.append(n)
    )
    assert [(row.photograph, row.asked[0]) for row in curve.rows] == [(i, mu) for i in (0, 1) for mu in (0, 0.1, 0.2)]
    assert [row.values["value"] for row in curve.rows] == pytest.approx([brightness(image) for image in seen])
    assert done == [(i, 6) for i in range(1, 7)]
    assert np.array_equal(seen[0], ASTRONAUT) and np.array_equal(seen[3], COFFEE), "0: the photograph itself"
    assert [image.size for image in seen] == [(96, 80)] * 3 + [COFFEE.shape[1::-1]] * 3
    assert curve.rows[0].asked == curve.rows[0].reached == curve.rows[0].delivered == (0, 0)
    for row, image, clean in zip(curve.rows[1:3], seen[1:3], [ASTRONAUT] * 2, strict=True):
        difference = np.abs(np.asarray(image).astype(float) - np.asarray(clean)) / 255
        assert row.delivered == pytest.approx((difference.mean(), difference.std()), abs=1e-4)
        assert row.asked[1] == pytest.approx(PRIOR.typical_sigma("rain", row.asked[0]), abs=0.0006)
    again = robustness(brightness, COFFEE, "rain", [0.1, 0.2], pipeline, 6)
    expected = [row.values["value"] for row in curve.rows[4:]]
    assert [row.values["value"] for row in again.rows] == pytest.approx(expected), "the seed decides"


def test_what_is_measured_against_the_clean_photograph(pipeline: GenDegPipeline, photo: Path) -> None:
    def evaluate(degraded: Image.Image, clean: Image.Image) -> dict[str, float | None]:
        return {"equal": degraded.tobytes() == clean.tobytes(), "width": clean.width, "nothing": None}

    curve = robustness_of_pairs(evaluate, str(photo), "haze", [0, 0.2], pipeline, output_size="working")
    assert [row.values["equal"] for row in curve.rows] == [1, 0]
    assert [row.photograph for row in curve.rows] == [photo.name] * 2
    width = pipeline.working_size(240, 320)[1]
    assert [row.values["width"] for row in curve.rows] == [width, width]
    assert curve.means()[0.2]["nothing"] is None and curve.means()[0.2]["equal"] == 0


def test_means_are_of_the_photographs_at_one_asked_mu() -> None:
    rows = [
        Row(i, (mu, 0.1), (mu + i / 100, 0.1), (mu, 0.1), {"score": score, "sometimes": 1.0 if i else None})
        for i, mu, score in ((0, 0.1, 4.0), (0, 0.2, 2.0), (1, 0.1, 2.0), (1, 0.2, 1.0))
    ]
    means = Robustness("rain", tuple(rows)).means()
    assert [mean["score"] for mean in means.values()] == [3, 1.5] and list(means) == [0.1, 0.2]
    assert means[0.1]["mu_reached"] == pytest.approx(0.105) and means[0.1]["sometimes"] == 1


finite = st.floats(0, 1)
rows = st.builds(
    Row,
    st.integers(0, 5) | st.text(),
    *[st.tuples(finite, finite)] * 3,
    st.dictionaries(st.sampled_from(["a", "b_psnr"]), st.none() | st.floats(allow_nan=False)),
)


@given(st.lists(rows, min_size=1, max_size=5))
def test_a_table_is_read_again_as_it_was_written(rows: list[Row]) -> None:
    curve = Robustness("snow", tuple(rows))
    lines = list(csv.DictReader(io.StringIO(curve.to_csv())))
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        assert float(line["mu_reached"]) == pytest.approx(row.reached[0], abs=1e-6)
        for name in {name for row in rows for name in row.values}:
            value = row.values.get(name)
            assert line[name] == "" if value is None else float(line[name]) == value


def test_a_written_table_is_whole(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    curve = Robustness("snow", (Row(name, *[(0.1, 0.2)] * 3, {"psnr": math.inf}),))
    curve.write_csv(tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").read_bytes().splitlines()[1] == b"caf\xe9.png,snow,0.1,0.2,0.1,0.2,0.1,0.2,inf"


def test_the_example_of_the_documentation_runs(
    pipeline: GenDegPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "robustness.md").read_text(encoding="utf-8")
    monkeypatch.setattr("gendeg.robustness.load_pipeline", lambda: pipeline)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    assert capsys.readouterr().out.startswith("mu 0.000  sigma 0.000  faces 1\n")
    assert len((tmp_path / "faces.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"degradation": "fog"}, "Choose one of: haze"),
        ({"mus": []}, "mus must be numbers from 0 to 0.7"),
        ({"mus": [0]}, "at least one of them above 0"),
        ({"mus": [0.1, 0.8]}, "mus must be numbers from 0 to 0.7"),
        ({"mus": [float("nan")]}, "mus must be numbers from 0 to 0.7"),
        ({"mus": ["much"]}, "mus must be numbers from 0 to 0.7"),
        ({"mus": 0.1}, "mus must be numbers from 0 to 0.7"),
        ({"photographs": []}, "There is no photograph"),
        ({"photographs": "nowhere.png"}, "There is no file nowhere.png"),
        ({"photographs": [[1, 2]]}, "must be a PIL image"),
        ({"photographs": ASTRONAUT.resize((8, 8))}, "at least 32"),
        ({"evaluate": lambda image: "good"}, "What is measured must be a number; value is a str"),
        ({"evaluate": lambda image: [1]}, "value is a list"),
    ],
)
def test_bad_input_is_a_sentence(pipeline: GenDegPipeline, options: dict[str, Any], sentence: str) -> None:
    given = {"evaluate": brightness, "photographs": ASTRONAUT, "degradation": "haze", "mus": [0, 0.1]} | options
    with pytest.raises(UserError, match=sentence):
        robustness(**given, pipeline=pipeline)
