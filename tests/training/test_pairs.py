import itertools
import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch.utils.data import default_collate

from gendeg.codec import PatchCodec
from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from runtime.errors import UserError
from tests.runtime.test_files import full_disk
from training.generator.latent_pairs import encode_pairs
from training.pair_folders import PairFolders
from training.pairs import PHRASES, TrainingPairs, _made, stored_pairs, training_pairs
from training.photos import Photos
from training.simulators.matching import SIMULATORS, simulate


def test_every_degradation_has_simulators():
    assert set(SIMULATORS) == set(DEGRADATIONS) and all(SIMULATORS.values())


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_simulates_a_wanted_intensity(name):
    photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    photo = torch.nn.functional.interpolate(photo, (128, 128), mode="area")[0]
    low, high = DEGRADATIONS[name].mu_range
    reached = []
    for position in (0.1, 0.4, 0.7):
        mu = low + position * (high - low)
        pair = simulate(photo, name, mu, DEGRADATIONS[name].typical[1], torch.Generator().manual_seed(1))
        measured = intensity(photo[None], pair.degraded[None])
        assert pair.mu == pytest.approx(mu, abs=0.015)
        assert (pair.mu, pair.sigma) == pytest.approx([float(v) for v in measured], abs=1e-5)
        kind = DEGRADATIONS[name]
        assert pair.phrase in (kind.phrase, *dict(kind.mixed_phrases).values(), *kind.variants)
        reached.append(pair.mu)
    assert reached == sorted(reached)


def test_pairs_depend_on_seed_and_index_alone():
    pairs, again, other = (TrainingPairs(Photos(), 64, seed) for seed in (0, 0, 1))
    for index in (0, 4, 11):
        item = pairs[index]
        assert item["clean"].shape == item["degraded"].shape == (3, 64, 64)
        assert int(item["degradation"]) == index % len(DEGRADATIONS)
        assert PHRASES[int(item["phrase"])]
        assert all(torch.equal(item[key], again[index][key]) for key in item)
        assert not torch.equal(item["clean"], other[index]["clean"])


def test_many_pairs_are_made_at_once():
    """As on a GPU."""
    wanted = default_collate([TrainingPairs(Photos(), 64).wanted(i) for i in range(24)])
    pairs = _made(wanted)
    assert pairs["degradation"].tolist() == list(range(6)) * 4
    assert torch.equal(pairs["clean"], wanted["clean"])
    measured = intensity(*(pairs[name].float() / 255 for name in ("clean", "degraded")))
    for reached, name in zip(measured, ("mu", "sigma"), strict=True):
        torch.testing.assert_close(pairs[name], reached, atol=2e-3, rtol=0)
    assert (pairs["mu"] - wanted["mu"]).abs().median() < 0.01
    for phrase, number in zip(pairs["phrase"].tolist(), pairs["degradation"].tolist(), strict=True):
        kind = list(DEGRADATIONS.values())[number]
        assert PHRASES[phrase] in (kind.phrase, *dict(kind.mixed_phrases).values(), *kind.variants)


def test_pairs_of_one_degradation():
    pairs = TrainingPairs(Photos(), 64, degradations=["motion_blur"])
    items = [pairs[i] for i in range(3)]
    assert {list(DEGRADATIONS)[int(item["degradation"])] for item in items} == {"motion_blur"}
    assert not torch.equal(items[0]["clean"], items[1]["clean"])
    with pytest.raises(ValueError, match="Unknown degradation 'fog'"):
        TrainingPairs(Photos(), 64, degradations=["fog"])


def test_published_pairs_are_mixed_in_by_shares(tmp_path):
    for name, scene, value in (("a", "1", 200), ("b", "2", 201)):
        Image.fromarray(np.full((40, 50, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.full((40, 50, 3), value // 2, np.uint8)).save(tmp_path / f"{name}-dark.png")
        row = {"file_name": f"{name}-dark.png", "clean_file_name": f"{name}.png", "degradation": "low_light"}
        with (tmp_path / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(row | {"scene": scene}) + "\n")
    published = PairFolders([tmp_path])
    pairs = TrainingPairs(Photos(), 64, sources=[(published, {"low_light": 0.5, "rain": 1.0})])
    items = [pairs[i] for i in range(5, 240, 6)]
    found = [i for i in items if int(i["clean"].min()) == int(i["clean"].max()) in (200, 201)]
    assert 10 < len(found) < 30, "half of the dark ones"
    assert {int(item["clean"][0, 0, 0]) for item in found} == {200, 201}
    for item in found:
        assert item["clean"].shape == (3, 64, 64), "enlarged where the pair is smaller"
        assert int(item["degraded"].max()) == int(item["clean"].max()) // 2
        assert float(item["mu"]) == pytest.approx(100.5 / 255, abs=0.005) and float(item["sigma"]) < 0.003
        assert PHRASES[int(item["phrase"])] == "in low-light conditions"
    assert all(float(pairs[i]["mu"]) > 0 for i in range(1, 13, 6)), "there are no published pairs of rain"
    assert pairs.name(6) != TrainingPairs(Photos(), 64).name(6)
    with pytest.raises(UserError, match="None of the pairs shows only a degradation that the recipe draws"):
        TrainingPairs(Photos(), 64, sources=[(published, {"rain": 0.5})])
    with pytest.raises(UserError, match="fog: no degradation"):
        TrainingPairs(Photos(), 64, sources=[(published, {"fog": 0.5})])
    with pytest.raises(UserError, match="low_light add up to more than 1"):
        TrainingPairs(Photos(), 64, sources=[(published, {"low_light": 0.6})] * 2)


def test_one_kind_of_simulator_alone():
    clean = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in SIMULATORS["rain"]:
        for seed in range(3):
            assert simulate(clean, "rain", 0.1, 0.1, torch.Generator().manual_seed(seed), name).simulator == name


def test_mixtures_serve_restorers_as_each_of_their_parts_and_generators_not(tmp_path):
    row = {"clean_file_name": "clean.png", "file_name": "degraded.png", "degradation": "Haze+low-light"}
    for name, value in (("clean", 200), ("degraded", 100)):
        Image.new("RGB", (70, 70), (value,) * 3).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    mixed = PairFolders([tmp_path])
    shares = {"haze": 1.0, "low_light": 1.0, "rain": 1.0}
    pairs = TrainingPairs(Photos(), 64, sources=[(mixed, shares)], unnamed=True)
    from_files = {list(DEGRADATIONS)[i] for i in range(6) if pairs.wanted(i)["found"]}
    assert from_files == {"haze", "low_light"}
    with pytest.raises(UserError, match="None of the pairs shows only a degradation"):
        TrainingPairs(Photos(), 64, sources=[(mixed, shares)])


def test_storing_resumes(tmp_path):
    class Counting(TrainingPairs):
        made = 0

        def __getitem__(self, index):
            if Counting.made > 700:
                raise KeyboardInterrupt
            Counting.made += 1
            rng = np.random.default_rng(index)
            return {"clean": torch.from_numpy(rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)), "mu": torch.tensor(0.1)}

    with pytest.raises(KeyboardInterrupt):
        stored_pairs(Counting(Photos(), 4), 1024, tmp_path, workers=0)
    Counting.made = 0
    arrays = stored_pairs(Counting(Photos(), 4), 1024, tmp_path, workers=0)
    assert Counting.made < 700
    for index in (0, 511, 512, 1023):
        np.testing.assert_array_equal(
            arrays["clean"][index], np.random.default_rng(index).integers(0, 256, (3, 4, 4), dtype=np.uint8)
        )


class _Numbered(TrainingPairs):
    """Pairs that tell their index, and how many were made."""

    made = 0

    def __getitem__(self, index):
        _Numbered.made += 1
        return {"clean": torch.full((3, 8, 8), index % 251, dtype=torch.uint8), "mu": torch.tensor(float(index))}


def _store_numbered(folder):
    _Numbered.made = 0
    arrays = stored_pairs(_Numbered(Photos(), 8), 600, folder, workers=0)
    assert arrays["mu"].tolist() == list(range(600))
    assert all((image == i % 251).all() for i, image in enumerate(arrays["clean"]))


@pytest.mark.parametrize("name", ["state.json", "clean.npy", "mu.npy"])
@pytest.mark.parametrize("left", [0, 11, -1, None])
def test_damaged_files_are_made_anew(tmp_path, capsys, name, left):
    _store_numbered(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not capsys.readouterr().out
    _store_numbered(tmp_path)
    assert _Numbered.made == 1, "all there"
    file = folder / name
    file.unlink() if left is None else file.write_bytes(file.read_bytes()[:left])
    _store_numbered(tmp_path)
    assert _Numbered.made > 600
    said = capsys.readouterr().out.splitlines()
    note_is_gone = (name, left) == ("state.json", None)
    assert said == ([] if note_is_gone else [f"{folder} holds a damaged file: its pairs are made anew."])


@pytest.mark.parametrize("state", ["[]", "{}", '{"done": "600"}', '{"done": 601}', '{"done": -5}', "null"])
def test_a_note_that_cannot_be_true_is_not_believed(tmp_path, state):
    _store_numbered(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "state.json").write_text(state)
    _store_numbered(tmp_path)
    assert _Numbered.made > 600


def test_a_disk_without_room_for_all_pairs_is_told_before_they_are_simulated(tmp_path):
    with full_disk(50_000), pytest.raises(OSError) as told:
        _store_numbered(tmp_path)
    assert told.value.filename.endswith("clean.npy") and _Numbered.made == 1
    (folder,) = tmp_path.iterdir()
    assert not list(folder.iterdir()), "and nothing takes up its last room"
    _store_numbered(tmp_path)
    assert (folder / "clean.npy").stat().st_blocks * 512 >= 600 * 3 * 8 * 8


@pytest.mark.parametrize("left", [0, 100, -1])
def test_damaged_latents_are_encoded_anew(tmp_path, capsys, left):
    arrays = {name: np.full((6, 3, 16, 16), 90, dtype=np.uint8) for name in ("clean", "degraded")}
    arrays |= {name: np.zeros(6, dtype=np.float32) for name in ("mu", "sigma", "degradation", "phrase")}
    codec, file = PatchCodec(latent_channels=8, width=8, depth=1), tmp_path / "latents.pt"
    first = {name: values.clone() for name, values in encode_pairs(codec, arrays, file).items()}
    file.write_bytes(file.read_bytes()[:left])
    again = encode_pairs(codec, arrays, file)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert capsys.readouterr().out == f"{file} is damaged: the pairs are encoded anew.\n"


def test_pairs_of_other_photographs_are_not_taken_for_these(tmp_path):
    names = set()
    for name in ("coffee", "cat"):
        (tmp_path / name).mkdir()
        Image.fromarray(getattr(data, name)()).save(tmp_path / name / "photo.png")
        photos = Photos(tmp_path / name)
        (clean, *_) = stored_pairs(TrainingPairs(photos, 32), 6, tmp_path, workers=0)["clean"]
        assert np.array_equal(clean, TrainingPairs(photos, 32)[0]["clean"])
        names |= {p.name(6) for p in (TrainingPairs(photos, 32), TrainingPairs(Photos(tmp_path / name, 0.5), 32))}
    names |= {TrainingPairs(photos, 32, degradations=["snow"]).name(6), TrainingPairs(Photos(), 32).name(6)}
    assert len(names) == 6
    assert TrainingPairs(photos, 32, seed=1).name(6) in names, "another seed's pairs serve as well"


def test_a_damaged_photograph_is_named(tmp_path):
    (tmp_path / "._cat.jpg").write_text("no image, and hidden")
    (tmp_path / "cat.jpg").write_text("no image")
    photos = Photos(tmp_path)
    assert [file.name for file in photos.files] == ["cat.jpg"]
    with pytest.raises(ValueError, match=r"cat\.jpg is not an image"):
        photos.random_crop(32, np.random.default_rng(0))


def test_photographs_come_upright_and_at_any_size(tmp_path):
    Image.fromarray(data.coffee()).save(tmp_path / "wide.png")
    Image.fromarray(data.coffee()).resize((40, 30)).convert("L").save(tmp_path / "tiny_grey.jpg")
    (tmp_path / "notes.txt").write_text("not an image")
    photos = Photos(tmp_path)
    assert len(photos.files) == 2
    for seed in range(6):
        crop = photos.random_crop(96, np.random.default_rng(seed))
        assert crop.shape == (96, 96, 3) and crop.dtype == np.uint8


def test_some_photographs_lie_partly_out_of_focus(tmp_path):
    Image.fromarray(data.gravel()).convert("RGB").save(tmp_path / "gravel.png")
    plain, half, all_of_them = (Photos(tmp_path, share) for share in (0.0, 0.5, 1.0))
    untouched, soft = 0, []
    for seed in range(20):
        before, sometimes, after = (p.random_crop(128, np.random.default_rng(seed)) for p in (plain, half, all_of_them))
        untouched += np.array_equal(before, sometimes)
        assert after.dtype == np.uint8 and after.shape == before.shape
        assert after.mean() == pytest.approx(before.mean(), abs=3)
        soft.append(_roughness(after) / _roughness(before))
    assert 4 < untouched < 16
    assert min(soft) < 0.5, "some must be mostly out of focus"
    assert 0.5 < max(soft) < 1, "and some but a little"


def _roughness(image):
    return np.abs(np.diff(image.astype(float), axis=0)).mean()


def test_recoloured_pairs_change_colours_alike_in_both_images(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (12, 3, 16, 16), dtype=np.uint8) for name in ("clean", "degraded")}
    arrays |= {name: np.zeros(12, dtype=np.float32) for name in ("mu", "sigma", "degradation", "phrase")}
    codec = PatchCodec(latent_channels=8, width=8, depth=1)
    encoded = encode_pairs(codec, arrays, tmp_path / "latents.pt", recoloured_share=0.5)
    found = []
    for order in itertools.permutations(range(3)):
        recoloured = {name: arrays[name][:, order] for name in ("clean", "degraded")} | {"mu": arrays["mu"]}
        recoloured |= {name: arrays[name] for name in ("sigma", "degradation", "phrase")}
        plain = encode_pairs(codec, recoloured, tmp_path / f"{order}.pt")
        same = [torch.isclose(plain[n], encoded[n], atol=1e-2).flatten(1).all(1) for n in ("clean", "degraded")]
        assert torch.equal(*same)
        found.append(same[0])
    found = torch.stack(found)
    assert bool((found.sum(0) == 1).all())
    assert 0 < int(found[0].sum()) < 12, "some keep their colours, others do not"


def test_what_the_recipe_draws_none_of_is_not_made() -> None:
    recipe = {"seed": 0, "shares": {name: 0 for name in DEGRADATIONS if name not in ("rain", "low_light")}}
    pairs = training_pairs(recipe, Namespace(photos=None, pairs=[]), 32)
    assert {list(DEGRADATIONS)[pairs.wanted(i)["degradation"]] for i in range(8)} == {"rain", "low_light"}
    assert "rain+low_light" in pairs.name(8)
    with pytest.raises(UserError, match="all are 0"):
        training_pairs({"seed": 0, "shares": dict.fromkeys(DEGRADATIONS, 0)}, Namespace(photos=None, pairs=[]), 32)
    with pytest.raises(UserError, match="fog: no degradation"):
        training_pairs({"seed": 0, "shares": {"fog": 1}}, Namespace(photos=None, pairs=[]), 32)
