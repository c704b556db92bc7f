"""The authors' files become a pipeline that computes the same, from the averaged weights; other files a sentence."""

import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from gendeg import importer, load_pipeline
from gendeg.__main__ import main as degrade
from gendeg.checkpoints import PRESETS, with_preset
from gendeg.importer import FULL_SIZE, import_checkpoint
from gendeg.intensity import IntensityProjection
from gendeg.structure_correction import StructureCorrection
from training.benchmarks.full_size import SMALL
from training.benchmarks.importer import (
    original_layout,
    original_text_encoder,
    original_unet,
    original_vae,
    write_random,
)
from training.generator.tokenizer import train_tokenizer

CALL = {"degradation": "haze", "mu": 0.1, "sigma": 0.1, "num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(77).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sizes():
    """All parts as in Stable Diffusion, but narrow."""
    return SMALL | {"text_encoder": SMALL["text_encoder"] | {"vocab_size": len(train_tokenizer(77))}}


@pytest.fixture(scope="module")
def networks(sizes):
    torch.manual_seed(0)
    networks = {
        "unet": UNet2DConditionModel(**sizes["unet"]),
        "vae": AutoencoderKL(**sizes["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes["text_encoder"])),
        "intensity_projection": IntensityProjection(77, 16),
        "averaged_unet": UNet2DConditionModel(**sizes["unet"]),
        "structure_correction": StructureCorrection(4, (1, 1), 1, (1, 1)),
    }
    for network in networks.values():
        network.eval()
        for parameter in network.parameters():  # also those that start as ones and zeros must find their place
            parameter.data += 0.05 * torch.randn_like(parameter)
    return networks


@pytest.fixture(scope="module")
def state(networks):
    return original_layout(networks, networks["averaged_unet"])


class ModelCheckpoint:
    """What Lightning leaves in its files beside the weights."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.fixture(scope="module")
def files(state, networks, tmp_path_factory):
    """(the generator's file, the structure correction's), as the authors' are."""
    folder = tmp_path_factory.mktemp("files")
    callbacks = {"checkpoint": {"best_model_score": torch.tensor(0.1)}}
    torch.save({"epoch": 3, "callbacks": callbacks, "state_dict": state}, folder / "gendeg.ckpt")
    torch.save({"state_dict": networks["structure_correction"].state_dict()}, folder / "nafnet_sd.ckpt")
    return folder / "gendeg.ckpt", folder / "nafnet_sd.ckpt"


@pytest.fixture
def command(files, sizes, tokenizer_folder, tmp_path, monkeypatch, capsys):
    """Run the command line on other files; (exit code, what it printed on stderr)."""
    monkeypatch.setattr(importer.import_checkpoint, "__defaults__", (None, importer.TOKENIZER, sizes))

    def run(generator: Path = files[0], *arguments: str) -> tuple[int, str]:
        output = [] if "--output" in arguments else ["--output", str(tmp_path / "imported")]
        tokenizer = [] if "--tokenizer" in arguments else ["--tokenizer", str(tokenizer_folder)]
        code = importer.main([str(generator), *output, *tokenizer, *arguments])
        return code, capsys.readouterr().err

    return run


@torch.no_grad()
def test_computes_what_the_file_holds(files, networks, sizes, tokenizer_folder):
    pipeline = import_checkpoint(*files, tokenizer_folder, sizes)
    generator = torch.Generator().manual_seed(0)
    latents, context, time = (
        torch.randn(1, 8, 8, 8, generator=generator),
        torch.randn(1, 77, 16, generator=generator),
        torch.tensor([500]),
    )
    image = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    tokens = torch.randint(0, 300, (1, 77), generator=generator)
    mu, sigma = torch.tensor([0.1]), torch.tensor([0.2])

    def outputs(unet, vae, text_encoder, intensity_projection, structure_correction):
        return {
            "unet": unet(latents, time, context).sample,
            "encoder": vae.encode(image).latent_dist.mode(),
            "decoder": vae.decode(latents[:, :4]).sample,
            "text_encoder": text_encoder(tokens).last_hidden_state,
            "intensity_projection": intensity_projection(context, mu, sigma),
            "structure_correction": structure_correction(image, image.flip(3)),
        }

    names = ("vae", "text_encoder", "intensity_projection", "structure_correction")
    found = outputs(pipeline.unet, *(getattr(pipeline, name) for name in names))
    expected = outputs(networks["averaged_unet"], *(networks[name] for name in names))
    plain = outputs(networks["unet"], *(networks[name] for name in names))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert (found["unet"] - plain["unet"]).abs().max() > 0.01, "the averaged copy is the one to use"


def test_the_command_writes_a_pipeline_that_works(command, files, tmp_path):
    code, errors = command(files[0], "--structure-correction", str(files[1]))
    assert (code, errors) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported"], "nothing half done is left"
    pipeline = load_pipeline(tmp_path / "imported", device="cpu")
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    assert (pipeline.config.num_inference_steps, pipeline.config.guidance_scale) == (15, 7.5)
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.config.resolution == 512
    output = pipeline(Image.new("RGB", (64, 64), "gray"), resolution=64, **CALL)
    assert output.images.isfinite().all() and output.structure_correction

    paper = load_pipeline(tmp_path / "imported", device="cpu", preset="paper")
    assert isinstance(paper.scheduler, EulerAncestralDiscreteScheduler)
    assert (paper.config.num_inference_steps, paper.config.image_guidance_scale) == (100, 1.5)
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    for scheduler in (pipeline.scheduler, paper.scheduler):
        assert schedule.items() <= dict(scheduler.config).items() and scheduler.config.prediction_type == "epsilon"
        assert scheduler.config.num_train_timesteps == 1000
    paper.save_pretrained(tmp_path / "again")
    again = load_pipeline(tmp_path / "again", device="cpu")
    assert (again.config.num_inference_steps, type(again.scheduler)) == (100, type(paper.scheduler))


def test_presets_are_for_models_that_start_from_noise(tiny_pipeline_folder, photo, tmp_path, capsys):
    with pytest.raises(ValueError, match="starts from the photograph"):
        load_pipeline(tiny_pipeline_folder, device="cpu", preset="paper")
    pipeline = load_pipeline(tiny_pipeline_folder, device="cpu")
    steps = pipeline.config.num_inference_steps
    for name in [*PRESETS, "slow"]:
        with pytest.raises(ValueError):
            with_preset(pipeline, name)
    assert pipeline.config.num_inference_steps == steps
    output = ["-o", str(tmp_path / "out.png"), "--model", str(tiny_pipeline_folder), "--preset", "fast"]
    assert degrade([str(photo), "--degradation", "haze", *output]) == 2
    assert "gendeg: The preset 'fast' is for generators that start from noise" in capsys.readouterr().err


def test_other_forms_of_the_same_weights(state, networks, sizes, tokenizer_folder, tmp_path):
    without_dots = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    save_file(without_dots, tmp_path / "gendeg.safetensors")
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"state_dict": halves}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for file, dtype in (("gendeg.safetensors", torch.float32), ("old.ckpt", torch.float16)):
        pipeline = import_checkpoint(tmp_path / file, tokenizer=tokenizer_folder, sizes=sizes)
        assert pipeline.unet.dtype == dtype and pipeline.structure_correction is None
        expected = networks["averaged_unet"].conv_in.weight
        torch.testing.assert_close(pipeline.unet.conv_in.weight.float(), expected, atol=1e-2, rtol=1e-2)
    write_random(state, tmp_path / "random.ckpt")
    pipeline = import_checkpoint(tmp_path / "random.ckpt", tokenizer=tokenizer_folder, sizes=sizes)
    assert all(0.01 < p.std() < 0.03 for p in pipeline.unet.parameters() if p.numel() > 1000)


def test_objects_of_the_training_framework_are_passed_over(state, sizes, tokenizer_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", ModelCheckpoint.__module__):
            patch.setitem(sys.modules, name, SimpleNamespace(ModelCheckpoint=ModelCheckpoint))
        score = torch.tensor(0.5).double().numpy()[()]  # a NumPy number
        torch.save({"state_dict": state, "callbacks": {ModelCheckpoint: {"score": score}}}, tmp_path / "gendeg.ckpt")
    assert import_checkpoint(tmp_path / "gendeg.ckpt", tokenizer=tokenizer_folder, sizes=sizes).unet is not None


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_files_that_are_refused(command, state, tmp_path):
    weights = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    evil = tmp_path / "evil.ckpt"
    torch.save({"state_dict": weights, "hook": Malicious(tmp_path / "executed")}, evil)
    raw = tmp_path / "raw.ckpt"
    raw.write_bytes(pickle.dumps({"state_dict": Malicious(tmp_path / "executed")}))
    torch.save({"state_dict": weights}, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("not found")
    (tmp_path / "page.html").write_text("not found")
    torch.save({"state_dict": 3}, tmp_path / "number.ckpt")
    save_file({"intro.weight": torch.zeros(3, 3), "ending.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    lacking = {name: t for name, t in weights.items() if "output_blocks.3" not in name and "mid.attn_1.q" not in name}
    torch.save(lacking, tmp_path / "lacking.ckpt")
    torch.save({n: t for n, t in weights.items() if not n.startswith("model_ema")}, tmp_path / "plain.ckpt")
    extra = dict.fromkeys(("model.diffusion_model.extra.weight", "model_ema.diffusion_modelextraweight"), torch.ones(2))
    torch.save(weights | extra, tmp_path / "extra.ckpt")
    torch.save(weights | {"control_model.weight": torch.zeros(2, 2)}, tmp_path / "control.ckpt")
    torch.save(weights | {"cc_projection.weight": torch.zeros(8, 10)}, tmp_path / "small.ckpt")
    bias = "first_stage_model.quant_conv.bias"
    torch.save(weights | {bias: weights[bias] * float("nan")}, tmp_path / "nan.ckpt")
    torch.save(weights | {bias: weights[bias].int()}, tmp_path / "whole_numbers.ckpt")
    sentences = {
        "evil.ckpt": "evil.ckpt was not opened: besides weights it holds Python objects",
        "raw.ckpt": "raw.ckpt was not opened",
        "truncated.ckpt": "truncated.ckpt is damaged or no PyTorch file",
        "text.ckpt": "text.ckpt is damaged or no PyTorch file",
        "page.html": "page.html is no weights file",
        "none.ckpt": "There is no file",
        "number.ckpt": "number.ckpt holds no weights",
        "other.safetensors": "cond_stage_model.transformer.* and 1 more; unknown: ending.weight, intro.weight.",
        "lacking.ckpt": "Missing: ",
        "plain.ckpt": "Missing: model_ema.diffusion_modelinput_blocks00weight, ",
        "extra.ckpt": "Unknown: model.diffusion_model.extra.weight",
        "control.ckpt": "Unknown: control_model.weight.",
        "nan.ckpt": "nan.ckpt, vae: The tensor 'quant_conv.bias' holds values that are not numbers",
        "whole_numbers.ckpt": "whole_numbers.ckpt, vae: The tensor 'quant_conv.bias' holds no plain numbers but int32",
        "small.ckpt": "Of another size: intensity_projection.cc_projection.weight (expected [16, 18], found [8, 10]).",
    }
    for name, sentence in sentences.items():
        code, errors = command(tmp_path / name)
        assert code == 2 and sentence in errors, (name, errors)
        assert errors.count("\n") == 1 and "Traceback" not in errors and len(errors) < 400, errors
    assert not (tmp_path / "executed").exists() and not (tmp_path / "imported").exists()


def test_other_mistakes(command, files, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("irreplaceable")
    save_file({"intro.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    correction = torch.load(files[1], weights_only=True)["state_dict"]
    torch.save(correction | {"ending.bias": torch.full((3,), float("nan"))}, tmp_path / "nan.pth")
    for arguments, sentence in (
        (("--tokenizer", str(tmp_path / "folder")), "cannot be read. Name a folder that holds CLIP's vocab.json"),
        (("--tokenizer", "/nowhere/at/all"), "cannot be read. Name a folder"),
        (("--tokenizer", "nobody/nothing-of-that-name"), "cannot be read. Name a folder"),
        (("--structure-correction", str(tmp_path / "other.safetensors")), "other.safetensors: These weights"),
        (("--structure-correction", str(tmp_path / "nan.pth")), "nan.pth: The tensor 'ending.bias' holds values that"),
        (("--structure-correction", "none.ckpt"), "There is no file none.ckpt"),
        (("--output", str(tmp_path / "full")), "is there already. Choose a new folder."),
        (("--output", str(files[0])), "is there already. Choose a new folder."),
        (("--output", str(files[0] / "below")), "below cannot be written"),
        (("--push-to-hub", "not a name"), "no name of a repository"),
    ):
        code, errors = command(files[0], *arguments)
        assert code == 2 and sentence in errors and errors.count("\n") == 1, (arguments, errors)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    assert command(files[0], "--output", str(tmp_path / "folder"))[0] == 0, "an empty folder may be there already"


def test_a_stop_during_the_upload_says_what_is_there(command, files, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gendeg.importer.check_repository", lambda name: None)
    monkeypatch.setattr("gendeg.importer.push_folder", stop)
    out = tmp_path / "pipeline"
    code, errors = command(files[0], "--output", str(out), "--push-to-hub", "me/mine")
    assert code == 130 and f"{out} is complete. To upload it: hf upload me/mine {out}" in errors
    assert load_pipeline(out, device="cpu").unet is not None


def test_full_size_is_stable_diffusion():
    """Names, shapes and counts that are known of the published files."""
    with init_empty_weights():
        unet = UNet2DConditionModel(**FULL_SIZE["unet"])
        vae = AutoencoderKL(**FULL_SIZE["vae"])
        text_encoder = CLIPTextModel(CLIPTextConfig(**FULL_SIZE["text_encoder"]))
    layouts = (original_unet(unet), original_vae(vae), original_text_encoder(text_encoder))
    assert [len(layout) for layout in layouts] == [686, 248, 196]
    assert [sum(t.numel() for t in layout.values()) for layout in layouts] == [859_532_484, 83_653_863, 123_060_480]
    known = {
        "input_blocks.0.0.weight": [320, 8, 3, 3],
        "time_embed.2.bias": [1280],
        "input_blocks.3.0.op.weight": [320, 320, 3, 3],
        "input_blocks.4.0.skip_connection.weight": [640, 320, 1, 1],
        "input_blocks.11.0.emb_layers.1.weight": [1280, 1280],
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": [1280, 768],
        "middle_block.2.out_layers.3.weight": [1280, 1280, 3, 3],
        "output_blocks.2.1.conv.weight": [1280, 1280, 3, 3],
        "output_blocks.5.2.conv.weight": [1280, 1280, 3, 3],
        "output_blocks.8.2.conv.weight": [640, 640, 3, 3],
        "output_blocks.11.1.proj_out.weight": [320, 320, 1, 1],
        "out.2.weight": [4, 320, 3, 3],
        "encoder.down.0.downsample.conv.weight": [128, 128, 3, 3],
        "encoder.mid.attn_1.proj_out.weight": [512, 512, 1, 1],
        "encoder.conv_out.weight": [8, 512, 3, 3],
        "decoder.up.0.block.0.nin_shortcut.weight": [128, 256, 1, 1],
        "decoder.up.3.upsample.conv.weight": [512, 512, 3, 3],
        "decoder.norm_out.weight": [128],
        "quant_conv.weight": [8, 8, 1, 1],
        "text_model.embeddings.token_embedding.weight": [49408, 768],
        "text_model.encoder.layers.11.self_attn.q_proj.weight": [768, 768],
        "text_model.final_layer_norm.weight": [768],
    }
    shapes = {name: list(tensor.shape) for layout in layouts for name, tensor in layout.items()}
    assert known.items() <= shapes.items()
