"""What is in an image file, and how is one written? The one opener and the one writer of everything here.

A photograph is shown as other viewers show it: upright, in sRGB, 8 bits per channel, the first of several frames.
Whatever that changes is said in short notes, `image.info["notes"]`: a tuple of strings, empty for most files.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from runtime.errors import UserError
from runtime.limits import max_bytes, max_pixels
from runtime.tiff_tags import tags_are_bearable

# Pillow's other readers are rarely tested, and one of them runs Ghostscript. "JPEG" opens the MPO files of phones too.
_READERS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
_WRITERS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
SUFFIXES = tuple(_WRITERS)  # endings of the files that can be written
PHOTOGRAPHS = (*SUFFIXES, ".gif", ".avif", ".heic", ".heif")  # of those that are looked for: all that is opened
_TIFF_COMPRESSIONS = (
    "raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "zstd", "webp", "tiff_ccitt",
    "group3", "group4",
)  # fmt: skip
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# A camera's progressive JPEG has about ten scans; each one costs the time of a whole image, but only some bytes.
_MAX_SCANS = 100
# An EXIF block comes in parts of 64 KB, one as a rule. Pillow joins them, and each of its thousands of tags may claim
# all of the block.
_MAX_EXIF_PARTS = 4
_STRIP = 1 << 20  # pixels that are converted from many bits at a time
IN_TURN = threading.Lock()  # held where the app opens photographs beside its jobs: large ones, one at a time


def open_image(path: str | Path, keep_alpha: bool = False) -> Image.Image:
    """Read an image file as a photograph, see `to_rgb`; `upright` if alpha is kept.

    PNG, JPEG, WebP, TIFF, GIF, BMP, AVIF, and HEIC where pillow-heif is installed; told apart by content, whatever the
    name. For a moment it takes about 10 bytes of memory for each pixel, 18 of a WebP file, whatever the file claims.

    Raises:
        UserError: if there is no such file, it is no image, damaged or beyond `runtime.limits`; the message says which.
    """
    name = shown(Path(path).name)
    content = _content(path)
    _check_content(name, content)
    file = _opened(name, io.BytesIO(content))
    deep = ";16" in str(file.tile[:1]) and file.mode[0] not in "IF"  # Pillow cuts these to their upper 8 bits
    try:
        several = getattr(file, "is_animated", False) and file.format != "MPO"  # there the others are previews
        file.load()
    except MemoryError:
        raise UserError(f"There is too little memory to open {name}. Scale it down first.") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise UserError(f"{name} is damaged or incomplete{_reason(error)}. Save or send it anew.") from error
    notes = ["first of several frames"] if several else []
    if deep:
        notes.append("16 bits per channel reduced to 8")
        if isinstance(file.info.get("transparency"), tuple):
            file.info["transparency"] = tuple(value >> 8 for value in file.info["transparency"])
    inverted = file.format == "TIFF" and file.mode[0] in "IF" and file.tag_v2.get(262) == 0  # Pillow forgets that
    if len(file.info.get("Raw profile type exif", "")) > 200_000:  # as text it escaped _check_content
        del file.info["Raw profile type exif"]
    file.info["notes"] = tuple(notes)
    try:
        image = _developed(file, keep_alpha)
    except UserError as error:
        raise UserError(f"{name} cannot be used. {error}") from error
    if inverted:
        info, image = image.info, ImageOps.invert(image)
        image.info = info
        return image
    return image.copy() if image is file else image  # a file keeps its content and its decoder


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of the photograph in an image file, upright, from its header alone.

    Raises:
        UserError: as of `open_image`, without what only the pixels show.
    """
    name = shown(Path(path).name)
    with _regular(path) as handle, _opened(name, handle) as file:
        with suppress(Exception):  # a damaged EXIF block
            # PNG's own getexif would read the whole image; of a TIFF, Pillow has turned the size already
            if file.format != "TIFF" and Image.Image.getexif(file).get(0x0112) in (5, 6, 7, 8):
                return file.height, file.width
        return file.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as a photograph: upright, RGB in sRGB, 8 bits per channel; transparency becomes white.

    - Turned as its EXIF block says.
    - Colours go from its ICC profile to sRGB: relative colorimetric, with black point compensation.
    - White is, of grey values of more than 8 bits: the largest number of 10, 12, 14 or 16 bits, the fewest that hold
      the largest value. Files do not tell that 12 bits of a camera lie in 16. A largest value within 8 bits means
      a dark image of 16 bits (in Pillow's mode "I", of 32 bits, an image of 8 bits).
    - White is, of floats: 1, and highlights up to 16 are clipped; beyond that the largest number of 8, 10, 12, 14 or
      16 bits, as above. Negative values are black.
    - Colours of 16 bits come from Pillow as their upper 8.

    The image that was given stays as it is.

    Raises:
        UserError: for values that are not numbers or above 65535.
    """
    return _developed(_copy(image), keep_alpha=False)


def upright(image: Image.Image) -> Image.Image:
    """A photograph as of `to_rgb`, but RGBA if it has transparency.

    Raises:
        UserError: for values that are not numbers or above 65535.
    """
    return _developed(_copy(image), keep_alpha=True)


def files_below(folder: Path) -> list[Path]:
    """The regular files in a folder and the folders in it, in the order of their paths; nothing hidden, no pipes."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if file.is_file())


def image_files(folder: Path) -> list[Path]:
    """Those of `files_below` that end in one of PHOTOGRAPHS."""
    return [file for file in files_below(folder) if file.suffix.lower() in PHOTOGRAPHS]


def check_output(path: str | Path) -> None:
    """Refuse, before any work, the name of an image that `write_image` could not write.

    Raises:
        UserError: if it has an unknown ending, is too long, or is a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"The output {shown(path)} must end in one of {', '.join(SUFFIXES)}.")
    if os.path.isdir(path):  # unlike Path.is_dir, takes names that are too long
        raise UserError(f"The output {shown(path)} is a folder. Choose a file in it.")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError("The name of the output is too long. Choose a shorter one.") from error


def write_image(image: Image.Image, path: str | Path) -> None:
    """Write an image file in the format of its ending, quality 95; it appears only when it is complete.

    JPEG and BMP get RGB, with white where the image is transparent.

    Raises:
        UserError: if the file cannot be written; the message says why, and nothing is left behind.
    """
    path = Path(path)
    check_output(path)
    if not path.parent.is_dir():
        raise UserError(f"{shown(path)} cannot be written: there is no folder {shown(path.parent)}.")
    kind = _WRITERS[path.suffix.lower()]
    if kind in ("JPEG", "BMP"):
        image = to_rgb(image)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            image.save(file, kind, quality=95)  # formats without loss ignore the quality
        os.replace(part, path)
    except (OSError, ValueError) as error:  # a ValueError: too many pixels for the format
        raise UserError(f"{shown(path)} cannot be written{_reason(error)}.") from error
    finally:
        with suppress(OSError):
            part.unlink()


def shown(path: str | Path) -> str:
    """A path for people to read; a name that is no valid text gets backslashes instead of an encoding error."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file of bearable size, without waiting for a pipe or a device."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{shown(path.name)} is not a file but a folder, a pipe or a device. Choose an image file.")
        no_wait = getattr(os, "O_NONBLOCK", 0)  # it may have become a pipe meanwhile
        handle = open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait))
    except UserError:
        raise
    except (FileNotFoundError, ValueError):  # a ValueError: a name with a null byte
        raise UserError(f"There is no file {shown(path)}.") from None
    except OSError as error:
        raise UserError(f"{shown(path.name)} cannot be read{_reason(error)}.") from error
    if os.fstat(handle.fileno()).st_size > max_bytes():
        handle.close()
        raise UserError(_too_many_bytes(path))
    return handle


def _content(path: str | Path) -> bytes:
    limit = max_bytes()
    with _regular(path) as handle:
        try:
            content = handle.read(limit + 1)
        except OSError as error:
            raise UserError(f"{shown(Path(path).name)} cannot be read{_reason(error)}.") from error
    if len(content) > limit:  # it has grown, or is none of a disk
        raise UserError(_too_many_bytes(path))
    return content


def _too_many_bytes(path: str | Path) -> str:
    return f"{shown(Path(path).name)} has more than {max_bytes() / 1e6:g} megabytes. Save it smaller, as a JPEG say."


def _check_content(name: str, content: bytes) -> None:
    """Refuse files that are made to use up time or memory while Pillow reads them, before it does."""
    jpeg = content.startswith(b"\xff\xd8")
    scans = content.count(b"\xff\xda") if jpeg else 0
    parts = len(re.findall(rb"\xff\xe1..Exif\0\0", content, re.DOTALL)) if jpeg else 0
    if scans > _MAX_SCANS or parts > _MAX_EXIF_PARTS or not tags_are_bearable(content):
        raise UserError(f"{name} is built in a way that no camera or editor uses. Save it anew with an editor.")


def _opened(name: str, handle: io.BufferedIOBase) -> Image.Image:
    """A file whose header has been read and is within the limits."""
    limit = max_pixels()
    # Ours decides: Pillow has one of its own, of 179 megapixels, that also warns from half of it on.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, limit)
    head = handle.read(12)
    handle.seek(0)
    heic = head[4:8] == b"ftyp" and head[8:12] in _HEIC
    readers = (*_READERS, "HEIF") if heic and _heif_is_there() else _READERS
    try:
        file = Image.open(handle, formats=[reader for reader in readers if reader != "AVIF" or _avif_is_there()])
    except Image.DecompressionBombError:
        raise UserError(_too_many_pixels(name)) from None
    except UnidentifiedImageError:
        if heic and "HEIF" not in readers:
            raise UserError(
                f"{name} is a HEIC file. Install pillow-heif (pip install pillow-heif) or save it as JPEG."
            ) from None
        raise UserError(f"{name} is not an image. Choose a PNG, JPEG, WebP, TIFF, GIF or BMP file.") from None
    except Exception as error:
        raise UserError(f"{name} cannot be read{_reason(error)}.") from error
    if file.width * file.height > limit:
        raise UserError(_too_many_pixels(name))
    if file.format == "TIFF":
        if file.info.get("compression") not in _TIFF_COMPRESSIONS:
            raise UserError(f"{name} is compressed in a rare way. Save it as PNG, or as TIFF with LZW or Deflate.")
        tile = [file.tag_v2.get(tag, 1) for tag in (322, 323)]
        if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > limit:  # of a smaller image
            raise UserError(_too_many_pixels(name))
    return file


def _too_many_pixels(name: str) -> str:
    return f"{name} has more than {max_pixels() / 1e6:g} megapixels. Scale it down first."


def _heif_is_there() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _avif_is_there() -> bool:
    Image.init()
    return "AVIF" in Image.OPEN  # since Pillow 11.3


def _reason(error: Exception) -> str:
    """What an error says, after a colon, if it says something."""
    if isinstance(error, KeyError):
        return ""
    text = (getattr(error, "strerror", None) or str(error)).partition("\n")[0].strip().rstrip(".")
    return f": {text}" if text else ""


def _copy(image: Image.Image) -> Image.Image:
    copy = image.copy()
    with suppress(Exception):  # damaged
        copy.getexif()[0x0112] = image.getexif().get(0x0112, 1)  # Pillow forgets changes of it
    return copy


def _developed(image: Image.Image, keep_alpha: bool) -> Image.Image:
    """The rules of `to_rgb` and `upright`. To save memory, `image` itself may change."""
    notes = image.info.get("notes")
    notes = list(notes) if isinstance(notes, tuple) else []  # a string: a file's own text
    with suppress(Exception):  # a damaged EXIF block is no reason to refuse the pixels
        ImageOps.exif_transpose(image, in_place=True)
    profile = image.info.get("icc_profile")
    if image.mode[0] in "IF":
        image, note = _eight_bits(image)
        notes += [note] if note else []
    elif "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None  # LAB has a band A too
    image, note = _in_srgb(image, profile)
    notes += [note] if note else []
    if alpha and keep_alpha:
        image.putalpha(alpha)
    elif alpha and alpha.getextrema()[0] < 255:
        image.paste((255, 255, 255), (0, 0), ImageChops.invert(alpha))
        notes.append("transparency laid over white")
    image.info = {"notes": tuple(notes)}
    return image


def _eight_bits(image: Image.Image) -> tuple[Image.Image, str]:
    """Grey values of more than 8 bits, or floats, as mode L by the rule of `to_rgb`, and what it was taken for."""
    extremes = np.array([(values.min(), values.max()) for _, values in _strips(image)])
    if not np.isfinite(extremes).all():
        raise UserError("The image holds values that are not numbers.")
    largest = extremes[:, 1].max()
    floats = image.mode == "F"
    if floats and largest <= 16:
        white = 1
    else:
        depths = (10, 12, 14, 16) if image.mode.startswith("I;16") else (8, 10, 12, 14, 16)
        if image.mode.startswith("I;16") and largest < 256:
            depths = (16,)
        bits = next((bits for bits in depths if largest < 1 << bits), None)
        if bits is None:
            raise UserError("The image holds values above 65535. Save it with 16 bits or less.")
        white = (1 << bits) - 1
    grey = Image.new("L", image.size)
    for top, values in _strips(image):
        levels = (values.astype(np.float32) / white * 255).clip(0, 255).round().astype(np.uint8)
        grey.paste(Image.fromarray(levels), (0, top))
    if floats:
        return grey, f"floats reduced to 8 bits, white at {white}"
    return grey, f"{bits} bits reduced to 8" if white > 255 else ""


def _strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, values [rows, W]) of a few rows at a time."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def _in_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """The colours of an image, without alpha, as RGB in sRGB, and what to say of it; RGB itself may change."""
    note = ""
    if image.mode == "LAB":
        return _converted(image, ImageCms.createProfile("LAB")), "converted from LAB to sRGB"
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # whatever stands in a file may be shown on a page
            name = re.sub(r"[^\w .,()-]", "", ImageCms.getProfileDescription(source))[:60].strip() or "its profile"
            if not name.startswith("sRGB"):
                grey = source.profile.xcolor_space == "GRAY" and image.mode in ("1", "L", "LA")
                image = _as_mode(image, "CMYK" if image.mode == "CMYK" else "L" if grey else "RGB")
                return _converted(image, source), f"converted from {name} to sRGB"
        except (ImageCms.PyCMSError, OSError, ValueError):
            note = "its colour profile does not fit and was ignored"
    if image.mode == "CMYK" and not note:
        note = "CMYK without a colour profile: colours are approximate"
    return _as_mode(image, "RGB"), note


def _converted(image: Image.Image, source: ImageCms.core.CmsProfile | ImageCms.ImageCmsProfile) -> Image.Image:
    transform = ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), image.mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    return ImageCms.applyTransform(image, transform, inPlace=image.mode == "RGB") or image


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)
