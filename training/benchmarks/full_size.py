"""Time and memory of one 512 x 512 image at the paper's size, random weights: the paper's sampler against the fast one.

python -m training.benchmarks.full_size [--size small] [--steps-measured N]

The network that Stable Diffusion 1.5 became, as the importer knows it, samples with the preset "paper", with "fast",
and with "fast" once more after torch.compile. An image is one call of the pipeline after a warm-up, the median of
three; autoencoder and text encoder are part of it. Where that takes hours, as on a CPU, `--steps-measured` runs N
steps of each preset instead and says that the whole is estimated: what a call takes apart from its steps, plus as many
times the median step as the preset has steps.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from itertools import pairwise

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from gendeg.checkpoints import with_preset
from gendeg.importer import FULL_SIZE, NOISE_SCHEDULE, RESOLUTION
from gendeg.intensity import IntensityProjection
from gendeg.pipeline import GenDegPipeline
from training.generator.tokenizer import train_tokenizer

ROUNDS = 3
_NARROW = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4}
# All parts as at full size, but narrow, and a small image: shows that everything works.
SMALL = {
    "unet": {**FULL_SIZE["unet"], **_NARROW, "attention_head_dim": 2, "cross_attention_dim": 16},
    "vae": {**FULL_SIZE["vae"], **_NARROW},
    "text_encoder": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}
SIZES = {"full": (FULL_SIZE, RESOLUTION), "small": (SMALL, 64)}


def random_pipeline(size: str, device: torch.device) -> GenDegPipeline:
    """A pipeline of one of SIZES with random weights, float16 on CUDA."""
    networks, resolution = SIZES[size]
    torch.manual_seed(0)
    tokenizer = train_tokenizer(77)
    text = CLIPTextConfig(**networks["text_encoder"], bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    with device:
        vae, text_encoder = AutoencoderKL(**networks["vae"]), CLIPTextModel(text)
        projection = IntensityProjection(text.max_position_embeddings, text.hidden_size)
        unet = UNet2DConditionModel(**networks["unet"])
    scheduler = EulerAncestralDiscreteScheduler(**NOISE_SCHEDULE)
    pipeline = GenDegPipeline(vae, text_encoder, tokenizer, projection, unet, scheduler, resolution=resolution)
    for network in (vae, text_encoder, projection, unet):
        network.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, torch.float16 if device.type == "cuda" else torch.float32)


def seconds_per_image(pipeline: GenDegPipeline, steps_measured: int | None) -> tuple[float, str]:
    """How long a call takes, as the pipeline is set.

    Args:
        steps_measured: run only so many steps and estimate the rest; None: run them all.

    Returns:
        (seconds an image, nothing or how they were estimated).
    """
    device, side = pipeline.device, pipeline.config.resolution
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    steps = pipeline.config.num_inference_steps
    run = min(steps, steps_measured or steps)

    def call(number: int) -> tuple[float, str]:
        def now() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        started, ends = now(), []
        # Without a look at the clock after every step, a GPU is not kept waiting: only estimates need one.
        look = (lambda *_: ends.append(now())) if number < steps else None
        pipeline(
            image, "haze", mu=0.1, sigma=0.07, num_inference_steps=number, output_type="pt", callback_on_step_end=look
        )
        whole = now() - started
        if look is None:
            return whole, ""
        step = statistics.median(after - before for before, after in pairwise(ends))
        return whole + (steps - number) * step, f" (estimated from {number} of its {steps} steps, {step:.3f} s each)"

    call(min(2, run))  # the warm-up; compiles what is to be compiled
    return sorted(call(run) for _ in range(ROUNDS))[ROUNDS // 2]


def peak_memory(device: torch.device) -> float:
    """Most memory that was in use so far, GiB: of the GPU since the last reset, without one of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full", help="of the network (%(default)s)")
    parser.add_argument("--steps-measured", type=int, metavar="N", help="steps to run of each preset (default: all)")
    args = parser.parse_args()
    if args.steps_measured is not None and args.steps_measured < 3:
        parser.error("--steps-measured must be at least 3")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = random_pipeline(args.size, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}, {pipeline.unet.dtype}, {pipeline.unet.num_parameters() / 1e6:.1f} M parameters in the UNet, "
        f"{pipeline.config.resolution} x {pipeline.config.resolution} pixels"
    )
    baseline = None
    for title, preset in (("paper", "paper"), ("fast", "fast"), ("fast, compiled", "fast")):
        pipeline = with_preset(pipeline, preset)
        if title.endswith("compiled"):
            pipeline.unet.compile()
            pipeline.vae.decoder.compile()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, estimated = seconds_per_image(pipeline, args.steps_measured)
        baseline = baseline or seconds
        print(
            f"{title}: {seconds:.3f} s an image{estimated}, {baseline / seconds:.2f} times as fast as paper; "
            f"peak memory {peak_memory(device):.2f} GiB",
            flush=True,
        )
    if device.type == "cpu":
        print("Memory is this process's, of all presets so far.")


if __name__ == "__main__":
    main()
