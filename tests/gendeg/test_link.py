"""A link, and a downloaded file, say what was asked for; what a link says is checked like everything else."""

import json
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gendeg.degradations import DEGRADATIONS
from gendeg.link import link, read_link, settings, texts
from gendeg.request import MAX_SEED, Part, Request
from gendeg.tab import from_link
from runtime.page import save_pngs

PHOTO = Image.new("RGB", (8, 8))
NUMBERS = st.floats(0, 0.4).map(lambda value: float(f"{value:g}"))


@given(
    names=st.lists(st.sampled_from(list(DEGRADATIONS)), min_size=1, max_size=3, unique=True),
    intensities=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=3),
    seed=st.integers(0, MAX_SEED),
)
def test_a_link_brings_back_what_was_asked(names, intensities, seed):
    first, *also = (Part(name, *numbers) for name, numbers in zip(names, intensities, strict=False))
    request = Request(PHOTO, first.degradation, first.mu, first.sigma, seed, also=tuple(also))
    asked = read_link(dict(parse_qsl(link(request).removeprefix("?"))))
    assert asked.seed == seed and list(asked.parts) == request.parts


@given(st.text(max_size=60), st.text(max_size=30))
def test_whatever_an_address_says_the_page_opens(parts, seed):
    asked = read_link({"d": parts, "seed": seed})
    assert asked is None or 1 <= len(asked.parts) <= 3
    assert len(from_link({"d": parts})) == 17


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"seed": "3"},
        {"d": "fog,0.1,0.1"},
        {"d": "haze,2,0.1"},
        {"d": "haze,nan,0.1"},
        {"d": "haze,0.1,0.1;haze,0.1,0.1"},
        {"d": "haze,0.1,0.1,7"},
        {"d": "haze;rain;snow;low_light"},
        {"d": "haze,0.1,0.1", "seed": "-1"},
    ],
)
def test_what_cannot_be_done_is_left_aside(query):
    assert read_link(query) is None


def test_a_name_alone_means_its_typical_intensity():
    (part,) = read_link({"d": "rain"}).parts
    assert (part.mu, part.sigma) == DEGRADATIONS["rain"].typical


def test_the_page_is_set_by_its_address():
    said, fold, kind, mu, sigma, plot, strength, seed, randomise, also, level, also_mu, *_ = from_link(
        {"d": "haze,0.05,0.04;rain,0.69,0.1", "seed": "7"}
    )
    assert "haze and rain" in said and fold["open"], "the second degradation is seen"
    assert (kind, mu["value"], sigma["value"], strength, seed, randomise) == ("haze", 0.05, 0.04, None, 7, False)
    assert "<svg" in plot and also == "rain" and also_mu["value"] == also_mu["maximum"] == 0.69
    assert level["visible"] and level["value"] is None, "neither light nor heavy: what the address says"


def test_downloads_hold_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    request = Request(PHOTO, "snow", 0.1, 0.06, 5, caption="Straße im Schnee", resolution=320)
    (file,) = save_pngs({"degraded": PHOTO}, texts(request))
    held = json.loads(Image.open(file).text["gendeg"])
    assert held == settings(request)
    assert held["degradations"] == [{"name": "snow", "mu": 0.1, "sigma": 0.06}]
    assert (held["seed"], held["caption"], held["resolution"]) == (5, "Straße im Schnee", 320)
