"""GenDegPipeline: a clean image in, a degraded image of the asked kind and intensity out.

GenDeg (arXiv 2411.17687), Sections 3.1 to 3.3. One class runs the paper's process (noise to degraded latent, three-way
guidance) and the compact profile's bridge (clean to degraded latent): the scheduler decides where sampling starts. The
networks work at the size they were trained at; what they make is carried over to the photograph's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from gendeg.blur import convolve, enlarged, way_of_light
from gendeg.call import GenDegOutput, check_inputs
from gendeg.degradations import DEGRADATIONS
from gendeg.detail import transfer_detail
from gendeg.image_forms import ImageInput, convert, resize, to_unit
from gendeg.intensity import IntensityProjection, degradation_map, intensity, intensity_of_pair, numbers
from gendeg.intensity import match_intensity as matched
from gendeg.physics import RULES
from gendeg.scheduler import BridgeScheduler
from gendeg.structure_correction import LayeredCorrection, StructureCorrection
from runtime.errors import UserError

MIN_SIDE = 32  # of an input image, in pixels
MAX_ASPECT = 8  # of its long side to its short one: beyond, what the network sees of it is a few pixels wide

_COMPONENTS = (
    "vae", "text_encoder", "tokenizer", "intensity_projection", "unet", "scheduler", "structure_correction"
)  # fmt: skip


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


class GenDegPipeline(DiffusionPipeline):
    """Degrades photographs with a latent diffusion model whose intensity is under control.

    Args:
        vae: image codec: AutoencoderKL, or the compact profile's PatchCodec.
        text_encoder, tokenizer: CLIP text model.
        intensity_projection: writes (mu, sigma) into the text context.
        unet: UNet2DConditionModel that takes [latent, clean latent] on its channels.
        scheduler: any diffusers scheduler for the paper's process, or a BridgeScheduler.
        structure_correction: lines generated images up with their clean ones (SCM); None: there is none.
        max_side: long side, in pixels, beyond which images are worked on at less than `resolution`.
        draw_variants: whether the model knows the phrases of `Degradation.variants`. Then a call draws one for each
            image, and text guidance leads there from the plain phrase instead of from the empty prompt.
        resolution, num_inference_steps, guidance_scale, image_guidance_scale, temperature, physics, match_intensity:
            what a call does that does not say otherwise; one value, or one for each degradation, {name: value}.
    """

    model_cpu_offload_seq = "text_encoder->intensity_projection->unet->vae->structure_correction"
    _optional_components = ["structure_correction"]

    def __init__(
        self,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        intensity_projection: IntensityProjection,
        unet: nn.Module,
        scheduler: Any,
        structure_correction: StructureCorrection | LayeredCorrection | None = None,
        resolution: int = 512,
        max_side: int = 1024,
        draw_variants: bool = False,
        num_inference_steps: int | dict[str, int] = 100,
        guidance_scale: float | dict[str, float] = 7.5,
        image_guidance_scale: float | dict[str, float] = 1.5,
        temperature: Sequence[float] | dict[str, Sequence[float]] = (1.0, 1.0),
        physics: bool | dict[str, bool] = False,
        match_intensity: bool | dict[str, bool] = False,
    ):
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.register_modules(**{name: settings.pop(name) for name in _COMPONENTS})
        self.register_to_config(**settings)

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
        physics: bool | None = None,
        match_intensity: bool | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_size: int | str = "photo",
        output_type: str = "pil",
        callback_on_step_end: Callable[[GenDegPipeline, int, torch.Tensor, dict[str, torch.Tensor]], Any] | None = None,
    ) -> GenDegOutput:
        """Degrade one image or several.

        Args:
            image: PIL image, array [H, W, 3] (uint8, or float in [0, 1]), tensor [3, H, W] in [0, 1], or several in a
                list or batch. Taken at 8 bits a colour. Several may differ in size, but not in aspect ratio.
            degradation: one of the six.
            mu, sigma: asked intensity at the working size, of images in [0, 1], for all or one each: at most 0.7 and
                0.4; None, or NaN, leaves it to the model.
            prompt: caption of the scene, for all or one each; the degradation's phrase is put behind it.
            phrase: instead of the degradation's own, or of the variant that would be drawn; for all or one each; for
                example "in snowy and hazy conditions".
            resolution: the working size, as the short side in pixels, instead of the one the model was trained at:
                streaks, flakes and drops come out finer at a larger one. The size that comes back is `output_size`.
            num_inference_steps, guidance_scale, image_guidance_scale: instead of the model's own.
            temperature: of a bridge's noise, (coarse, fine), see `BridgeScheduler.draw_noise`; None: the model's own.
            structure_correction: whether to correct the structure of the degraded images; "auto": where the model's
                module is for them (its `degradations`). Elsewhere fine detail alone is transferred (`gendeg.detail`).
            physics: whether to keep to what the degradation can do to a pixel (`gendeg.physics`); None: as the model.
            match_intensity: whether a tone curve of the map brings the result nearer to the asked mu and sigma
                (`gendeg.intensity.match_intensity`); None: as the model.
            generator: random generator, or one for each image.
            output_size: "photo" (each photograph's own), "working", or a short side in pixels, which makes no
                photograph larger than it is.
            output_type: "pil", "np" or "pt".
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after every step; tensors holds
                "latents" and "predicted", the degraded latents as expected from here (see `decode`). An exception
                raised in it ends the call.

        Raises:
            UserError: for input that cannot be worked on, and if the model gives no numbers; the message says why.
        """
        asked = {name: value for name, value in locals().items() if name != "self"}
        call = check_inputs(asked, self.config, self.structure_correction and self.structure_correction.degradations)
        sizes = {self.working_size(*photo.shape[1:], call.resolution) for photo in call.photos}
        if len(sizes) > 1:
            raise UserError("Images of different aspect ratios cannot share a batch. Call once for each.")
        height, width = call.working_size = sizes.pop()
        clean = torch.stack([resize(p, call.working_size) for p in call.photos]).to(self._execution_device) / 255
        clean_latents = self.encode(clean.to(self.unet.dtype))
        prompts, context, null_context = self.encode_prompts(call)
        latents = self.denoise(
            clean_latents, context, null_context, call.num_inference_steps, call.guidance_scale,
            call.image_guidance_scale, call.generator, call.callback_on_step_end, self.bridge_of(call),
        )  # fmt: skip
        generated = self.decode(latents)[..., :height, :width]
        if call.structure_correction:
            corrected = degraded = self.correct(clean, generated, call.degradation.name, call.generator, clean_latents)
        else:
            degraded = self.with_detail(clean, generated, clean_latents)
        before, kept = degraded, None
        if call.physics and call.degradation.name in RULES:
            degraded, kept = RULES[call.degradation.name](clean, degraded)
        if call.match_intensity:
            degraded, kept = matched(clean, degraded, call.mu, call.sigma), None
        self.maybe_free_model_hooks()
        mu, sigma = (values.tolist() for values in intensity(clean, degraded))
        images = zip(call.photos, clean, before, degraded, [None] * len(clean) if kept is None else kept, strict=True)
        pairs = [self.deliver(call, *five) for five in images]
        delivered_mu, delivered_sigma = zip(*(intensity_of_pair(*pair) for pair in pairs), strict=True)
        return GenDegOutput(
            images=convert([degraded for _, degraded in pairs], output_type),
            clean=convert([clean for clean, _ in pairs], output_type),
            degradation_maps=convert([degradation_map(*pair) for pair in pairs], output_type),
            prompts=prompts,
            mu=mu,
            sigma=sigma,
            delivered_mu=list(delivered_mu),
            delivered_sigma=list(delivered_sigma),
            structure_correction=call.structure_correction,
            uncorrected=convert(generated, output_type) if call.structure_correction else None,
            corrected=convert(corrected, output_type) if call.structure_correction else None,
        )

    def working_size(self, height: int, width: int, resolution: int | None = None) -> tuple[int, int]:
        """Height and width at which the networks see an image: short side `resolution`, long side bounded.

        Raises:
            UserError: for an image that is too small, or too long and narrow, to work on.
        """
        short, long = sorted((height, width))
        if short < MIN_SIDE:
            raise UserError(f"The image is {width} x {height} pixels; it must have at least {MIN_SIDE} on each side.")
        if long > MAX_ASPECT * short:
            raise UserError(
                f"The image is {width} x {height} pixels, too long and narrow: its long side may be at most "
                f"{MAX_ASPECT} times its short one. Cut it into pieces."
            )
        resolution = resolution or self.config.resolution
        if resolution < self.size_multiple:
            raise UserError(f"The resolution must be at least {self.size_multiple} pixels.")
        scale = min(resolution / short, max(self.config.max_side, resolution) / long)
        return round(height * scale), round(width * scale)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Image condition: images [B, 3, H, W] in [0, 1] to unscaled latents, padded to what the networks need."""
        height, width = images.shape[2:]
        multiple = self.size_multiple
        padded = nn.functional.pad(images * 2 - 1, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        output = self.vae.encode(padded)
        return output.latents if hasattr(output, "latents") else output.latent_dist.mode()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents, scaled as the network sees them, to float32 images [B, 3, H, W] in [0, 1], padding included.

        Raises:
            UserError: if they are not numbers.
        """
        return to_unit(self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample)

    def with_detail(
        self, clean: torch.Tensor, generated: torch.Tensor, clean_latents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Generated images [B, 3, H, W] with the clean ones' fine detail, as far as they have kept it; in [0, 1]."""
        clean_latents = self.encode(clean.to(self.unet.dtype)) if clean_latents is None else clean_latents
        rendered = self.decode(clean_latents * self.vae.config.scaling_factor)
        images = zip(clean, rendered[..., : clean.shape[2], : clean.shape[3]], generated, strict=True)
        return torch.stack([transfer_detail(*three) for three in images])

    def correct(
        self,
        clean: torch.Tensor,
        generated: torch.Tensor,
        degradation: str,
        generator: torch.Generator | list[torch.Generator] | None = None,
        clean_latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Clean and generated images [B, 3, H, W] in [0, 1] to the corrected generated ones, float32 in [0, 1].

        Raises:
            UserError: if the module gives values that are not numbers.
        """
        if self.structure_correction.begins_with_detail:
            generated = self.with_detail(clean, generated, clean_latents)
        images = ((image * 2 - 1).to(self.structure_correction.dtype) for image in (clean, generated))
        return to_unit(self.structure_correction.correct(*images, degradation, generator))

    def deliver(
        self, call: SimpleNamespace, photo: torch.Tensor, clean: torch.Tensor, before: torch.Tensor,
        after: torch.Tensor, kept: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """The pair (clean, degraded) at the asked `output_size`: float at the working size, else uint8; [3, H, W]."""
        size = {"photo": tuple(photo.shape[1:]), "working": call.working_size}.get(call.output_size)
        if size is None:
            scale = min(1, call.output_size / min(photo.shape[1:]))
            size = tuple(round(side * scale) for side in photo.shape[1:])
        if size == call.working_size:
            return clean, after
        photo = resize(photo, size).to(clean.device)
        moves = call.physics and not call.match_intensity and call.degradation.name == "motion_blur"
        way = way_of_light(clean, before) if moves else None
        if way is not None:
            return photo.cpu(), convolve(photo, enlarged(way, photo.shape[2] / clean.shape[2])).cpu()
        return photo.cpu(), transfer_detail(photo, clean, after, kept).cpu()

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

    def encode_prompts(self, call: SimpleNamespace) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        """(prompts, their context, the context that guidance leads away from) of a call's images."""
        count, kind = len(call.photos), call.degradation
        phrases, null_context = [kind.phrase] * count, self.encode_context([""] * count, None, None)
        if self.config.draw_variants and kind.variants:  # guidance is towards the one that is drawn
            plain = [self.prompt(caption, kind.phrase) for caption in call.prompt]
            null_context = self.encode_context(plain, call.mu, call.sigma)
            phrases = _drawn(kind.variants, count, call.generator)
        asked = zip(call.prompt, call.phrase, phrases, strict=True)
        prompts = [self.prompt(caption, phrase or own) for caption, phrase, own in asked]
        return prompts, self.encode_context(prompts, call.mu, call.sigma), null_context

    def encode_context(
        self, prompts: list[str], mu: list[float | None] | None, sigma: list[float | None] | None
    ) -> torch.Tensor:
        """Text and intensity to the context [B, tokens, width] that the UNet attends to."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        text = self.text_encoder(tokens.input_ids.to(self._execution_device)).last_hidden_state
        return self.intensity_projection(text, *(None if v is None else numbers(v) for v in (mu, sigma)))

    def bridge_of(self, call: SimpleNamespace) -> dict[str, Any] | None:
        """What a bridge is told of a call before it begins."""
        if not isinstance(self.scheduler, BridgeScheduler):
            return None
        kind = torch.full((len(call.mu),), list(DEGRADATIONS).index(call.degradation.name))
        scale = self.scheduler.residual_scale(kind, numbers(call.mu), numbers(call.sigma))
        return {"scale": scale.to(self._execution_device, self.unet.dtype), "temperature": call.temperature}

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
        bridge: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Sample degraded latents [B, C, h, w] for unscaled clean ones, by three-way guidance.

        Args:
            bridge: for a bridge's `begin`, see `bridge_of`.

        e_uncond + s_text (e_cond - e_image) + s_image (e_image - e_uncond) is a weighted sum of three predictions;
        those with a weight of zero are not made, the others are one batched evaluation.
        """
        self.scheduler.set_timesteps(num_inference_steps, device=clean_latents.device)
        if hasattr(self.scheduler, "begin"):
            latents = self.scheduler.begin(clean_latents * self.vae.config.scaling_factor, **(bridge or {}))
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
            outputs = predict(self.unet, inputs, timestep.expand(len(inputs)), conditions, contexts)
            weighted = zip(weights, outputs.chunk(len(branches)), strict=True)
            guided = sum(weight * output for weight, output in weighted)
            result = self.scheduler.step(guided, timestep, latents, **extra)
            latents = result.prev_sample
            if callback is not None:
                predicted = getattr(result, "pred_original_sample", None)
                if predicted is None and hasattr(self.scheduler, "model_outputs"):  # multistep solvers remember it
                    predicted = self.scheduler.model_outputs[-1]
                seen = {"latents": latents, "predicted": latents if predicted is None else predicted}
                callback(self, index, timestep, seen)
        return latents


def _drawn(choices: Sequence[str], count: int, generator: torch.Generator | list[torch.Generator] | None) -> list[str]:
    generators = generator if isinstance(generator, list) else [generator] * count
    shares = [torch.rand((), generator=g, device=g.device if g else None) for g in generators]
    return [choices[int(share * len(choices))] for share in shares]
