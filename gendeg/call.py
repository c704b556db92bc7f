"""What does a call of the pipeline take and give back? Arguments, checked and complete; and what comes out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput

from gendeg.degradations import get_degradation
from gendeg.image_forms import Images, to_bytes
from gendeg.intensity import MU_MAX, SIGMA_MAX
from runtime.errors import UserError


@dataclass
class GenDegOutput(BaseOutput):
    """What a call gives back: pairs aligned pixel by pixel, that differ by the degradation and not by the codec.

    "Images" below are PIL images in a list, or values in [0, 1]: an array [B, H, W, 3] or a tensor [B, 3, H, W] if all
    have one size, else a list of [H, W, 3] or [3, H, W].

    Attributes:
        images: the degraded images, at the asked `output_size`.
        clean: the photographs themselves, at that size.
        degradation_maps: |clean - degraded|, at that size.
        prompts: what the text encoder was told of each image.
        mu, sigma: mean and standard deviation of each degradation map at the working size, where they are asked.
        delivered_mu, delivered_sigma: those of `degradation_maps`; a blur, say, counts more the finer the photograph.
        structure_correction: whether the structure of the degraded images was corrected.
        uncorrected, corrected: the degraded images before and after that, at the working size; None where it was not.
    """

    images: Images
    clean: Images
    degradation_maps: Images
    prompts: list[str]
    mu: list[float]
    sigma: list[float]
    delivered_mu: list[float]
    delivered_sigma: list[float]
    structure_correction: bool
    uncorrected: Images | None
    corrected: Images | None


def own_value(setting: Any, degradation: str) -> Any:
    """A model's own setting, one value or {degradation: value}, for one degradation."""
    return setting[degradation] if isinstance(setting, dict) else setting


def check_inputs(
    asked: Mapping[str, Any], settings: Mapping[str, Any], corrected: Collection[str] | None
) -> SimpleNamespace:
    """The arguments of a call, checked and complete: what is None there is the model's own setting.

    `image` becomes `photos`, uint8 tensors [3, H, W]; mu, sigma, prompt and phrase become lists, one each.

    Args:
        asked: the arguments of `GenDegPipeline.__call__`.
        settings: the model's own.
        corrected: degradations that the model's structure correction is for; None: it has none.

    Raises:
        UserError: see `GenDegPipeline.__call__`.
    """
    call = SimpleNamespace(**asked)
    call.degradation = get_degradation(call.degradation)
    for name, own in settings.items():
        if name in asked and asked[name] is None:
            setattr(call, name, own_value(own, call.degradation.name))
    call.photos = to_bytes(call.image)
    for name in ("mu", "sigma", "prompt", "phrase"):
        setattr(call, name, _per_image(getattr(call, name), len(call.photos), name))
    call.mu, call.sigma = (
        [None if value is None or math.isnan(value) else float(value) for value in values]
        for values in (call.mu, call.sigma)
    )
    for name, largest in (("mu", MU_MAX), ("sigma", SIGMA_MAX)):
        if any(value is not None and not 0 <= value <= largest for value in getattr(call, name)):
            raise UserError(f"{name} must lie between 0 and {largest}, of images in [0, 1].")
    if isinstance(call.generator, (list, tuple)):
        call.generator = _per_image(call.generator, len(call.photos), "generator")
    if call.num_inference_steps < 1:
        raise UserError("The number of steps must be at least 1.")
    if call.output_type not in ("pil", "np", "pt"):
        raise UserError(f'output_type must be "pil", "np" or "pt", not {call.output_type!r}.')
    whole = isinstance(call.output_size, int) and call.output_size > 0
    if not whole and call.output_size not in ("photo", "working"):
        raise UserError(f'output_size must be "photo", "working" or a number of pixels, not {call.output_size!r}.')
    if call.structure_correction not in (True, False, "auto"):
        raise UserError(f'structure_correction must be True, False or "auto", not {call.structure_correction!r}.')
    if call.structure_correction is True and corrected is None:
        raise UserError("This model holds no structure correction module.")
    if call.structure_correction == "auto":
        call.structure_correction = call.degradation.name in (corrected or ())
    return call


def several(value: Any) -> bool:
    """Whether an argument holds a value for each image, or each degradation, and not one for all."""
    return isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim > 0)


def _per_image(value: Any, count: int, name: str) -> list[Any]:
    values = list(value) if several(value) else [value] * count
    if len(values) != count:
        raise UserError(f"There are {count} images but {len(values)} values of {name}.")
    return values
