"""Where on a photograph does the degradation go? Inside a mask, with soft edges; the rest stays as it is."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter

from gendeg.intensity import intensity_of_bytes
from runtime.errors import UserError
from runtime.images import upright

FEATHER = 0.02  # of the photograph's short side: deviation of the Gaussian that softens the edges


def read_mask(image: Image.Image, size: tuple[int, int], feather: float = FEATHER) -> Image.Image:
    """A mask as it is laid over a photograph.

    Args:
        image: white, or opaque where it has transparency, is where the degradation goes; of any size, stretched.
        size: (width, height) of the photograph.
        feather: softness of the edges, a share of the short side; 0: hard.

    Returns:
        Mode L; 255: degraded, 0: as it was.

    Raises:
        UserError: if nothing is marked.
    """
    image = upright(image)
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    mask = image.convert("L") if alpha is None or alpha.getextrema() == (255, 255) else alpha
    if mask.getextrema()[1] < 128:
        raise UserError("The mask marks no place. Paint white (or anything opaque) where the degradation is to go.")
    mask = mask.resize(size, Image.Resampling.BILINEAR)
    return mask.filter(ImageFilter.GaussianBlur(feather * min(size))) if feather else mask


def intensity_inside(clean: Image.Image, degraded: Image.Image, mask: Image.Image) -> tuple[float, float]:
    """Mean and deviation of |clean - degraded| in [0, 1] where the mask is white by more than a half; RGB."""
    places = np.asarray(mask)
    places = places > min(127, int(places.max()) - 1)  # a mask may be thinner than its own soft edges
    values = np.asarray(ImageChops.difference(clean, degraded))[places]
    return intensity_of_bytes(torch.from_numpy(values))
