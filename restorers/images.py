"""What is in an image file? Opens whatever Pillow can read as an upright RGB photograph, or says why not."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # of an image file; a larger one would need gigabytes once it is unpacked


def upright(image: Image.Image) -> Image.Image:
    """An image as it is meant to be seen: turned as its EXIF says; RGBA if it has transparency, else RGB.

    Raises:
        ValueError: if it has more than 8 bits per channel, which would be clipped.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError("it has more than 8 bits per channel")
    image = ImageOps.exif_transpose(image)
    transparent = "transparency" in image.info or "A" in image.getbands()
    return image.convert("RGBA" if transparent else "RGB")


def open_image(path: str | Path) -> Image.Image:
    """Read an image file: upright (EXIF), RGB, 8 bits per channel; of several frames the first; alpha over white.

    Raises:
        ValueError: if the file is no image, damaged, too large or of more than 8 bits; the message says which.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            file = Image.open(path)
        with file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image = upright(file)
            if image.mode == "RGBA":
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except Image.DecompressionBombError:
        raise ValueError(f"{path.name} has more than {MAX_PIXELS // 1_000_000} megapixels. Scale it down.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path.name} is not an image. Choose a PNG, JPEG, WebP, TIFF, GIF or BMP file.") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise ValueError(f"{path.name} cannot be read: {str(error).rstrip('.')}.") from error
