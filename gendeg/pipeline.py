"""GenDegPipeline: a clean image in, a degraded image of the asked kind and intensity out.

GenDeg (arXiv 2411.17687), Sections 3.1 to 3.3. One class runs the paper's process (noise to degraded latent, three-way
guidance) and the compact profile's bridge (clean to degraded latent): the scheduler decides where sampling starts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import nn

from gendeg.degradations import Degradation, get_degradation
from gendeg.intensity import IntensityProjection, degradation_map, intensity
from gendeg.intensity import match_intensity as matched
from gendeg.restrictions import OVER_PHOTOGRAPH, RESTRICTIONS, SEEK_INTENSITY
from gendeg.structure_correction import StructureCorrection
from runtime.errors import UserError
from runtime.images import to_rgb

ImageInput = Image.Image | np.ndarray | torch.Tensor
MIN_SIDE = 32  # of an input image, in pixels


@dataclass
class GenDegOutput(BaseOutput):
    """What a call gives back, everything at one size and aligned pixel by pixel.

    Attributes:
        images: the degraded images: PIL list, array [B, H, W, 3] or tensor [B, 3, H, W] in [0, 1].
        clean: the ground truths they pair with, in the same form, so that a pair differs by the degradation and not by
            the codec: the clean images themselves where structure was corrected or they were themselves degraded (all
            restrictions but haze's), else their codec round trips.
        degradation_maps: |clean - degraded|, in the same form.
        prompts: what the text encoder was told of each image.
        mu, sigma: mean and standard deviation of each degradation map: the intensities reached.
        structure_correction: whether the structure of the degraded images was corrected.
        uncorrected, corrected: the degraded images before and after that, in the same form, without the steps that
            follow; None where it was not.
        round_trip: whether `clean` is the codec's round trip.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    clean: list[Image.Image] | np.ndarray | torch.Tensor
    degradation_maps: list[Image.Image] | np.ndarray | torch.Tensor
    prompts: list[str]
    mu: list[float]
    sigma: list[float]
    structure_correction: bool
    uncorrected: list[Image.Image] | np.ndarray | torch.Tensor | None
    corrected: list[Image.Image] | np.ndarray | torch.Tensor | None
    round_trip: bool


def predict(
    unet: nn.Module, latents: torch.Tensor, timestep: torch.Tensor, clean_latents: torch.Tensor, context: torch.Tensor
) -> torch.Tensor:
    """One evaluation of the network, as training and sampling both call it.

    A UNet with a class embedding is also told, beside its time embedding, the whole context and the mean and
    deviation of each clean latent channel: to reach a mean degradation it must know how bright the image is, which
    its group normalisations hide from it.

    Args:
        latents, clean_latents: [B, C, h, w].
        timestep: [B] or a single number.
        context: [B, tokens, width].
    """
    labels = None
    if unet.config.class_embed_type == "projection":
        statistics = (clean_latents.mean((2, 3)), clean_latents.std((2, 3)))
        labels = torch.cat([context.flatten(1), *statistics], dim=1)
    inputs = torch.cat([latents, clean_latents], dim=1)
    return unet(inputs, timestep, encoder_hidden_states=context, class_labels=labels).sample


def own_value(setting: float | dict[str, float], degradation: str) -> float:
    """A model's own setting, one number or {degradation: number}, for one degradation."""
    return setting[degradation] if isinstance(setting, dict) else setting


class GenDegPipeline(DiffusionPipeline):
    """Degrades photographs with a latent diffusion model whose intensity is under control.

    Args:
        vae: image codec: AutoencoderKL, or the compact profile's PatchCodec.
        text_encoder, tokenizer: CLIP text model.
        intensity_projection: writes (mu, sigma) into the text context.
        unet: UNet2DConditionModel that takes [latent, clean latent] on its channels.
        scheduler: any diffusers scheduler for the paper's process, or a BridgeScheduler.
        structure_correction: lines generated images up with their clean ones (SCM); None: there is none.
        resolution: the short side, in pixels, that the model was trained at.
        max_side: long side beyond which images are scaled down further.
        image_guidance_scale, restrict, match_intensity: defaults of a call.
        num_inference_steps, guidance_scale: defaults of a call, one number or one for each degradation, {name: number}.
        temperature: defaults of a call, {name of a degradation: [coarse, fine]}; None: [1, 1] for all.
        draw_variants: whether the model knows the phrases of `Degradation.variants`. Then a call draws one for each
            image, and text guidance leads there from the plain phrase instead of from the empty prompt.
    """

    model_cpu_offload_seq = "text_encoder->intensity_projection->unet->vae->structure_correction"
    _optional_components = ["structure_correction"]
    _callback_tensor_inputs = ["latents", "predicted"]

    def __init__(
        self,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        intensity_projection: IntensityProjection,
        unet: nn.Module,
        scheduler: Any,
        structure_correction: StructureCorrection | None = None,
        resolution: int = 512,
        max_side: int = 1024,
        num_inference_steps: int | dict[str, int] = 100,
        guidance_scale: float | dict[str, float] = 7.5,
        image_guidance_scale: float = 1.5,
        temperature: dict[str, list[float]] | None = None,
        draw_variants: bool = False,
        restrict: bool = False,
        match_intensity: bool = False,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            intensity_projection=intensity_projection,
            unet=unet,
            scheduler=scheduler,
            structure_correction=structure_correction,
        )
        self.register_to_config(
            resolution=resolution,
            max_side=max_side,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            temperature=temperature,
            draw_variants=draw_variants,
            restrict=restrict,
            match_intensity=match_intensity,
        )

    @property
    def size_multiple(self) -> int:
        """Height and width that the networks work on are multiples of this, in pixels."""
        codec_levels = getattr(self.vae.config, "block_out_channels", None)
        codec_factor = 2 ** (len(codec_levels) - 1) if codec_levels else 8
        return codec_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        degradation: str,
        mu: float | Sequence[float | None] | None = None,
        sigma: float | Sequence[float | None] | None = None,
        prompt: str | Sequence[str] | None = None,
        phrase: str | Sequence[str | None] | None = None,
        resolution: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        temperature: tuple[float, float] | None = None,
        structure_correction: bool | str = "auto",
        restrict: bool | None = None,
        match_intensity: bool | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[GenDegPipeline, int, torch.Tensor, dict[str, torch.Tensor]], Any] | None = None,
    ) -> GenDegOutput:
        """Degrade one image or several.

        Args:
            image: PIL image, array [H, W, 3] (uint8, or float in [0, 1]), tensor [3, H, W] in [0, 1], or several in a
                list or batch. Worked on, and returned, with the short side at `resolution`.
            degradation: one of the six.
            mu, sigma: asked intensity, for all or one each; None, or NaN, leaves it to the model.
            prompt: caption of the scene, for all or one each; the degradation's phrase is put behind it.
            phrase: instead of the degradation's own, or of the variant that would be drawn; for all or one each; for
                example "in snowy and hazy conditions".
            resolution: short side in pixels instead of the model's own.
            num_inference_steps, guidance_scale, image_guidance_scale: instead of the model's own.
            temperature: of a bridge's noise, (coarse, fine), see `BridgeScheduler.draw_noise`; instead of the model's
                own.
            structure_correction: whether to correct the structure of the degraded images; "auto": where the paper does
                (haze, motion blur, raindrop) and the model holds a module for it.
            restrict: whether images are brought to what the degradation can make, see `gendeg.restrictions`; None: the
                model's own setting.
            match_intensity: whether restrictions and a tone curve of the degradation map bring the result nearer to the
                asked mu and sigma, see `gendeg.intensity.match_intensity`; None: the model's own setting.
            generator: random generator, or one for each image.
            output_type: "pil", "np" or "pt".
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after every step; tensors holds
                "latents" and "predicted", the degraded latents as expected from here (see `decode`). An exception
                raised in it ends the call.

        Raises:
            UserError: for input that cannot be worked on; the message says why.
        """
        degradation = get_degradation(degradation)
        images = _to_tensors(image)
        mus, sigmas = (
            [None if v is None or math.isnan(v) else float(v) for v in _per_image(value, len(images), name)]
            for value, name in ((mu, "mu"), (sigma, "sigma"))
        )
        if isinstance(generator, (list, tuple)):
            generator = _per_image(generator, len(images), "generator")
        prompts = _per_image(prompt, len(images), "prompt")
        if num_inference_steps is None:
            num_inference_steps = own_value(self.config.num_inference_steps, degradation.name)
        if num_inference_steps < 1:
            raise UserError("The number of steps must be at least 1.")
        if output_type not in ("pil", "np", "pt"):
            raise UserError(f'output_type must be "pil", "np" or "pt", not {output_type!r}.')
        correct = self._corrects(degradation, structure_correction)
        sizes = [self.working_size(*i.shape[1:], resolution) for i in images]
        if len(set(sizes)) > 1:
            raise UserError("Images of different aspect ratios cannot share a batch. Call once for each.")
        if guidance_scale is None:
            guidance_scale = own_value(self.config.guidance_scale, degradation.name)
        if temperature is None:
            temperature = (self.config.temperature or {}).get(degradation.name, (1.0, 1.0))
        image_scale = self.config.image_guidance_scale if image_guidance_scale is None else image_guidance_scale

        photo = torch.stack([_resize(i, sizes[0]) for i in images]).to(self._execution_device, torch.float32)
        clean = photo.to(self.unet.dtype)
        clean_latents = self.encode(clean)
        null_context = self.encode_context([""] * len(images), None, None)
        own, asked = [degradation.phrase] * len(images), _per_image(phrase, len(images), "phrase")
        if self.config.draw_variants and degradation.variants:  # guidance is towards the one that is drawn
            null_context = self.encode_context([self.prompt(p, degradation.phrase) for p in prompts], mus, sigmas)
            own = _drawn(degradation.variants, len(images), generator)
        prompts = [self.prompt(p, a or o) for p, a, o in zip(prompts, asked, own, strict=True)]
        context = self.encode_context(prompts, mus, sigmas)
        latents = self.denoise(
            clean_latents,
            context,
            null_context,
            num_inference_steps,
            guidance_scale,
            image_scale,
            generator,
            callback_on_step_end,
            temperature,
        )
        height, width = sizes[0]
        degraded = self.decode(latents)[..., :height, :width]
        uncorrected = degraded if correct else None
        if correct:
            degraded, clean = self.correct_structure(clean, degraded), photo
        else:
            clean = self.decode(clean_latents * self.vae.config.scaling_factor)[..., :height, :width]
        corrected = degraded
        matching = self.config.match_intensity if match_intensity is None else match_intensity
        restriction, rule, seeks = degradation.restriction, None, False
        if self.config.restrict if restrict is None else restrict:
            rule, seeks = RESTRICTIONS[restriction], matching and restriction in SEEK_INTENSITY
            if restriction in OVER_PHOTOGRAPH:
                degraded = rule(clean, degraded, over=photo, **({"mu": mus, "sigma": sigmas} if seeks else {}))
                clean, rule = photo, None  # a tone curve leaves white as it is, the rest if it is gentle
            else:
                degraded = rule(clean, degraded)
        if matching:
            degraded = matched(clean, degraded, mus, sigmas, rule, gentle=seeks)
        reached_mu, reached_sigma = intensity(clean, degraded)
        self.maybe_free_model_hooks()
        return GenDegOutput(
            images=_convert(degraded, output_type),
            clean=_convert(clean, output_type),
            degradation_maps=_convert(degradation_map(clean, degraded), output_type),
            prompts=prompts,
            mu=reached_mu.tolist(),
            sigma=reached_sigma.tolist(),
            structure_correction=correct,
            uncorrected=_convert(uncorrected, output_type) if correct else None,
            corrected=_convert(corrected, output_type) if correct else None,
            round_trip=clean is not photo,
        )

    def _corrects(self, degradation: Degradation, asked: bool | str) -> bool:
        if asked not in (True, False, "auto"):
            raise UserError(f'structure_correction must be True, False or "auto", not {asked!r}.')
        if asked is True and self.structure_correction is None:
            raise UserError("This model holds no structure correction module.")
        if asked == "auto":
            return degradation.structure_correction and self.structure_correction is not None
        return asked

    def correct_structure(self, clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        """Clean and generated images [B, 3, H, W] in [0, 1] to the corrected generated ones, float32 in [0, 1]."""
        dtype = self.structure_correction.dtype
        corrected = self.structure_correction(*((image * 2 - 1).to(dtype) for image in (clean, degraded)))
        return (corrected.float() / 2 + 0.5).clamp(0, 1)

    def working_size(self, height: int, width: int, resolution: int | None = None) -> tuple[int, int]:
        """Height and width at which an image is worked on and returned: short side `resolution`, long side bounded.

        Raises:
            UserError: for an image too small to work on.
        """
        if min(height, width) < MIN_SIDE:
            raise UserError(f"The image is {width} x {height} pixels; it must have at least {MIN_SIDE} on each side.")
        resolution = resolution or self.config.resolution
        if resolution < self.size_multiple:
            raise UserError(f"The resolution must be at least {self.size_multiple} pixels.")
        scale = min(resolution / min(height, width), max(self.config.max_side, resolution) / max(height, width))
        return max(8, round(height * scale)), max(8, round(width * scale))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Image condition: images [B, 3, H, W] in [0, 1] to unscaled latents, padded to what the networks need."""
        height, width = images.shape[2:]
        multiple = self.size_multiple
        padded = nn.functional.pad(images * 2 - 1, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        output = self.vae.encode(padded)
        return output.latents if hasattr(output, "latents") else output.latent_dist.mode()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents, scaled as the network sees them, to float32 images [B, 3, H, W] in [0, 1], padding included."""
        images = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def prompt(self, caption: str | None, phrase: str) -> str:
        """ "<caption>, <phrase>", the caption cut short where the text encoder could not take the whole."""
        caption = (caption or "").strip().rstrip(",.")
        if not caption:
            return phrase
        prompt, tokens = f"{caption}, {phrase}", self.tokenizer(caption, add_special_tokens=False).input_ids
        room = self.tokenizer.model_max_length - len(self.tokenizer(f", {phrase}").input_ids)
        while len(self.tokenizer(prompt).input_ids) > self.tokenizer.model_max_length:
            if room <= 0:
                return phrase
            # A cut inside a character of several bytes leaves a sign that takes more tokens than were cut.
            caption = self.tokenizer.decode(tokens[:room]).rstrip("\ufffd").strip()
            prompt, room = f"{caption}, {phrase}", room - 1
        return prompt

    def encode_context(
        self, prompts: list[str], mu: list[float | None] | None, sigma: list[float | None] | None
    ) -> torch.Tensor:
        """Text and intensity to the context [B, tokens, width] that the UNet attends to."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        text = self.text_encoder(tokens.input_ids.to(self._execution_device)).last_hidden_state
        mu, sigma = (
            None if v is None else torch.tensor([float("nan") if i is None else float(i) for i in v])
            for v in (mu, sigma)
        )
        return self.intensity_projection(text, mu, sigma)

    def denoise(
        self,
        clean_latents: torch.Tensor,
        context: torch.Tensor,
        null_context: torch.Tensor,
        num_inference_steps: int,
        text_scale: float,
        image_scale: float,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback: Callable[..., Any] | None = None,
        temperature: tuple[float, float] = (1.0, 1.0),
    ) -> torch.Tensor:
        """Sample degraded latents [B, C, h, w] for unscaled clean ones, by three-way guidance.

        e_uncond + s_text (e_cond - e_image) + s_image (e_image - e_uncond) is a weighted sum of three predictions;
        those with a weight of zero are not made, the others are one batched evaluation.
        """
        self.scheduler.set_timesteps(num_inference_steps, device=clean_latents.device)
        if hasattr(self.scheduler, "begin"):
            latents = self.scheduler.begin(clean_latents * self.vae.config.scaling_factor, temperature)
        else:
            latents = randn_tensor(clean_latents.shape, generator, clean_latents.device, clean_latents.dtype)
            latents = latents * self.scheduler.init_noise_sigma
        branches = (
            (text_scale, clean_latents, context),
            (image_scale - text_scale, clean_latents, null_context),
            (1 - image_scale, torch.zeros_like(clean_latents), null_context),
        )
        branches = [branch for branch in branches if branch[0] != 0]
        weights, conditions, contexts = zip(*branches, strict=True)
        conditions, contexts = torch.cat(conditions), torch.cat(contexts)
        extra = {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        for index, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            inputs = self.scheduler.scale_model_input(latents, timestep).repeat(len(branches), 1, 1, 1)
            outputs = predict(self.unet, inputs, timestep.expand(len(inputs)), conditions, contexts).chunk(
                len(branches)
            )
            guided = sum(weight * output for weight, output in zip(weights, outputs, strict=True))
            result = self.scheduler.step(guided, timestep, latents, **extra)
            latents = result.prev_sample
            if callback is not None:
                predicted = getattr(result, "pred_original_sample", None)
                if predicted is None and hasattr(self.scheduler, "model_outputs"):  # multistep solvers remember it
                    predicted = self.scheduler.model_outputs[-1]
                callback(
                    self,
                    index,
                    timestep,
                    {"latents": latents, "predicted": latents if predicted is None else predicted},
                )
        return latents


def _drawn(choices: Sequence[str], count: int, generator: torch.Generator | list[torch.Generator] | None) -> list[str]:
    generators = generator if isinstance(generator, list) else [generator] * count
    shares = [torch.rand((), generator=g, device=g.device if g else None) for g in generators]
    return [choices[int(share * len(choices))] for share in shares]


def _to_tensors(image: ImageInput | Sequence[ImageInput]) -> list[torch.Tensor]:
    """Whatever holds images, as a list of float tensors [3, H, W] in [0, 1]."""
    if (isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim == 4) or isinstance(image, (list, tuple)):
        if not len(image):
            raise UserError("There is no image.")
        return [tensor for i in image for tensor in _to_tensors(i)]
    if isinstance(image, Image.Image):
        return [torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).float() / 255]
    if isinstance(image, np.ndarray) and image.ndim in (2, 3):
        if image.ndim == 2:
            image = image[..., None]
        if image.shape[2] == 1:
            image = image.repeat(3, axis=2)
        if image.shape[2] not in (3, 4):
            raise UserError(f"An image array must have the shape [H, W, 3], not {list(image.shape)}.")
        scale = {"u1": 255, "u2": 65535}.get(image.dtype.str[1:], 1)
        return [_checked(torch.from_numpy(image[..., :3].astype(np.float32) / scale).permute(2, 0, 1))]
    if isinstance(image, torch.Tensor) and image.ndim == 3 and image.shape[0] == 3:
        return [_checked(image.float() / 255 if image.dtype == torch.uint8 else image.float())]
    raise UserError("The image must be a PIL image, an array [H, W, 3] or a tensor [3, H, W].")


def _checked(image: torch.Tensor) -> torch.Tensor:
    if not bool(image.isfinite().all()) or image.min() < 0 or image.max() > 1:
        raise UserError("Image values must lie in [0, 1] (or 0 to 255 as uint8).")
    return image


def _resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(image.shape[1:]) == size:
        return image
    resized = nn.functional.interpolate(image[None], size, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)


def _per_image(value: Any, count: int, name: str) -> list[Any]:
    several = isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim)
    values = list(value) if several else [value] * count
    if len(values) != count:
        raise UserError(f"There are {count} images but {len(values)} values of {name}.")
    return values


def _convert(images: torch.Tensor, output_type: str) -> list[Image.Image] | np.ndarray | torch.Tensor:
    if output_type == "pt":
        return images
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    return arrays if output_type == "np" else [Image.fromarray((a * 255).round().astype(np.uint8)) for a in arrays]
