"""In which forms do images come and go? PIL images, arrays or tensors; on the way, uint8 tensors [3, H, W]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from runtime.errors import UserError
from runtime.images import to_rgb

ImageInput = Image.Image | np.ndarray | torch.Tensor
Images = list[Image.Image] | np.ndarray | torch.Tensor | list[np.ndarray] | list[torch.Tensor]


def to_bytes(image: ImageInput | Sequence[ImageInput]) -> list[torch.Tensor]:
    """Whatever holds images, as a list of uint8 tensors [3, H, W]: fifty megapixels take no more than they must."""
    if (isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim == 4) or isinstance(image, (list, tuple)):
        if not len(image):
            raise UserError("There is no image.")
        return [tensor for i in image for tensor in to_bytes(i)]
    if isinstance(image, Image.Image):
        return [torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)]
    if isinstance(image, np.ndarray) and image.ndim in (2, 3):
        if image.ndim == 2:
            image = image[..., None]
        if image.shape[2] == 1:
            image = image.repeat(3, axis=2)
        if image.shape[2] not in (3, 4):
            raise UserError(f"An image array must have the shape [H, W, 3], not {list(image.shape)}.")
        if image.dtype == np.uint16:
            image = image / np.float32(65535)
        image = torch.from_numpy(np.array(image[..., :3])).permute(2, 0, 1)
    if isinstance(image, torch.Tensor) and image.ndim == 3 and image.shape[0] == 3:
        if image.dtype == torch.uint8:
            return [image.cpu()]
        if not bool(image.isfinite().all()) or image.min() < 0 or image.max() > 1:
            raise UserError("Image values must lie in [0, 1] (or 0 to 255 as uint8).")
        return [(image.float() * 255).round().byte().cpu()]
    raise UserError("The image must be a PIL image, an array [H, W, 3] or a tensor [3, H, W].")


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[C, H, W] at another size, (height, width): bicubic, low-pass filtered where it shrinks."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]


def convert(images: Sequence[torch.Tensor], output_type: str) -> Images:
    """Images [3, H, W], uint8 or float in [0, 1], as the caller wants them, see `gendeg.call.GenDegOutput`."""
    if output_type == "pil":
        as_bytes = (i if i.dtype == torch.uint8 else (i * 255).round().byte() for i in images)
        return [Image.fromarray(i.permute(1, 2, 0).cpu().numpy()) for i in as_bytes]
    images = [i.float() / 255 if i.dtype == torch.uint8 else i for i in images]
    one_size = len({i.shape for i in images}) == 1
    if output_type == "pt":
        return torch.stack(images) if one_size else images
    arrays = [i.permute(1, 2, 0).cpu().numpy() for i in images]
    return np.stack(arrays) if one_size else arrays


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """What a network gives for images in [-1, 1], as float32 in [0, 1].

    Raises:
        UserError: for values that are not numbers, which would come out black.
    """
    if not bool(images.isfinite().all()):
        raise UserError(
            "The model gave values that are not numbers: its weights are damaged, or the precision is too low for them "
            "(GENDEG_DTYPE=float32 is the highest)."
        )
    return (images.float() / 2 + 0.5).clamp(0, 1)
