"""Several degradations on one photograph: their order, their intensities, their maps; and what is refused."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gendeg import DEGRADATIONS, degrade_mixture, load_pipeline
from gendeg.image_forms import resize
from gendeg.intensity import intensity_of_pair
from gendeg.mixture import MAX_PARTS, PHYSICAL_ORDER, in_physical_order, label, mixture_name, parts_of
from runtime.errors import UserError


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline_folder):
    return load_pipeline(tiny_pipeline_folder, device="cpu")


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((120, 90), Image.Resampling.BICUBIC)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(image):
    return np.asarray(image).astype(int)


def test_each_part_is_asked_of_what_the_part_before_left(pipeline, photo):
    output = degrade_mixture(pipeline, photo, ["rain", "haze"], [0.1, 0.05], [0.06, 0.04], generator=seeded())
    generator = seeded()
    hazy = pipeline(photo, "haze", mu=0.05, sigma=0.04, generator=generator)
    both = pipeline(hazy.images[0], "rain", mu=0.1, sigma=0.06, generator=generator)
    assert output.degradations == ["haze", "rain"]
    assert np.array_equal(output.parts[0].images[0], hazy.images[0])
    assert np.array_equal(output.images[0], both.images[0])
    assert (output.parts[0].mu, output.parts[1].sigma) == (hazy.mu, both.sigma)


def test_maps_and_intensities_are_of_each_part_and_of_all(pipeline, photo):
    output = degrade_mixture(pipeline, photo, "motion_blur+low_light+snow", generator=seeded())
    assert output.images[0].size == output.clean[0].size == output.degradation_maps[0].size == photo.size
    assert np.array_equal(output.clean[0], photo), "the photograph itself"
    before = photo
    for part in output.parts:
        assert np.array_equal(part.clean[0], before), "measured against its own input"
        assert np.array_equal(part.degradation_maps[0], np.abs(pixels(part.images[0]) - pixels(before)))
        before = part.images[0]
    assert np.array_equal(output.images[0], before)
    whole = np.abs(pixels(output.images[0]) - pixels(photo))
    assert np.array_equal(output.degradation_maps[0], whole)
    assert output.delivered_mu[0] == pytest.approx(whole.mean() / 255, abs=1e-6)
    assert output.delivered_sigma[0] == pytest.approx(whole.std() / 255, abs=1e-6)
    size = pipeline.working_size(90, 120)
    small = [resize(torch.from_numpy(np.array(i)).permute(2, 0, 1), size) for i in (photo, output.images[0])]
    assert (output.mu[0], output.sigma[0]) == intensity_of_pair(*small)


@pytest.mark.parametrize("form", ["np", "pt"])
@pytest.mark.parametrize("size", ["working", "photo"])
def test_several_photographs_in_other_forms(pipeline, photo, form, size):
    options = {"output_type": form, "output_size": size}
    mu = [[0.1, 0.2], 0.05]
    generators = [seeded(1), seeded(2)]
    together = degrade_mixture(pipeline, [photo, photo], ["haze", "rain"], mu, generator=generators, **options)
    alone = degrade_mixture(pipeline, photo, ["haze", "rain"], [0.2, 0.05], generator=seeded(2), **options)
    assert len(together.images) == len(together.mu) == len(together.delivered_sigma) == 2
    assert np.abs(np.asarray(together.images[1]) - np.asarray(alone.images[0])).max() < 0.02
    difference = np.abs(np.asarray(together.images) - np.asarray(together.clean))
    assert np.abs(np.asarray(together.degradation_maps) - difference).max() < 0.005
    assert together.delivered_mu == pytest.approx(difference.mean((1, 2, 3)), abs=0.002)


def test_the_order_of_asking_does_not_matter(pipeline, photo):
    asked = {"rain": (0.1, 0.06), "haze": (0.05, 0.04), "low_light": (0.2, 0.1)}
    pictures = []
    for names in permutations(asked):
        mu, sigma = zip(*(asked[name] for name in names), strict=True)
        output = degrade_mixture(pipeline, photo, names, mu, sigma, num_inference_steps=1, generator=seeded())
        pictures.append(pixels(output.images[0]))
        assert output.degradations == ["low_light", "haze", "rain"]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


def test_one_degradation_is_a_mixture_of_one(pipeline, photo):
    mixture = degrade_mixture(pipeline, photo, "haze", [0.1], [0.06], generator=seeded(), output_size="working")
    alone = pipeline(photo, "haze", mu=0.1, sigma=0.06, generator=seeded(), output_size="working")
    assert np.array_equal(mixture.images[0], alone.images[0])
    assert (mixture.mu[0], mixture.sigma[0]) == pytest.approx((alone.mu[0], alone.sigma[0]), abs=0.001)


@pytest.mark.parametrize(
    ("degradations", "options", "sentence"),
    [
        ("rain+fog", {}, "Unknown degradation 'fog'. Choose one of: haze"),
        ("rain+", {}, "Unknown degradation ''"),
        ("", {}, "Unknown degradation ''"),
        (None, {}, "Unknown degradation None"),
        (3, {}, "Unknown degradation 3"),
        ([], {}, "A mixture has 1 to 3 degradations, not 0"),
        (["rain", "Rain"], {}, "Rain is given twice. A mixture takes each degradation once"),
        ("low-light+haze+rain+snow", {}, "A mixture has 1 to 3 degradations, not 4"),
        ("rain+haze", {"mu": [0.1]}, "There are 2 degradations but 1 values of mu. Give one for each"),
        ("rain+haze", {"sigma": [0.1, 0.1, 0.1]}, "There are 2 degradations but 3 values of sigma"),
        ("rain+haze", {"mu": 0.1}, "mu must be a list with a value for each of the 2 degradations, not 0.1"),
        ("rain+haze", {"sigma": "0.1,0.2"}, "sigma must be a list with a value for each"),
        ("rain+haze", {"output_type": "jpeg"}, 'output_type must be "pil"'),
    ],
)
def test_what_cannot_be_is_a_sentence_before_any_work(pipeline, photo, degradations, options, sentence, monkeypatch):
    monkeypatch.setattr(type(pipeline), "denoise", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(UserError, match=sentence):
        degrade_mixture(pipeline, photo, degradations, **options)


def test_every_degradation_has_its_place():
    assert sorted(PHYSICAL_ORDER) == sorted(DEGRADATIONS)


@given(st.lists(st.sampled_from(list(DEGRADATIONS)), min_size=1, max_size=MAX_PARTS, unique=True), st.randoms())
def test_a_mixture_has_one_name_however_it_is_asked_for(names, random):
    spelled = [random.choice((name, DEGRADATIONS[name].label, name.upper().replace("_", "-"))) for name in names]
    assert parts_of(spelled) == parts_of("+".join(spelled)) == names, "in the order given"
    name = mixture_name(spelled)
    shuffled = random.sample(names, len(names))
    assert mixture_name(shuffled) == mixture_name(name) == name, "one name for all orders, and its own name's name"
    assert parts_of(name) == in_physical_order(names)
    assert label(name) == label(shuffled) and label(name).count(" and ") == (len(names) > 1)


@given(st.lists(st.sampled_from(list(DEGRADATIONS)), max_size=6))
def test_a_list_is_a_mixture_or_refused(names):
    if 1 <= len(names) <= MAX_PARTS and len(set(names)) == len(names):
        assert parts_of(names) == names
    else:
        with pytest.raises(UserError):
            parts_of(names)
