"""The paper's training, on a Stable Diffusion that is whole but tiny and untrained."""

import csv
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from gendeg import importer, load_pipeline
from gendeg.importer import NOISE_SCHEDULE
from runtime.errors import UserError
from training.benchmarks.full_size import SMALL
from training.generator.__main__ import main
from training.generator.stable_diffusion import NoiseLoss, PromptedPairs, initial_pipeline, load_pair, read_pairs
from training.generator.tokenizer import train_tokenizer
from training.pairs import ConditionDropout

RECIPE = Path(__file__).resolve().parents[2] / "training" / "recipes" / "generator-sd15.yaml"
SIZE = 64


@pytest.fixture(scope="module")
def networks():
    """Stable Diffusion's networks, all parts as they are but narrow."""
    torch.manual_seed(0)
    text = CLIPTextConfig(**SMALL["text_encoder"], vocab_size=len(train_tokenizer(77)))
    return {
        "unet": UNet2DConditionModel(**SMALL["unet"] | {"in_channels": 4}),
        "vae": AutoencoderKL(**SMALL["vae"]),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": train_tokenizer(77),
        "scheduler": PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, steps_offset=1),
    }


@pytest.fixture(scope="module")
def source(networks, tmp_path_factory):
    """These in the layout of a StableDiffusionPipeline folder."""
    folder = tmp_path_factory.mktemp("stable-diffusion")
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Six pairs, described in different ways, of different sizes; the degraded image is half as bright."""
    folder = tmp_path_factory.mktemp("pairs") / "train"
    (folder / "images").mkdir(parents=True)
    rows = [
        {"degradation": "haze", "caption": "a bridge", "mu": 0.25, "sigma": 0.125},
        {"degradation": "low-light", "caption": ""},
        {"prompt": "a dog, in snowy conditions", "degradation": "snow"},
        {"prompt": "in rainy conditions"},
        {"degradation": "rain", "source_dataset": "ORD", "mu": 0.2},
        {"degradation": "raindrop+haze"},
    ]
    for number, row in enumerate(rows):
        clean = np.random.default_rng(number).integers(0, 256, (70 + number, 90, 3), dtype=np.uint8)
        names = {"file_name": f"images/{number}.png", "clean_file_name": f"images/{number}-clean.png"}
        Image.fromarray(clean // 2).save(folder / names["file_name"])
        Image.fromarray(clean).save(folder / names["clean_file_name"])
        with (folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(names | row) + "\n")
    return folder.parent


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run `python -m training.generator` with the shipped recipe, its numbers made small."""

    def run(*arguments, code=0, **changed):
        recipe = yaml.safe_load(RECIPE.read_text())
        loop = {"batch_size": 4, "gradient_accumulation": 2, "workers": 0, "log_every": 1, "validate_every": 2}
        recipe |= {"size": SIZE, "validation_pairs": 2}
        recipe["loop"] |= loop | {"steps": 1, "warmup_steps": 1} | changed
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        output = ["--output", str(tmp_path / "run")]
        monkeypatch.setattr(sys, "argv", ["generator", str(tmp_path / "recipe.yaml"), *output, *map(str, arguments)])
        assert main() == code
        return tmp_path / "run"

    return run


def test_trains_resumes_and_samples(command, source, pairs, networks, monkeypatch):
    uploaded = []
    hub = SimpleNamespace(create_repo=lambda name, **_: None, upload_folder=lambda **what: uploaded.append(what))
    monkeypatch.setattr(importer, "HfApi", lambda: hub)

    run = command("--initial", source, "--pairs", pairs)
    before, after = initial_pipeline(str(source)), load_file(run / "checkpoint" / "model.safetensors")
    # Adam's first step is as long as the learning rate, whatever the gradient.
    for name, rate in (("unet.conv_in.weight", 1e-4), ("intensity_projection.cc_projection.bias", 1e-3)):
        component, _, parameter = name.partition(".")
        moved = after[name] - getattr(before, component).state_dict()[parameter]
        assert moved.abs().max() == pytest.approx(rate, rel=0.05), name

    assert command("--initial", source, "--pairs", pairs, "--push-to-hub", "me/model", steps=4) == run
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert all(0.5 < float(row["loss"]) < 2 for row in rows), "an untrained network explains none of the noise"
    errors = list(csv.DictReader((run / "validation" / "intensity.csv").open()))
    assert [int(row["step"]) for row in errors] == [2, 4]
    assert all(0 < float(row[name]) < 1 for row in errors for name in ("mu_error", "sigma_error"))
    with Image.open(run / "validation" / "0000004.jpg") as sheet:
        assert sheet.size == (2 * SIZE, 3 * SIZE)
    assert [(what["repo_id"], what["folder_path"]) for what in uploaded] == [("me/model", run / "pipeline")]

    photo = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    for preset in (None, "fast", "paper"):
        pipeline = load_pipeline(run / "pipeline", device="cpu", preset=preset)
        output = pipeline(photo, "rain", mu=0.1, sigma=0.1, prompt="a dog", resolution=SIZE, num_inference_steps=2)
        assert output.images[0].size == output.clean[0].size == (100, 80)
    assert pipeline.unet.config.in_channels == 8 and pipeline.config.resolution == 512
    for name in ("vae", "text_encoder"):
        states = [network.state_dict() for network in (networks[name], getattr(pipeline, name))]
        assert all(torch.equal(states[0][key].half().float(), states[1][key]) for key in states[0]), f"{name} is frozen"


@torch.no_grad()
def test_starts_as_stable_diffusion(source, networks):
    pipeline = initial_pipeline(str(source))
    latents, clean = 3 * torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    context = pipeline.encode_context(["a dog"] * 2, [0.1, None], [0.2, 0.3])
    ours = pipeline.unet(torch.cat([latents, clean], dim=1), 500, context).sample
    torch.testing.assert_close(ours, networks["unet"](latents, 500, context).sample)


@torch.no_grad()
def test_the_loss_is_the_papers(source, pairs, networks):
    """Written out: what the network is given, and what it is to answer."""
    pipeline = initial_pipeline(str(source))
    data = PromptedPairs(read_pairs([pairs]), pipeline, SIZE, {"image": 0.5}, 1000, seed=0)
    batch = torch.utils.data.default_collate([data[i] for i in range(8)])
    assert 0 < batch["keep_image"].sum() < 8
    vae = networks["vae"]
    clean, degraded = (vae.encode(batch[name] / 127.5 - 1).latent_dist for name in ("clean", "degraded"))
    z = 0.18215 * (degraded.mean + degraded.std * batch["posterior_noise"])
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[batch["timestep"]]
    abar = abar.reshape(-1, 1, 1, 1)
    seen = []

    def model(*inputs):
        seen.extend(inputs)
        return batch["noise"] + 0.5

    loss, _ = NoiseLoss(pipeline, DDPMScheduler.from_config(pipeline.scheduler.config))(model, batch)
    assert float(loss) == pytest.approx(0.25, rel=1e-5)
    noisy, timestep, condition, text, mu, sigma = seen
    torch.testing.assert_close(noisy, abar.sqrt() * z + (1 - abar).sqrt() * batch["noise"])
    torch.testing.assert_close(condition, clean.mean * batch["keep_image"].reshape(-1, 1, 1, 1))
    torch.testing.assert_close(text, networks["text_encoder"].eval()(batch["tokens"]).last_hidden_state)
    for found, name in ((timestep, "timestep"), (mu, "mu"), (sigma, "sigma")):
        assert torch.equal(found, batch[name]), name


def test_prompts_and_intensities(source, pairs):
    read, pipeline = read_pairs([pairs]), initial_pipeline(str(source))
    assert [pipeline.prompt(pair.caption, pair.phrase) for pair in read] == [
        "a bridge, in hazy conditions",
        "in low-light conditions",
        "a dog, in snowy conditions",
        "in rainy conditions",
        "in rainy and hazy conditions",
        "in hazy conditions, with raindrops in it",
    ]
    clean, degraded, *measured = load_pair(read[1], SIZE)
    difference = np.abs(clean / 255 - degraded / 255)
    assert measured == pytest.approx([difference.mean(), difference.std()], abs=1e-5)
    assert load_pair(read[0], SIZE)[2:] == (0.25, 0.125), "given ones are taken"
    assert load_pair(read[4], SIZE)[2] == 0.2 and 0 < load_pair(read[4], SIZE)[3] < 0.2


def test_samples_lose_conditions(source, pairs):
    pipeline, read = initial_pipeline(str(source)), read_pairs([pairs])

    def sample(shares, index):
        return PromptedPairs(read, pipeline, SIZE, shares, 1000, seed=0)[index]

    null = pipeline.tokenizer("", padding="max_length", max_length=77).input_ids
    for kind, lost in (("text_and_intensity", (1, 1, 0)), ("image", (0, 0, 1)), ("all", (1, 1, 1))):
        item = sample({kind: 1.0}, 3)
        found = (
            item["tokens"].tolist() == null,
            bool(item["mu"].isnan() & item["sigma"].isnan()),
            item["keep_image"] == 0,
        )
        assert found == lost, kind
    kept, again, other = sample({}, 3), sample({}, 3), sample({}, 4)
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert not torch.equal(kept["noise"], other["noise"])
    dropout, rng = ConditionDropout(yaml.safe_load(RECIPE.read_text())["dropout"]), np.random.default_rng(0)
    lost_of = dropout.draw(8000, rng)
    drawn = [{name for name, lost in lost_of.items() if lost[i]} for i in range(8000)]
    for lost in ({"text", "mu", "sigma"}, {"image"}, {"text", "mu", "sigma", "image"}):
        assert np.mean([kind == lost for kind in drawn]) == pytest.approx(0.05, abs=0.01), lost


@pytest.mark.parametrize(
    "row, sentence",
    [
        ({}, "must give its degradation"),
        ({"degradation": "fog"}, "Unknown degradation 'fog'"),
        ({"degradation": "haze", "mu": -0.1}, "mu and sigma must be numbers"),
        ({"prompt": 7}, "must be text"),
        ({"degradation": "haze", "source_dataset": ["RESIDE"]}, "must be text"),
    ],
)
def test_pairs_that_cannot_be_learned_from(pairs, tmp_path, row, sentence):
    shutil.copytree(pairs, tmp_path / "pairs")
    names = {name: "images/0.png" for name in ("file_name", "clean_file_name")}
    with (tmp_path / "pairs" / "train" / "metadata.jsonl").open("a") as file:
        file.write(json.dumps(names | row))
    with pytest.raises(UserError, match=rf"metadata.jsonl, line 7: .*{sentence}"):
        read_pairs([pairs, tmp_path / "pairs"])


def test_bad_input_is_answered_with_a_sentence(command, source, pairs, networks, tmp_path, capsys):
    wide = tmp_path / "wide"
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        networks[name].save_pretrained(wide / name)
    initial_pipeline(str(source)).unet.save_pretrained(wide / "unet")
    (tmp_path / "empty").mkdir()
    for arguments, sentence in (
        (("--initial", tmp_path / "nowhere", "--pairs", pairs), "There is no Stable Diffusion in"),
        (("--initial", tmp_path / "empty", "--pairs", pairs), "There is no Stable Diffusion in"),
        (("--initial", wide, "--pairs", pairs), "is no Stable Diffusion 1"),
        (("--initial", source), "--pairs DIR"),
        (("--initial", source, "--pairs", tmp_path / "empty"), "No pairs in"),
        (("--initial", source, "--pairs", pairs, "--codec", tmp_path), "--codec and --photos"),
        (("--initial", source, "--pairs", pairs, "--push-to-hub", "not a name"), "no name of a repository"),
    ):
        command(*arguments, code=2)
        message = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
        assert message.startswith("generator: ") and sentence in message, (arguments, message)
