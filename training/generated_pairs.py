"""What does the generator make of pairs? Pictures for structure correction to learn from: in one step, or sampled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tqdm import tqdm

from gendeg.call import own_value
from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.pipeline import GenDegPipeline, predict
from gendeg.scheduler import BridgeScheduler
from training.made_once import made_once
from training.pairs import PHRASES

_CHUNK = 32


@torch.no_grad()
def one_step(
    pipeline: GenDegPipeline,
    clean: torch.Tensor,
    degraded: torch.Tensor,
    degradation: torch.Tensor,
    phrases: list[str],
    mu: list[float],
    sigma: list[float],
    ease: torch.Tensor,
    seeds: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise degraded images to a time and let the generator predict them from there, in one step.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1], sides multiples of `pipeline.size_multiple`.
        degradation: [B], index into DEGRADATIONS.
        ease: [B] in [0, 1], 0 at the hardest time (all noise, or all clean), 1 at the easiest.
        seeds: of each sample's noise.

    Returns:
        (predicted images [B, 3, H, W] in [0, 1], weights [B] of their errors: abar_t, or the bridge's t).
    """
    scheduler, scale = pipeline.scheduler, pipeline.vae.config.scaling_factor
    condition = pipeline.encode(clean)
    target = scale * pipeline.encode(degraded)
    context = pipeline.encode_context(phrases, mu, sigma)
    generators = [torch.Generator(target.device).manual_seed(seed) for seed in seeds]
    if isinstance(scheduler, BridgeScheduler):
        time = ease * scheduler.config.num_train_timesteps
        start, asked = condition * scale, (torch.tensor(values, device=target.device) for values in (mu, sigma))
        rho = scheduler.residual_scale(degradation, *asked)
        noisy = scheduler.add_noise(start, target, scheduler.draw_noise(target, generators), time, rho)
        output = predict(pipeline.unet, scheduler.network_input(noisy, start, time, rho), time, condition, context)
        return pipeline.decode(scheduler.predicted(output, noisy, start, time, rho)), ease
    time = ((1 - ease) * (scheduler.config.num_train_timesteps - 1)).round().long()
    noise = torch.cat([torch.randn(target[:1].shape, generator=g, device=g.device) for g in generators]).to(target)
    abar = scheduler.alphas_cumprod.to(target)[time].reshape(-1, 1, 1, 1)
    noisy = abar.sqrt() * target + (1 - abar).sqrt() * noise  # schedulers differ in what their own add_noise means
    epsilon = predict(pipeline.unet, noisy, time, condition, context)
    return pipeline.decode((noisy - (1 - abar).sqrt() * epsilon) / abar.sqrt()), abar.flatten()


class LateStart(BridgeScheduler):
    """A bridge that is sampled from its step `first` on, where it lies between the latents of a true pair."""

    def start_at(self, first: int, degraded: torch.Tensor, generator: torch.Generator) -> None:
        self._first, self._degraded, self._generator = first, degraded, generator

    def begin(
        self, clean_latents: torch.Tensor, scale: torch.Tensor, temperature: tuple[float, float] = (1.0, 1.0)
    ) -> torch.Tensor:
        super().begin(clean_latents, scale, temperature)
        self._index, self.timesteps = self._first, self.timesteps[self._first :]
        noise = self.draw_noise(clean_latents, self._generator, temperature)
        return self.add_noise(clean_latents, self._degraded, noise, self.timesteps[:1], scale)

    @property
    def begun_at(self) -> float:
        """Bridge time of the start: 0, all of the picture is the generator's own; near 1, hardly any of it."""
        return self._times[self._first]


@torch.no_grad()
def sample_late(
    pipeline: GenDegPipeline,
    clean: torch.Tensor,
    degraded: torch.Tensor,
    degradation: str,
    phrases: list[str],
    mu: list[float],
    sigma: list[float],
    first: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, float]:
    """Sample by a bridge as in use (steps, temperature, guidance), but from a point between the true pair.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1], sides multiples of `pipeline.size_multiple`.
        first: the step it begins with; 0: a sample that knows nothing of `degraded`.

    Returns:
        (images [B, 3, H, W] in [0, 1], the bridge's t where they began).
    """
    steps, text_scale, image_scale, temperature = (
        own_value(pipeline.config[name], degradation)
        for name in ("num_inference_steps", "guidance_scale", "image_guidance_scale", "temperature")
    )
    late = copy.copy(pipeline)
    late.scheduler = LateStart.from_config(pipeline.scheduler.config)
    condition = pipeline.encode(clean)
    late.scheduler.start_at(first, pipeline.vae.config.scaling_factor * pipeline.encode(degraded), generator)
    asked = SimpleNamespace(
        photos=clean, degradation=get_degradation(degradation), prompt=[None] * len(clean), phrase=phrases,
        mu=mu, sigma=sigma, generator=generator, temperature=temperature,
    )  # fmt: skip
    contexts = pipeline.encode_prompts(asked)[1:]
    bridge = pipeline.bridge_of(asked)
    latents = late.denoise(condition, *contexts, steps, text_scale, image_scale, generator, bridge=bridge)
    return pipeline.decode(latents), late.scheduler.begun_at


def generate_pairs(
    pipeline: GenDegPipeline, pairs: Mapping[str, np.ndarray], file: Path, seed: int
) -> dict[str, torch.Tensor]:
    """What the generator makes of each pair, or what an earlier run, or the first of several processes, generated.

    Half of the pictures are predicted in one step, half are sampled, and half of these from the clean latent; all have
    the photograph's detail, as in use.

    Args:
        pairs: clean, degraded: uint8 [N, 3, size, size]; degradation, phrase, mu, sigma: [N].

    Returns:
        generated: uint8 [N, 3, size, size]; weight: [N], how far each is determined by the degraded image, 0 to 1.
    """
    return made_once(file, lambda: _generate_pairs(pipeline, pairs, seed), "its pictures are generated")


def _generate_pairs(pipeline: GenDegPipeline, pairs: Mapping[str, np.ndarray], seed: int) -> dict[str, torch.Tensor]:
    rng, count = np.random.default_rng(seed), len(pairs["mu"])
    generator = torch.Generator(pipeline.device).manual_seed(seed)
    sampled, place = rng.random(count) < 0.5, rng.random(count)
    generated = torch.empty(pairs["clean"].shape, dtype=torch.uint8)
    weight = torch.empty(count)
    bar = tqdm(total=count, desc="generating", unit="picture")
    for name, first, members in _groups(pipeline, np.asarray(pairs["degradation"]), sampled, place):
        clean, degraded = (
            torch.from_numpy(np.array(pairs[side][members])).to(pipeline.device).float() / 255
            for side in ("clean", "degraded")
        )
        phrases = [PHRASES[i] for i in pairs["phrase"][members]]
        about = phrases, pairs["mu"][members].tolist(), pairs["sigma"][members].tolist()
        if first < 0:
            ease = torch.from_numpy(place[members]).to(clean).sqrt()
            seeds = rng.integers(2**62, size=len(members)).tolist()
            kind = torch.from_numpy(np.array(pairs["degradation"][members])).long().to(pipeline.device)
            images, weights = one_step(pipeline, clean, degraded, kind, *about, ease, seeds)
        else:
            images, weights = sample_late(pipeline, clean, degraded, name, *about, first, generator)
        images = pipeline.with_detail(clean, images)
        generated[members] = (images * 255).round().to("cpu", torch.uint8)
        weight[members] = torch.as_tensor(weights).cpu().float()
        bar.update(len(members))
    bar.close()
    return {"generated": generated, "weight": weight}


def _groups(
    pipeline: GenDegPipeline, degradation: np.ndarray, sampled: np.ndarray, place: np.ndarray
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(degradation, first step of sampling or -1 for one-step predictions, members) of what is made at once."""
    for number, name in enumerate(DEGRADATIONS):
        steps = own_value(pipeline.config.num_inference_steps, name)
        first = np.where(sampled, (np.maximum(2 * place - 1, 0) * steps).astype(int), -1)
        for start in range(-1, steps):
            members = np.flatnonzero((degradation == number) & (first == start))
            for chunk in range(0, len(members), _CHUNK):
                yield name, start, members[chunk : chunk + _CHUNK]
