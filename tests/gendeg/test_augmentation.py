"""Degradations during training: nothing twice, everything again with the same seed, labels as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.utils.data import DataLoader

from gendeg.augmentation import DegradedPhotos, RandomDegradation
from gendeg.degradations import DEGRADATIONS
from gendeg.prior import PRIOR, UNIFORM_EVERY, named_rng
from runtime.errors import UserError

IMAGE = skimage.data.coffee()[:240:4, :320:4].copy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of one photograph: what differs in their items is drawn."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(4):
        Image.fromarray(skimage.data.astronaut()).resize((80, 64)).save(folder / f"{index}.png")
    return folder


def epoch(data: DegradedPhotos, **options: Any) -> list[dict[str, Any]]:
    return list(DataLoader(data, batch_size=None, **options))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["degradation"] == other["degradation"] and torch.equal(one["degraded"], other["degraded"])


def test_an_item(folder: Path, tiny_pipeline_folder: Path) -> None:
    data = DegradedPhotos(folder, 48, ["rain", "Low light"], tiny_pipeline_folder)
    for item in (data[i] for i in range(len(data))):
        assert item["clean"].shape == item["degraded"].shape == (3, 48, 48)
        assert item["clean"].dtype == item["degraded"].dtype == torch.float32
        assert all(0 <= item[name].min() and item[name].max() <= 1 for name in ("clean", "degraded"))
        assert item["degradation"] in ("rain", "low_light")
        difference = (item["clean"] - item["degraded"]).abs()
        assert item["mu"] == pytest.approx(float(difference.mean()), abs=1e-4) and item["mu"] > 0
        assert item["sigma"] == pytest.approx(float(difference.std()), abs=1e-3)
    assert len(data) == 4 and same(data[-1], data[3])
    with pytest.raises(IndexError):
        data[4]
    (batch,) = DataLoader(data, batch_size=4)
    assert batch["clean"].shape == (4, 3, 48, 48) and batch["mu"].shape == (4,) and len(batch["degradation"]) == 4


def test_nothing_twice_and_everything_again(folder: Path, tiny_pipeline_folder: Path) -> None:
    data = DegradedPhotos(folder, 32, pipeline=tiny_pipeline_folder, seed=3)
    first, second = epoch(data), None
    assert not any(same(first[i], first[j]) for i in range(4) for j in range(i)), "of one photograph, four pictures"
    workers = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    assert all(map(same, first, workers)), "whatever the number of workers"
    data.set_epoch(1)
    second = list(workers)
    assert not any(same(one, other) for one in first for other in second), "workers that stay know the epoch"
    again = DegradedPhotos(folder, 32, pipeline=tiny_pipeline_folder, seed=3)
    again.set_epoch(1)
    assert same(again[2], second[2])
    assert not same(DegradedPhotos(folder, 32, pipeline=tiny_pipeline_folder, seed=4)[0], first[0])


@given(st.lists(st.integers(0, 2**63 - 1) | st.text(), min_size=1, max_size=3), st.integers(0, 3))
def test_numbers_drawn_under_another_name_are_others(name: list[Any], place: int) -> None:
    other = list(name)
    other.insert(place, 0)
    assert named_rng(*name).integers(2**63) == named_rng(*name).integers(2**63)
    assert named_rng(*name).integers(2**63) != named_rng(*other).integers(2**63)


def test_one_in_so_many_intensities_is_uniform() -> None:
    rng = np.random.default_rng(0)
    drawn = [PRIOR.draw("snow", rng) for _ in range(4000)]
    assert sum(sample.uniform for sample in drawn) / 4000 == pytest.approx(1 / UNIFORM_EVERY, abs=0.015)


def test_an_image_is_degraded_and_its_labels_are_not(tiny_pipeline_folder: Path) -> None:
    transform = RandomDegradation(["motion_blur", "haze"], p=1, pipeline=tiny_pipeline_folder)
    mask, boxes, before = np.ones(IMAGE.shape[:2], bool), [(0, 0, 5, 5)], IMAGE.copy()
    result = transform(image=IMAGE, mask=mask, bboxes=boxes, labels=["cup"])
    assert list(result) == ["image", "mask", "bboxes", "labels"]
    assert result["mask"] is mask and result["bboxes"] is boxes and result["labels"] == ["cup"]
    assert result["image"].shape == IMAGE.shape and result["image"].dtype == np.uint8
    assert not np.array_equal(result["image"], IMAGE) and np.array_equal(IMAGE, before), "the one given stays"
    assert not np.array_equal(transform(image=IMAGE)["image"], result["image"])
    again = RandomDegradation(["motion_blur", "haze"], p=1, pipeline=tiny_pipeline_folder)
    assert np.array_equal(again(image=IMAGE)["image"], result["image"])


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
    st.dictionaries(st.text(min_size=1).filter(lambda name: name != "image"), st.integers()),
)
def test_without_luck_everything_passes(image: np.ndarray, others: dict[str, int]) -> None:
    assert RandomDegradation(p=0, pipeline="nowhere")(image=image, **others) == {"image": image, **others}


def test_the_probability_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    transform, degraded = RandomDegradation(p=0.3, pipeline="nowhere"), torch.zeros(3, 1, 1)
    monkeypatch.setattr(transform, "_degrade", lambda image, rng: {"degraded": degraded})
    white = np.full((1, 1, 3), 255, np.uint8)
    share = np.mean([transform(image=white)["image"].max() == 0 for _ in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)


class Transformed(torch.utils.data.Dataset):
    def __init__(self, transform: RandomDegradation):
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.transform(image=IMAGE)["image"])


def test_workers_do_not_repeat_each_other_and_a_run_repeats(tiny_pipeline_folder: Path) -> None:
    transform = RandomDegradation(["rain"], p=1, pipeline=tiny_pipeline_folder)
    transform(image=IMAGE)  # workers inherit numbers that have begun

    def two_epochs() -> list[torch.Tensor]:
        torch.manual_seed(0)
        loader = DataLoader(Transformed(transform), batch_size=None, num_workers=2)
        return [image for _ in range(2) for image in loader]

    first = two_epochs()
    assert not any(torch.equal(first[i], first[j]) for i in range(8) for j in range(i))
    assert all(map(torch.equal, first, two_epochs()))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: DegradedPhotos(folder / "nowhere"), "There is no folder"),
        (lambda folder: DegradedPhotos(Path(__file__).parent), "No images in"),
        (lambda folder: DegradedPhotos(folder, size=8), "at least 32 pixels, not 8"),
        (lambda folder: DegradedPhotos(folder, degradations=["fog"]), "Choose one of: haze"),
        (lambda folder: DegradedPhotos(folder, degradations=[]), "Name at least one degradation"),
        (lambda folder: DegradedPhotos(folder, pipeline=folder)[0], "model"),
        (lambda folder: RandomDegradation(p=1.5), "from 0 to 1, not 1.5"),
        (lambda folder: RandomDegradation(p=float("nan")), "from 0 to 1"),
        (lambda folder: RandomDegradation("fog"), "Choose one of: haze"),
        (lambda folder: RandomDegradation()(image=IMAGE / 255), "uint8 array"),
        (lambda folder: RandomDegradation()(image=IMAGE[..., 0]), "uint8 array"),
        (lambda folder: RandomDegradation()(image=Image.fromarray(IMAGE)), "uint8 array"),
    ],
)
def test_bad_input_is_a_sentence(folder: Path, make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(folder)


def test_a_damaged_file_is_named(tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    (tmp_path / "broken.png").write_text("no pixels here")
    with pytest.raises(UserError, match=r"broken\.png"):
        DegradedPhotos(tmp_path, pipeline=tiny_pipeline_folder)[0]


def test_all_degradations_are_drawn(folder: Path, tiny_pipeline_folder: Path) -> None:
    data = DegradedPhotos(folder, 32, pipeline=tiny_pipeline_folder)
    names = set()
    for number in range(12):
        data.set_epoch(number)
        names |= {data[index]["degradation"] for index in range(4)}
    assert names == set(DEGRADATIONS)
