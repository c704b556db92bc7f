"""Layered structure correction learns from what the generator makes of pairs, and from a discriminator."""

import numpy as np
import pytest
import torch
from torch import nn

from gendeg import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.structure_correction import LayeredCorrection
from training.generated_pairs import generate_pairs, sample_late
from training.layered_correction import AdversarialPair, Discriminator, GeneratedPairs, LayeredLoss
from training.pairs import PHRASES

WEIGHTS = {"paired_weight": 0.0, "matching_weight": 0.0, "opinion_weight": 0.0, "intensity_weight": 0.0}


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline_folder):
    return load_pipeline(tiny_pipeline_folder, device="cpu")


@pytest.fixture
def arrays():
    """Twelve pairs: smooth pictures, and the same with a bright square."""
    rng = np.random.default_rng(0)
    clean = np.kron(rng.integers(0, 200, (12, 3, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    degraded = clean.copy()
    degraded[:, :, 8:24, 8:24] = 255
    numbers = np.full(12, 0.1, dtype=np.float32)
    return {
        "clean": clean,
        "degraded": degraded,
        "degradation": np.arange(12, dtype=np.uint8) % 6,
        "phrase": np.array([PHRASES.index(list(DEGRADATIONS.values())[i % 6].phrase) for i in range(12)]),
        "mu": numbers,
        "sigma": numbers,
    }


def test_the_later_a_sample_begins_the_nearer_it_is_to_the_true_degraded_image(pipeline, arrays):
    clean, degraded = (torch.from_numpy(arrays[name]).float() / 255 for name in ("clean", "degraded"))
    errors, times = [], []
    for first in range(pipeline.config.num_inference_steps):
        generator = torch.Generator().manual_seed(0)
        asked = ["in snowy conditions"] * 12, [0.1] * 12, [0.1] * 12
        images, time = sample_late(pipeline, clean, degraded, "snow", *asked, first, generator)
        errors.append(float((images - degraded).square().mean()))
        times.append(time)
    assert times[0] == 0 and times == sorted(times)
    assert errors[-1] < errors[0]


def test_a_sample_that_begins_at_the_clean_end_is_that_of_a_call(pipeline, arrays):
    clean, degraded = (torch.from_numpy(arrays[name][:2]).float() / 255 for name in ("clean", "degraded"))
    mu, phrases = [0.1, 0.1], [DEGRADATIONS["snow"].phrase] * 2
    images, _ = sample_late(pipeline, clean, degraded, "snow", phrases, mu, mu, 0, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    pipeline.scheduler.draw_noise(pipeline.encode(clean), generator)  # a late start has drawn its own place before
    context = pipeline.encode_context(phrases, mu, mu)
    snow, asked = torch.full((2,), list(DEGRADATIONS).index("snow")), torch.tensor(mu)
    bridge = {"scale": pipeline.scheduler.residual_scale(snow, asked, asked)}
    latents = pipeline.denoise(pipeline.encode(clean), context, context, pipeline.config.num_inference_steps, 1, 1,
                               generator, bridge=bridge)  # fmt: skip
    torch.testing.assert_close(images, pipeline.decode(latents), atol=1e-4, rtol=0)


def test_pictures_are_generated_once(pipeline, arrays, tmp_path, monkeypatch, capsys):
    made = generate_pairs(pipeline, arrays, tmp_path / "generated.pt", 0)
    assert made["generated"].shape == (12, 3, 32, 32) and made["generated"].dtype == torch.uint8
    assert 0 <= float(made["weight"].min()) < float(made["weight"].max()) <= 1
    monkeypatch.setattr("training.generated_pairs.one_step", pytest.fail)
    again = generate_pairs(pipeline, arrays, tmp_path / "generated.pt", 0)
    assert all(torch.equal(made[name], again[name]) for name in made)
    monkeypatch.undo()
    (tmp_path / "generated.pt").unlink()  # what was read from it stays readable
    (tmp_path / "generated.pt").write_bytes(b"no pictures")
    anew = generate_pairs(pipeline, arrays, tmp_path / "generated.pt", 0)
    assert torch.equal(made["generated"], anew["generated"]) and "damaged" in capsys.readouterr().out


def _pairs(arrays, weight=1.0, shares=None):
    pairs = {name: torch.from_numpy(values) for name, values in arrays.items() if name != "phrase"}
    pairs |= {"generated": pairs["degraded"] // 2 + 20, "weight": torch.full((12,), weight)}
    return GeneratedPairs(pairs, shares or {}, 0)


def _gradients(arrays, weight=1.0, **weights):
    torch.manual_seed(0)
    pair = AdversarialPair(LayeredCorrection((4, 8)), Discriminator(width=8))
    LayeredLoss(**(WEIGHTS | weights))(pair, _pairs(arrays, weight).__getitems__(range(4)))[0].backward()
    parts = pair.module, pair.discriminator
    return [
        torch.cat([torch.zeros(1), *(p.grad.flatten() for p in q.parameters() if p.grad is not None)]) for q in parts
    ]


def test_each_side_learns_from_its_own_loss_alone(arrays):
    (pulled, judging), (twice, as_before) = (_gradients(arrays, 0.0, opinion_weight=weight) for weight in (1.0, 2.0))
    assert torch.equal(judging, as_before), "what the module wants must not reach the discriminator"
    assert bool(judging.any()) and bool(pulled.any())
    assert torch.allclose(twice, 2 * pulled), "the discriminator's own loss must not reach the module"
    assert not any(bool(side.any()) for side in _gradients(arrays)), "unasked, neither learns"
    assert not bool(_gradients(arrays, opinion_weight=1.0)[0].any()), "where the truth says all, it is not asked"


@pytest.mark.parametrize("term", ["paired_weight", "matching_weight"])
def test_only_what_is_paired_is_compared(arrays, term):
    assert bool(_gradients(arrays, **{term: 1.0})[0].any())
    assert not bool(_gradients(arrays, weight=0.0, **{term: 1.0})[0].any())


def test_the_intensity_of_all_samples_is_asked_for(arrays):
    assert bool(_gradients(arrays, weight=0.0, intensity_weight=1.0)[0].any())


def test_shares_decide_what_is_drawn(arrays):
    pairs = _pairs(arrays, shares={name: 0.0 for name in DEGRADATIONS if name != "snow"})
    drawn = pairs.__getitems__(range(20))
    assert set(drawn["degradation"].tolist()) == {list(DEGRADATIONS).index("snow")}
    assert drawn["clean"].shape == (20, 3, 32, 32) and -1 <= drawn["clean"].min() < 0 < drawn["degraded"].max() <= 1
    assert torch.equal(pairs.__getitems__(range(20))["clean"], drawn["clean"])


def test_the_discriminator_learns_to_tell_soft_images_from_crisp_ones():
    torch.manual_seed(0)
    discriminator = Discriminator(width=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    told = torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.long), torch.full((8,), 0.2)
    for _ in range(100):
        crisp = torch.randn(8, 3, 32, 32)
        on_true = discriminator(crisp, *told)[0]
        on_soft = discriminator(nn.functional.avg_pool2d(crisp, 3, stride=1, padding=1), *told)[0]
        optimizer.zero_grad()
        ((1 - on_true).relu().mean() + (1 + on_soft).relu().mean()).backward()
        optimizer.step()
    assert on_true.mean() > on_soft.mean() + 0.5


def test_layers_learn_what_is_paired(arrays):
    torch.manual_seed(0)
    loss, pairs = LayeredLoss(**WEIGHTS | {"paired_weight": 10.0}), _pairs(arrays)
    pair = AdversarialPair(LayeredCorrection((8, 8)), Discriminator(width=8))
    optimizer = torch.optim.Adam(pair.module.parameters(), lr=5e-3)
    for step in range(60):
        value, numbers = loss(pair, pairs.__getitems__(range(4 * step, 4 * step + 4)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert numbers["gain_of_the_easy_30_percent"] > 3
