"""What is done for a model to fit into memory, and that it changes nothing but time."""

import accelerate.hooks
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from PIL import Image

from gendeg import load_pipeline, memory
from gendeg.checkpoints import channels_last
from gendeg.memory import fits, network_sizes
from gendeg.request import Request, degrade

GB = 10**9
FULL_SIZE = int(2.4 * GB)  # 1.2 billion numbers of two bytes
CALL = {"degradation": "haze", "mu": 0.1, "sigma": 0.1, "num_inference_steps": 2, "output_type": "pt"}


@pytest.mark.parametrize(
    ("free", "pixels", "enough"),
    [
        (24 * GB, 512 * 1024, True),
        (6 * GB, 512 * 1024, False),
        (6 * GB, 512 * 512, True),
        (4 * GB, 512 * 512, False),
    ],
)
def test_weights_and_work_must_fit(free, pixels, enough):
    assert fits(free, FULL_SIZE, pixels, itemsize=2) is enough


def test_sizes_are_those_of_the_weights(tiny_paper_folder):
    pipeline = load_pipeline(tiny_paper_folder, device="cpu")
    files = sum(file.stat().st_size for file in tiny_paper_folder.glob("*/*.safetensors"))
    assert sum(network_sizes(pipeline)) == pytest.approx(files, rel=0.2)  # the files have headers


def test_large_images_are_decoded_in_tiles_when_memory_is_short(tiny_paper_folder, monkeypatch):
    pipeline = load_pipeline(tiny_paper_folder, device="cpu")
    pipeline.vae.tile_sample_min_size, pipeline.vae.tile_latent_min_size = 32, 16
    sizes = []
    pipeline.vae.decoder.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    request = Request(Image.new("RGB", (128, 64), "gray"), "haze", 0.1, 0.1, steps=1)
    for tile, largest in ((32 * 32, 32), (512 * 512, 128)):
        monkeypatch.setattr(memory, "TILE_PIXELS", tile)
        monkeypatch.setattr(memory, "free_memory", lambda device: 0)
        sizes.clear()
        assert degrade(pipeline, [request])[0].degraded.size == (128, 64)
        assert max(max(size) for size in sizes) == largest


def test_every_network_comes_to_the_device_that_it_is_offloaded_from(
    tiny_pipeline_folder, tiny_paper_folder, monkeypatch
):
    brought = set()
    pre_forward = accelerate.hooks.CpuOffload.pre_forward

    def record(hook, module, *arguments, **options):
        brought.add(type(module).__name__)
        return pre_forward(hook, module, *arguments, **options)

    monkeypatch.setattr(accelerate.hooks.CpuOffload, "pre_forward", record)
    image = Image.new("RGB", (64, 64), "gray")
    for folder, vae in ((tiny_pipeline_folder, "PatchCodec"), (tiny_paper_folder, "AutoencoderKL")):
        expected = load_pipeline(folder, device="cpu")(image, generator=torch.Generator().manual_seed(0), **CALL)
        pipeline = load_pipeline(folder, device="cpu")
        pipeline.enable_model_cpu_offload(device="cpu")
        brought.clear()
        found = pipeline(image, generator=torch.Generator().manual_seed(0), **CALL)
        assert brought == {"CLIPTextModel", "IntensityProjection", "UNet2DConditionModel", vae}
        torch.testing.assert_close(found.images, expected.images)


def test_channels_last_and_fused_attention(tiny_paper_folder, photo):
    image = Image.open(photo)  # of a flat one, an untrained codec's norms leave nothing but rounding errors
    results = []
    for arrange in (lambda pipeline: None, channels_last):
        pipeline = load_pipeline(tiny_paper_folder, device="cpu")
        arrange(pipeline)
        generator = torch.Generator().manual_seed(0)
        results.append(pipeline(image, generator=generator, output_size="working", **CALL).images)
    torch.testing.assert_close(*results, atol=1e-3, rtol=0)
    assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    processors = [m.processor for part in (pipeline.unet, pipeline.vae) for m in part.modules() if type(m) is Attention]
    assert processors and all(isinstance(processor, AttnProcessor2_0) for processor in processors)


@pytest.mark.parametrize(
    ("options", "variables", "sentence"),
    [
        ({"offload": True}, {}, "for a CUDA GPU; the model is to run on: cpu"),
        ({}, {"GENDEG_COMPILE": "1"}, "for a CUDA GPU; the model is to run on: cpu"),
        ({}, {"GENDEG_OFFLOAD": "yes"}, "GENDEG_OFFLOAD must be 0 or 1, not yes"),
        ({}, {"GENDEG_DTYPE": "half"}, "GENDEG_DTYPE must be float16, bfloat16 or float32, not half"),
        ({"device": None}, {"GENDEG_DEVICE": "gpu"}, "no kind of device 'gpu'"),
        ({"device": "cuda:99"}, {}, "no CUDA device 'cuda:99' here"),
        ({"device": "hpu"}, {}, "no device of the kind 'hpu' here"),
    ],
)
def test_options_that_are_not_possible(tiny_pipeline_folder, monkeypatch, options, variables, sentence):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=sentence):
        load_pipeline(tiny_pipeline_folder, **{"device": "cpu"} | options)


def test_options_from_the_environment(tiny_pipeline_folder, monkeypatch):
    for name, value in (("GENDEG_DEVICE", "cpu"), ("GENDEG_DTYPE", "bfloat16"), ("GENDEG_OFFLOAD", "0")):
        monkeypatch.setenv(name, value)
    pipeline = load_pipeline(tiny_pipeline_folder)
    assert (pipeline.unet.device.type, pipeline.unet.dtype) == ("cpu", torch.bfloat16)


def test_too_little_memory_for_the_weights_is_a_sentence(tiny_pipeline_folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.")

    monkeypatch.setattr("gendeg.pipeline.GenDegPipeline.from_pretrained", fail)
    with pytest.raises(ValueError, match=r"not enough memory on cpu for the model .* that use it\.$"):
        load_pipeline(tiny_pipeline_folder, device="cpu")
