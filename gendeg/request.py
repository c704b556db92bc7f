"""What is asked of the generator, and what comes back? The same questions and checks for app, endpoint and CLI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops

from gendeg.checkpoints import with_preset
from gendeg.degradations import get_degradation
from gendeg.image_forms import resize, to_bytes
from gendeg.intensity import MU_MAX, SIGMA_MAX, intensity_of_pair
from gendeg.mask import intensity_inside, read_mask
from gendeg.memory import offloaded, set_tiling
from gendeg.mixture import degrade_mixture, in_physical_order, parts_of
from gendeg.pipeline import GenDegPipeline
from runtime.errors import UserError
from runtime.images import open_image
from runtime.limits import limit
from runtime.memory import is_out_of_memory, release_memory

MAX_SEED = 2**32 - 1
MAX_CAPTION = 1000  # characters; the text encoder reads some fifty words
MIN_RESOLUTION = 256
STRUCTURE_CORRECTION = {"auto": "auto", "on": True, "off": False}
OUTPUT_SIZES = ("photo", "working")
_MAP_SIDE = 1024  # pixels; the long side of the degradation map that is shown


def resolutions() -> tuple[int, int]:
    """The least and the largest short side that can be asked for, in pixels."""
    return MIN_RESOLUTION, max(MIN_RESOLUTION, limit("GENDEG_MAX_RESOLUTION"))


@dataclass(frozen=True)
class Part:
    """One degradation of a mixture, and the intensity that is asked of it."""

    degradation: str
    mu: float
    sigma: float


@dataclass(frozen=True)
class Request:
    """One photograph to degrade.

    Attributes:
        photo: RGB.
        degradation: name of one of the six.
        mu, sigma: asked intensity.
        seed: the same request with the same seed gives the same image.
        steps, guidance_scale, image_guidance_scale, resolution: None for the model's own.
        output_size: of the result: "photo", "working" or a short side in pixels, see `GenDegPipeline.__call__`.
        caption: of the scene; may be empty.
        structure_correction: "auto", True or False, see `GenDegPipeline.__call__`.
        preset: how to sample, see `gendeg.checkpoints.with_preset`; None: as the model was saved.
        also: further degradations to mix with it, see `gendeg.mixture`.
        mask: where the degradation goes, see `gendeg.mask.read_mask`; None: everywhere.
    """

    photo: Image.Image
    degradation: str
    mu: float
    sigma: float
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    resolution: int | None = None
    output_size: int | str = "photo"
    caption: str = ""
    structure_correction: bool | str = "auto"
    preset: str | None = None
    also: tuple[Part, ...] = ()
    mask: Image.Image | None = None

    @property
    def parts(self) -> list[Part]:
        """All degradations, in the order in which they are applied."""
        asked = {part.degradation: part for part in (Part(self.degradation, self.mu, self.sigma), *self.also)}
        return [asked[name] for name in in_physical_order(list(asked))]


@dataclass(frozen=True)
class PartResult:
    """What one degradation of a mixture reached, against the picture that it was asked of; see `Result`."""

    degradation_map: np.ndarray
    mu: float
    sigma: float


@dataclass(frozen=True)
class Result:
    """A degraded photograph.

    Attributes:
        clean, degraded: RGB, of the asked output size, aligned.
        degradation_map: |clean - degraded|, mean over the colours, to be looked at: [h, w] in [0, 1], not larger than
            1024 pixels on its long side.
        mu, sigma: the intensity reached, at the working size.
        delivered_mu, delivered_sigma: that of the pair at the output size.
        uncorrected, corrected: the degraded photograph before and after its structure was corrected, without the steps
            that follow; None if it was not, and of a mixture.
        request: what was asked.
        parts: of a mixture, what each of `request.parts` reached everywhere; all above is of the whole.
        inside: with a mask, (mu, sigma) where it is white, at the output size.
    """

    clean: Image.Image
    degraded: Image.Image
    degradation_map: np.ndarray
    mu: float
    sigma: float
    delivered_mu: float
    delivered_sigma: float
    uncorrected: Image.Image | None
    corrected: Image.Image | None
    request: Request
    parts: tuple[PartResult, ...] = ()
    inside: tuple[float, float] | None = None


def read_request(
    photo: str | None,
    degradation: str,
    mu: Any = None,
    sigma: Any = None,
    seed: Any = 0,
    steps: Any = None,
    guidance_scale: Any = None,
    image_guidance_scale: Any = None,
    resolution: Any = None,
    output_size: Any = None,
    caption: str | None = None,
    structure_correction: str | None = None,
    preset: str | None = None,
    also: Sequence[tuple[str, Any, Any]] = (),
    mask: str | None = None,
) -> Request:
    """A request from what people and programs type. None: the typical intensity, the model's own setting.

    Args:
        photo: path of an image file.
        structure_correction: "auto", "on" or "off".
        also: (degradation, mu, sigma) of each further one.
        mask: path of an image file.

    Raises:
        UserError: for anything that cannot be done; the message is a sentence to act on.
    """
    if not photo:
        raise UserError("There is no photograph yet. Upload one or choose an example.")
    asked = [(degradation, mu, sigma), *also]
    names = parts_of([name for name, _, _ in asked])
    first, *others = (read_part(name, mu, sigma) for name, (_, mu, sigma) in zip(names, asked, strict=True))
    choice = str(structure_correction or "auto").lower()
    if choice not in STRUCTURE_CORRECTION:
        raise UserError(f"Structure correction must be auto, on or off, not {_shown(structure_correction)}.")
    return Request(
        photo=open_image(photo),
        degradation=first.degradation,
        mu=first.mu,
        sigma=first.sigma,
        seed=whole("The seed", seed, 0, MAX_SEED),
        steps=None if steps is None else whole("The number of steps", steps, 1, limit("GENDEG_MAX_STEPS")),
        guidance_scale=None if guidance_scale is None else _number("The guidance scale", guidance_scale, 0, 30),
        image_guidance_scale=(
            None if image_guidance_scale is None else _number("The image guidance scale", image_guidance_scale, 0, 30)
        ),
        resolution=None if resolution is None else whole("The resolution", resolution, *resolutions()),
        output_size=_output_size(output_size),
        caption=_caption(caption),
        structure_correction=STRUCTURE_CORRECTION[choice],
        preset=preset or None,
        also=tuple(others),
        mask=_mask(mask),
    )


def _mask(path: str | None) -> Image.Image | None:
    if not path:
        return None
    mask = open_image(path, keep_alpha=True)
    read_mask(mask, mask.size, feather=0)  # one that marks nothing is said now
    return mask


def read_part(name: str, mu: Any = None, sigma: Any = None) -> Part:
    """A degradation and its intensity, as people and programs type them; None: the typical one.

    Raises:
        UserError: for an unknown degradation, and for numbers that no map can have.
    """
    kind = get_degradation(name)
    typical = kind.typical
    return Part(
        kind.name,
        typical[0] if mu is None else _number("mu", mu, 0, MU_MAX),
        typical[1] if sigma is None else _number("sigma", sigma, 0, SIGMA_MAX),
    )


def degrade(
    pipeline: GenDegPipeline, requests: list[Request], callback: Callable[..., Any] | None = None
) -> list[Result]:
    """Answer requests that differ in nothing but mu, sigma and seed, in one batch.

    Args:
        callback: called after every step, see `GenDegPipeline.__call__`.

    Raises:
        UserError: for what the model cannot do, and if there is not enough memory.
    """
    first = requests[0]
    pipeline = pipeline if first.preset is None else with_preset(pipeline, first.preset)
    photo = first.photo
    height, width = pipeline.working_size(photo.height, photo.width, first.resolution)
    set_tiling(pipeline, len(requests) * height * width)
    output, names = None, [part.degradation for part in first.parts]
    intensities = [[(part.mu, part.sigma) for part in request.parts] for request in requests]
    mu, sigma = np.array(intensities).transpose(2, 1, 0).tolist()  # of each part, one for each request
    options = {
        "prompt": first.caption,
        "resolution": first.resolution,
        "num_inference_steps": first.steps,
        "guidance_scale": first.guidance_scale,
        "image_guidance_scale": first.image_guidance_scale,
        "structure_correction": first.structure_correction,
        "generator": [torch.Generator().manual_seed(request.seed) for request in requests],
        "output_size": first.output_size,
        "callback_on_step_end": callback,
    }
    try:
        if first.also:
            output = degrade_mixture(pipeline, [photo] * len(requests), names, mu, sigma, **options)
        else:
            output = pipeline([photo] * len(requests), names[0], mu[0], sigma[0], **options)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if output is None:  # said here, where the error does not hold the memory any more
        release_memory()
        raise UserError(_out_of_memory(pipeline, len(requests), width, height))
    parts = [()] * len(requests)
    if first.also:
        of_each = (
            map(PartResult, map(_map_to_show, part.degradation_maps), part.mu, part.sigma) for part in output.parts
        )
        parts = list(zip(*of_each, strict=True))
    nothing = [None] * len(requests)
    corrected = not first.also and output.structure_correction
    correction = (output.uncorrected, output.corrected) if corrected else (nothing, nothing)
    numbers = (output.mu, output.sigma, output.delivered_mu, output.delivered_sigma)
    maps = map(_map_to_show, output.degradation_maps)
    results = zip(output.clean, output.images, maps, *numbers, *correction, requests, parts, strict=True)
    results = [Result(*values) for values in results]
    return results if first.mask is None else [_only_inside(result, first.mask, (height, width)) for result in results]


def _only_inside(result: Result, mask: Image.Image, working_size: tuple[int, int]) -> Result:
    """The same where the mask is white, and the photograph as it was elsewhere."""
    mask = read_mask(mask, result.clean.size)
    degraded = Image.composite(result.degraded, result.clean, mask)
    pair = to_bytes([result.clean, degraded])
    mu, sigma = intensity_of_pair(*(resize(side, working_size) for side in pair))
    delivered_mu, delivered_sigma = intensity_of_pair(*pair)
    return replace(
        result,
        degraded=degraded,
        degradation_map=_map_to_show(ImageChops.difference(result.clean, degraded)),
        mu=mu,
        sigma=sigma,
        delivered_mu=delivered_mu,
        delivered_sigma=delivered_sigma,
        inside=intensity_inside(result.clean, degraded, mask),
    )


def _map_to_show(degradation_map: Image.Image) -> np.ndarray:
    shown = degradation_map.copy()
    shown.thumbnail((_MAP_SIDE, _MAP_SIDE), Image.Resampling.BOX)
    return np.asarray(shown).mean(2) / 255


def _out_of_memory(pipeline: GenDegPipeline, count: int, width: int, height: int) -> str:
    what = f"{count} images of {width} × {height} pixels at once" if count > 1 else f"{width} × {height} pixels"
    sentence = f"There is not enough memory for {what}. A smaller working size or result needs less memory"
    if count > 1:
        sentence += ", and so does a single image"
    if pipeline._execution_device.type == "cuda" and not offloaded(pipeline):
        sentence += "; so does the whole model when it is started with GENDEG_OFFLOAD=1"
    return sentence + "."


def _caption(value: Any) -> str:
    caption = str(value or "")
    if len(caption) > MAX_CAPTION:
        raise UserError(f"The scene caption has {len(caption)} characters; {MAX_CAPTION} are the most.")
    return caption


def _output_size(value: Any) -> int | str:
    if value is None or value in OUTPUT_SIZES:
        return value or OUTPUT_SIZES[0]
    try:
        return whole("The output size", value, MIN_RESOLUTION // 4, 100_000)
    except UserError:
        words = " or ".join(OUTPUT_SIZES)
        raise UserError(f"The output size must be {words}, or a short side in pixels, not {_shown(value)}.") from None


def _number(name: str, value: Any, lowest: float, highest: float) -> float:
    number = _float(value)
    if not lowest <= number <= highest:
        raise UserError(f"{name} must be a number from {lowest:g} to {highest:g}, not {_shown(value)}.")
    return number


def whole(name: str, value: Any, lowest: int, highest: int) -> int:
    """What was typed, as a whole number from `lowest` to `highest`.

    Raises:
        UserError: if it is none; the message calls it `name`.
    """
    number = _float(value)
    if not lowest <= number <= highest or number != int(number):
        raise UserError(f"{name} must be a whole number from {lowest} to {highest}, not {_shown(value)}.")
    return int(number)


def _float(value: Any) -> float:
    """What was typed, as a number; NaN, which lies in no range, if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _shown(value: Any) -> str:
    """A value as its sentence shows it, however long or odd it is."""
    if isinstance(value, int) and abs(value) >= 10**40:  # Python refuses to write out very long ones
        return "a number of more than 40 digits"
    text = str(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}…"
