"""The preset "paper" takes the published sampler's steps: guided Euler-ancestral sampling, written out here."""

import pytest
import torch

from gendeg import load_pipeline
from gendeg.checkpoints import PRESETS, with_preset

SHAPE = (1, 4, 8, 8)


@pytest.fixture(scope="module")
def pipeline(tiny_paper_folder):
    return load_pipeline(tiny_paper_folder, device="cpu")


def published(unet, clean, context, null, steps, text_scale, image_scale, generator):
    """The published recipe in double precision; yields the latents after every step."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    log_sigmas = ((1 - alphas) / alphas).sqrt().log()
    times = torch.linspace(999, 0, steps, dtype=torch.float64)
    low, high, share = times.floor().long(), times.ceil().long(), times.frac()
    sigmas = torch.cat([((1 - share) * log_sigmas[low] + share * log_sigmas[high]).exp(), torch.zeros(1)])
    x = torch.randn(clean.shape, generator=generator).double() * sigmas[0]
    images, texts = torch.cat([clean, clean, torch.zeros_like(clean)]), torch.cat([context, null, null])
    for i in range(steps):
        scaled = (x / (sigmas[i] ** 2 + 1) ** 0.5).float().repeat(3, 1, 1, 1)
        output = unet(torch.cat([scaled, images], 1), times[i].float(), encoder_hidden_states=texts).sample
        e_cond, e_image, e_uncond = output.double().chunk(3)
        e = e_uncond + text_scale * (e_cond - e_image) + image_scale * (e_image - e_uncond)
        denoised = x - sigmas[i] * e
        now, then = sigmas[i], sigmas[i + 1]
        up = min(then, (then**2 * (now**2 - then**2) / now**2) ** 0.5)
        down = (then**2 - up**2) ** 0.5
        noise = torch.randn(clean.shape, generator=generator).double()
        x = x + (x - denoised) / now * (down - now) + (noise * up if then > 0 else 0)
        yield x


@torch.no_grad()
@pytest.mark.parametrize("steps", [100, 7, 2])
def test_the_same_latents_after_every_step(pipeline, steps):
    pipeline = with_preset(pipeline, "paper")
    text_scale, image_scale = pipeline.config.guidance_scale, pipeline.config.image_guidance_scale
    assert (pipeline.config.num_inference_steps, text_scale, image_scale) == (100, 7.5, 1.5)
    generator = torch.Generator().manual_seed(0)
    clean = 5 * torch.randn(SHAPE, generator=generator)
    context, null = torch.randn(2, SHAPE[0], 77, 16, generator=generator)
    found = []
    pipeline.denoise(
        clean, context, null, steps, text_scale, image_scale, torch.Generator().manual_seed(1),
        lambda pipeline, index, time, tensors: found.append(tensors["latents"]),
    )  # fmt: skip

    def reference(scale):
        noise = torch.Generator().manual_seed(1)
        return list(published(pipeline.unet, clean, context, null, steps, scale, image_scale, noise))

    expected = reference(text_scale)
    assert len(found) == steps
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(
            ours.double(), theirs, atol=1e-3, rtol=1e-3, msg=lambda text, index=index: f"step {index}: {text}"
        )
    if steps < 100:
        assert (reference(1.0)[-1] - expected[-1]).abs().max() > 0.1, (
            "the text must matter for the test to mean a thing"
        )


@torch.no_grad()
def test_the_fast_preset_comes_to_the_same_end(pipeline):
    """With a network that knows the image there is only one right result, and both solvers come to it."""
    clean = torch.zeros(1, 4, 8, 8)
    target = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for name, preset in PRESETS.items():
        sampled = with_preset(pipeline, name)
        scheduler = sampled.scheduler
        alphas = scheduler.alphas_cumprod

        def exact(module, inputs, output, alphas=alphas, scheduler=scheduler):
            """noise = (x_t - sqrt(abar) target) / sqrt(1 - abar)"""
            time = float(inputs[1].flatten()[0])
            abar = float(alphas[int(time)] * (1 - time % 1) + alphas[min(int(time) + 1, 999)] * (time % 1))
            output.sample = (inputs[0][:, :4] - abar**0.5 * target) / (1 - abar) ** 0.5
            return output

        hook = pipeline.unet.register_forward_hook(exact)
        context = torch.zeros(1, 77, 16)
        try:
            steps, noise = preset.num_inference_steps, torch.Generator().manual_seed(1)
            result = sampled.denoise(clean, context, context, steps, 1, 1, noise)
        finally:
            hook.remove()
        torch.testing.assert_close(result, target, atol=0.02, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
