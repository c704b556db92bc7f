"""What is in an image file? Opens whatever Pillow can read as an upright RGB photograph, or says why not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from runtime.errors import UserError

MAX_PIXELS = 100_000_000  # of an image file; a larger one would need gigabytes once it is unpacked


def open_image(path: str | Path) -> Image.Image:
    """Read an image file: upright (EXIF), RGB, 8 bits per channel; of several frames the first; alpha over white.

    Raises:
        UserError: if the file is missing, no image, damaged or too large; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            file = Image.open(path)
    except Image.DecompressionBombError:
        raise UserError(_too_large(path)) from None
    except UnidentifiedImageError:
        raise UserError(f"{path.name} is not an image. Choose a PNG, JPEG, WebP, TIFF, GIF or BMP file.") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise UserError(f"{path.name} cannot be read: {error}.") from error
    with file:
        if file.width * file.height > MAX_PIXELS:
            raise UserError(_too_large(path))
        try:
            file.load()
            return to_rgb(file)
        except Exception as error:
            raise UserError(f"{path.name} is damaged or incomplete: {str(error).rstrip('.')}.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as an upright RGB one, 8 bits per channel; transparency becomes white.

    Raises:
        UserError: for a colour space that Pillow cannot convert, or values that are not numbers.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_bytes(image)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_bytes(image: Image.Image) -> np.ndarray:
    """Grey values of more than 8 bits, or floats, as uint8 [H, W]; how bright white is must be guessed for some."""
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise UserError("The image holds values that are not numbers")
    largest = values.max()
    white = 65535 if image.mode.startswith("I;16") or largest > 255 else 255 if largest > 1 else 1
    return (values / white * 255).clip(0, 255).round().astype(np.uint8)


def _too_large(path: Path) -> str:
    return f"{path.name} has more than {MAX_PIXELS // 1_000_000} megapixels. Scale it down first."


def upright(image: Image.Image) -> Image.Image:
    """An image as it is meant to be seen: turned as its EXIF says; RGBA if it has transparency, else RGB.

    Raises:
        UserError: if it has more than 8 bits per channel, which would be clipped.
    """
    if image.mode.startswith(("I", "F")):
        raise UserError("it has more than 8 bits per channel")
    image = ImageOps.exif_transpose(image)
    transparent = "transparency" in image.info or "A" in image.getbands()
    return image.convert("RGBA" if transparent else "RGB")
