"""Noise-space adaptation computes what the paper says, reaches the restorer, and runs by a command."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DModel
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from restorers import load_restorer, save_restorer
from restorers.nafnet import NAFNet
from runtime.errors import UserError
from training import noise_space_adaptation
from training.evaluate.noise_space import evaluate_noise_space
from training.noise_space_adaptation import AdaptationBatches, real_photographs
from training.noise_space_loss import (
    Adaptation,
    AdaptationLoss,
    Denoiser,
    adaptation_weight,
    draw_signal_shares,
    noised,
    shuffled,
)
from training.pair_folders import is_held_back
from training.pairs import Crops

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "training" / "recipes" / "noise-space-smoke.yaml"


class Halving(nn.Module):
    """A restorer with one weight: the image times 1 + w."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-0.25))

    def forward(self, x):
        return x + self.weight * x


class Looking(nn.Module):
    """A denoiser that takes the noise for what the noisy image differs from its two conditions, times a weight each."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.tensor(0.6)), nn.Parameter(torch.tensor(0.1))

    def forward(self, noisy, conditions, gamma):
        a, b = conditions.chunk(2, dim=1)
        return (noisy - self.first * a - self.second * b) * gamma[:, None, None, None]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = {
        n: torch.from_numpy(rng.random((4, 3, 8, 8), np.float32)) for n in ("degraded", "clean", "real", "target")
    }
    return images | {
        "noise": torch.from_numpy(rng.standard_normal((4, 3, 8, 8), np.float32)),
        "gamma": torch.tensor([0.1, 0.4, 0.7, 0.95]),
        "swap": torch.tensor([True, False, False, True]),
        "progress": torch.full((4,), 0.3),
    }


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("contrast", [True, False])
def test_the_loss_is_that_of_the_paper(batch, shuffle, contrast):
    model = Adaptation(Halving(), Looking())
    loss, numbers = AdaptationLoss(0.2, shuffle, contrast)(model, batch)

    # In plain numpy, a sample at a time, from the paper's formulas.
    arrays = {name: value.numpy().astype(np.float64) for name, value in batch.items()}
    w, first, second = (p.item() for p in model.parameters())
    errors, triplets, charbonnier = [], [], []
    for i in range(4):
        x_syn, x_real, y, target = (2 * arrays[n][i] - 1 for n in ("degraded", "real", "clean", "target"))
        residual_syn, residual_real = (2 * w * arrays[n][i] for n in ("degraded", "real"))
        g, n = arrays["gamma"][i], arrays["noise"][i]
        y_t = math.sqrt(g) * target + math.sqrt(1 - g) * n

        def error(a, b, i=i, g=g, n=n, y_t=y_t):
            a, b = (b, a) if shuffle and arrays["swap"][i] else (a, b)
            return ((y_t - first * a - second * b) * g - n).__pow__(2).mean()

        d = error(x_syn + residual_syn, x_real + residual_real)
        d_negative = error(x_syn + residual_real, x_real + residual_syn)
        errors.append(d)
        triplets.append(max(0.0, d - d_negative + 0.1))
        charbonnier.append(np.sqrt((y - x_syn - residual_syn) ** 2 + 1e-3**2).mean())
    noise_loss = (np.mean(errors) + contrast * np.mean(triplets)) / 2
    alpha = 0.2 * (2 / (1 + math.exp(-5 * 0.3)) - 1)
    assert loss.item() == pytest.approx(np.mean(charbonnier) + alpha * noise_loss, rel=1e-5)
    assert float(numbers["noise"]) == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("name", ["degraded", "real"])
def test_the_noise_loss_reaches_the_restorer_through_both_conditions(batch, name):
    # The other condition is black, which no weight changes; the clean image is what the restorer makes of the pair.
    model = Adaptation(Halving(), Looking())
    images = {n: torch.zeros(4, 3, 8, 8) for n in ("degraded", "real")} | {name: batch[name]}
    batch = batch | images | {"clean": 0.75 * images["degraded"]}
    plain, adapted = (AdaptationLoss(weight, contrast=False)(model, batch)[0] for weight in (0.0, 0.2))
    plain, adapted = (torch.autograd.grad(loss, model.restorer.weight)[0].item() for loss in (plain, adapted))
    assert plain == pytest.approx(0, abs=1e-6), "the pairs have nothing to say"
    assert abs(adapted) > 1e-3


@pytest.mark.parametrize("name", ["compact", "published"])
def test_the_denoisers_of_the_recipes_answer_in_the_size_of_their_crops(name):
    recipe = yaml.safe_load(RECIPE.with_name(f"noise-space-{name}.yaml").read_text(encoding="utf-8"))
    with torch.device("meta"):
        denoiser = Denoiser(UNet2DModel(in_channels=9, out_channels=3, **recipe["denoiser"]))
        size = (2, 3, recipe["size"], recipe["size"])
        assert denoiser(torch.empty(size), torch.empty(2, 6, *size[2:]), torch.empty(2)).shape == size


def test_without_adaptation_the_denoiser_is_left_alone(batch):
    model = Adaptation(Halving(), Looking())
    loss, numbers = AdaptationLoss(0.0)(model, batch)
    loss.backward()
    assert model.denoiser.first.grad is None and model.restorer.weight.grad is not None
    assert set(numbers) == {"restoration"}


def test_noise_levels_are_continuous_and_span_the_schedule():
    shares = draw_signal_shares(20000, np.random.default_rng(0))
    schedule = np.cumprod(1 - np.linspace(1e-6, 1e-2, 1000))
    assert schedule[-1] < shares.min() * 1.1 and 0.999 < shares.max() <= 1
    assert len(np.unique(shares)) > 19000, "between the schedule's values, not at them"
    # Uniform over the schedule's steps: as many samples below its middle value as above.
    assert np.mean(shares > schedule[499]) == pytest.approx(0.5, abs=0.02)


@given(gamma=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_noising_keeps_the_power_of_a_unit_signal(gamma, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 1, 3, 32, 32, generator=generator)
    power = float(noised(clean, noise, torch.tensor([gamma])).square().mean())
    assert power == pytest.approx(1, abs=0.15)


@given(swap=st.lists(st.booleans(), min_size=1, max_size=6))
def test_shuffling_loses_nothing(swap):
    first, second = torch.rand(len(swap), 3, 4, 4), torch.rand(len(swap), 3, 4, 4)
    both = shuffled(first, second, torch.tensor(swap))
    for i, swapped in enumerate(swap):
        expected = (second[i], first[i]) if swapped else (first[i], second[i])
        assert torch.equal(both[i], torch.cat(expected))


@given(st.floats(0, 3), st.floats(0, 3))
def test_the_weight_fades_in_and_stays(earlier, later):
    earlier, later = sorted((earlier, later))
    assert 0 <= adaptation_weight(0.2, earlier) <= adaptation_weight(0.2, later) <= 0.2
    assert adaptation_weight(0.2, 1) == adaptation_weight(0.2, 3) > 0.19


def test_batches_depend_on_their_index_alone_and_show_both_kinds():
    rng = np.random.default_rng(0)
    arrays = {n: rng.integers(0, 256, (6, 3, 16, 16), np.uint8) for n in ("clean", "degraded")}
    crops = Crops(arrays | {"degradation": np.arange(6)}, 16, {}, 0.0, 0.0, 0)
    real = torch.full((3, 3, 16, 16), 51, dtype=torch.uint8)
    data = AdaptationBatches(crops, real, None, 100, 0)
    one, again, later = (data.__getitems__([*range(i, i + 4)]) for i in (4, 4, 48))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["noise"], later["noise"])
    assert torch.all(one["real"] == 0.2) and torch.equal(one["target"], one["clean"])
    assert float(one["progress"][0]) == pytest.approx(0.04) and float(later["progress"][0]) == pytest.approx(0.48)
    references = AdaptationBatches(crops, real, 5 * real, 100, 0).__getitems__([0, 1])
    assert torch.all(references["target"] == 1)


@pytest.fixture
def folders(tmp_path):
    """Real photographs, and a folder of pairs of ten scenes with bright clean sides and dark ones."""
    rng = np.random.default_rng(0)
    (tmp_path / "real").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 60, (48, 64, 3), np.uint8)).save(tmp_path / "real" / f"{i}.png")
    pairs, rows = tmp_path / "pairs", []
    for side, value in (("clean", 240), ("dark", 20)):
        (pairs / side).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (64, 48), (value,) * 3).save(pairs / side / f"{i}.png")
    for i in range(10):
        row = {"file_name": f"dark/{i}.png", "clean_file_name": f"clean/{i}.png", "scene": str(i), "dataset": "Made"}
        rows.append(row | {"degradation": "low_light"})
    (pairs / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_of_pairs_only_degraded_sides_that_training_may_see_are_real_photographs(folders):
    photos = real_photographs(folders / "pairs")
    held_back = {str(i) for i in range(10) if is_held_back({"scene": str(i), "dataset": "Made"})}
    assert held_back and {file.stem for file in photos.files} == {str(i) for i in range(10)} - held_back
    assert {file.parent.name for file in photos.files} == {"dark"}
    assert len(real_photographs(folders / "real").files) == 3


@pytest.mark.parametrize(("degraded", "clean"), [("degraded", "clean"), ("input", "target"), ("lq", "gt")])
def test_clean_sides_of_equally_named_pairs_are_no_real_photographs(tmp_path, degraded, clean):
    for side in (degraded, clean):
        (tmp_path / side).mkdir()
        Image.new("RGB", (64, 48)).save(tmp_path / side / "1.png")
    assert [file.parent.name for file in real_photographs(tmp_path).files] == [degraded]
    (tmp_path / clean / "1.png").unlink()
    assert len(real_photographs(tmp_path).files) == 1, "no pairs: photographs in a folder of any name"


def test_mixtures_are_not_measured():
    pairs = SimpleNamespace(files=[("a", "b")], rows=[{"degradation": "haze+rain"}])
    with pytest.raises(UserError, match="show mixtures"):
        evaluate_noise_space(None, None, torch.zeros(1, 3, 256, 256), pairs)


def _run(module, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"training.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_restorer_is_adapted_and_its_denoiser_measured(folders):
    torch.manual_seed(0)
    network = NAFNet(width=4, enc_blk_nums=[1], middle_blk_num=1, dec_blk_nums=[1])
    save_restorer(network, folders / "plain", ["haze", "low_light"])
    output = folders / "runs" / "adapted"
    result = _run(
        "noise_space_adaptation", RECIPE, "--restorer", folders / "plain", "--real", folders / "real",
        "--real", folders / "pairs", "--output", output,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    adapted = load_restorer(output / "restorer", device="cpu")
    assert adapted.trained_for == ("haze", "low_light")
    assert json.loads((output / "restorer" / "config.json").read_text())["adapted_from"] == "plain"
    before, after = (torch.cat([p.flatten() for p in n.parameters()]) for n in (network, adapted.network))
    assert before.shape == after.shape and not torch.allclose(before, after, atol=1e-3), "it has learned something"

    figures = folders / "figures.json"
    result = _run(
        "evaluate", "noise-space", "--adaptation", output, "--pairs", folders / "pairs", "--output", figures,
        "--limit", 1,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads(figures.read_text())
    assert [*rows] == ["degraded", "half restored", "restored", "clean"]
    assert rows["clean"]["psnr_of_the_real"] > rows["degraded"]["psnr_of_the_real"]
    assert rows["clean"]["error_beside_restored"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--restorer", "no-such-one", "--real", "{real}"], "no restorer 'no-such-one'"),
        (["--restorer", "{plain}", "--real", "{real}/nowhere"], "no folder"),
        (["--restorer", "{plain}", "--real", "{empty}"], "No images"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(folders, monkeypatch, capsys, options, said):
    save_restorer(NAFNet(width=4, enc_blk_nums=[1], middle_blk_num=1, dec_blk_nums=[1]), folders / "plain", [])
    (folders / "empty").mkdir()
    places = {name: str(folders / name) for name in ("real", "plain", "empty")}
    arguments = [option.format(**places) for option in options]
    monkeypatch.setattr(sys, "argv", ["training.noise_space_adaptation", str(RECIPE), *arguments])
    monkeypatch.chdir(folders)
    assert noise_space_adaptation.main() == 2
    assert said in capsys.readouterr().err
    assert not (folders / "runs").exists()


def test_a_recipe_of_something_else_is_refused(folders, monkeypatch, capsys):
    other = RECIPE.with_name("restorer-nafnet-smoke.yaml")
    arguments = [str(other), "--restorer", "nafnet", "--real", str(folders / "real")]
    monkeypatch.setattr(sys, "argv", ["training.noise_space_adaptation", *arguments])
    assert noise_space_adaptation.main() == 2
    assert "no recipe for an adaptation" in capsys.readouterr().err
