"""Whatever image a person has is opened as other viewers show it, or refused in a sentence, at a bounded cost."""

import io
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from runtime import images
from runtime.errors import UserError
from runtime.images import SUFFIXES, image_files, image_size, open_image, to_rgb, upright, write_image

ROOT = Path(__file__).resolve().parents[2]
SIZE = (40, 30)
RAMP = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(30, 40)
RGB = Image.fromarray((np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2) * 255).astype(np.uint8))


def gray_of(image: Image.Image) -> np.ndarray:
    array = np.asarray(image).astype(float)
    assert (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all()
    return array[..., 0] / 255


def notes_of(image: Image.Image) -> str:
    return "; ".join(image.info["notes"])


# Formats and modes


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".gif", ".jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    RGB.save(tmp_path / f"photo{suffix}")
    image = open_image(tmp_path / f"photo{suffix}")
    assert image.mode == "RGB" and image.size == SIZE and type(image) is Image.Image and image.info == {"notes": ()}
    assert np.abs(np.asarray(image).astype(float) - np.asarray(RGB)).mean() < 12


def test_phones_jpeg(tmp_path: Path) -> None:
    RGB.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[RGB.rotate(180)], quality=95)
    image = open_image(tmp_path / "photo.jpg")
    assert np.abs(np.asarray(image).astype(float) - np.asarray(RGB)).mean() < 12
    assert notes_of(image) == "", "the others are previews"


def test_avif(tmp_path: Path) -> None:
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    RGB.save(tmp_path / "photo.avif")
    assert np.abs(np.asarray(open_image(tmp_path / "photo.avif")).astype(float) - np.asarray(RGB)).mean() < 12


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def test_heic_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.jpg").write_bytes(HEIC)
    with pytest.raises(UserError) as caught:
        open_image(tmp_path / "photo.jpg")
    assert str(caught.value) == (
        "photo.jpg is a HEIC file. Install pillow-heif (pip install pillow-heif) or save it as JPEG."
    )


def test_heic_with_its_reader(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    RGB.resize((80, 60)).save(tmp_path / "photo.heif", quality=95)
    image = open_image(tmp_path / "photo.heif")
    assert np.abs(np.asarray(image).astype(float) - np.asarray(RGB.resize((80, 60)))).mean() < 12
    (tmp_path / "photo.heic").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"photo\.heic"):
        open_image(tmp_path / "photo.heic")


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "PA", "RGBX"])
def test_modes_look_the_same(mode: str) -> None:
    gray = mode in ("L", "LA", "PA")
    source = RGB.convert("L") if gray else RGB
    image = to_rgb(source.convert(mode, palette=Image.Palette.ADAPTIVE))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(float) - np.asarray(source.convert("RGB"))).mean() < 12


def test_black_and_white() -> None:
    image = to_rgb(Image.fromarray(RAMP > 0.3))
    assert image.mode == "RGB" and np.array_equal(gray_of(image), RAMP > 0.3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif"])
def test_first_of_several_frames(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"photo.{suffix}", save_all=True, append_images=frames[1:], **options)
    image = open_image(tmp_path / f"photo.{suffix}")
    assert image.getpixel((0, 0)) == (255, 0, 0) and notes_of(image) == "first of several frames"


def test_a_files_own_text_is_no_note(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("notes", "call this number")
    RGB.save(tmp_path / "photo.png", pnginfo=text)
    assert open_image(tmp_path / "photo.png").info == {"notes": ()}
    with Image.open(tmp_path / "photo.png") as file:
        assert to_rgb(file).info == {"notes": ()}


# Bit depth


def test_sixteen_bits(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save(tmp_path / "photo.png")
    image = open_image(tmp_path / "photo.png")
    assert np.abs(gray_of(image) - RAMP).max() < 1 / 254 and notes_of(image) == "16 bits reduced to 8"


def test_dark_sixteen_bits_stay_dark(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 200).astype(np.uint16)).save(tmp_path / "photo.png")
    assert gray_of(open_image(tmp_path / "photo.png")).max() < 0.01


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_cameras_bits_in_sixteen(tmp_path: Path, bits: int, suffix: str) -> None:
    Image.fromarray((RAMP * ((1 << bits) - 1)).astype(np.uint16)).save(tmp_path / f"photo.{suffix}")
    image = open_image(tmp_path / f"photo.{suffix}")
    assert np.abs(gray_of(image) - RAMP).max() < 1 / 254 and notes_of(image) == f"{bits} bits reduced to 8"


@given(st.integers(0, 65535), st.sampled_from(["uint16", "int32"]))
def test_whatever_is_the_largest_grey_is_no_whiter_than_white(largest: int, dtype: str) -> None:
    """Brightness keeps its order, and is at least half of what the fewest bits could show."""
    values = np.linspace(0, largest, 64).astype(dtype).reshape(8, 8)
    gray = gray_of(to_rgb(Image.fromarray(values))).ravel()
    assert (np.diff(gray) >= 0).all() and gray[0] == 0
    assert gray[-1] >= 0.24 or largest < 256


def test_thirty_two_bits_are_refused() -> None:
    with pytest.raises(UserError, match="above 65535"):
        to_rgb(Image.fromarray((RAMP * 1e9).astype(np.int32)))


@pytest.mark.parametrize("white", [1, 255, 4095, 65535])
def test_floats(white: int) -> None:
    assert np.abs(gray_of(to_rgb(Image.fromarray(RAMP * white))) - RAMP).max() < 1 / 254


def test_highlights_above_one_are_clipped() -> None:
    image = to_rgb(Image.fromarray(RAMP * 3))
    assert np.abs(gray_of(image) - (RAMP * 3).clip(0, 1)).max() < 1 / 254
    assert notes_of(image) == "floats reduced to 8 bits, white at 1"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_numbers(tmp_path: Path, value: float) -> None:
    values = RAMP.copy()
    values[-1, -1] = value
    with pytest.raises(UserError, match="not numbers"):
        to_rgb(Image.fromarray(values))
    Image.fromarray(values).save(tmp_path / "photo.tif")
    with pytest.raises(UserError, match=r"photo\.tif cannot be used\. .* not numbers"):
        open_image(tmp_path / "photo.tif")


def png(channels: int, bits: int, data: bytes, extra: bytes = b"") -> bytes:
    """A PNG of 40 x 30 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))

    row = len(data) // 30
    rows = b"".join(b"\0" + data[i * row : (i + 1) * row] for i in range(30))
    header = struct.pack(">LLBBBBB", *SIZE, bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(tags: list[tuple[int, int, int, int | str]], data: bytes) -> bytes:
    """A TIFF of these tags (tag, type, count, value); "data" is where the data lie."""
    start = 14 + 12 * len(tags)
    entries = b"".join(
        struct.pack("<HHL", tag, kind, count)
        + (struct.pack("<HH", value, 0) if kind == 3 and count == 1 else struct.pack("<L", value))
        for tag, kind, count, value in ((*tag, start if value == "data" else value) for *tag, value in tags)
    )
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + data


def plain(bits: int = 8, compression: int = 1, photometric: int = 1, samples: int = 1) -> list:
    return [
        (256, 4, 1, 40), (257, 4, 1, 30), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, photometric),
        (277, 3, 1, samples),
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_sixteen_bits(tmp_path: Path, channels: int) -> None:
    values = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1], np.ones_like(RAMP)], 2) * 65535
    values = values[..., [0, 3] if channels == 2 else slice(channels)]
    (tmp_path / "photo.png").write_bytes(png(channels, 16, values.astype(">u2").tobytes()))
    image = open_image(tmp_path / "photo.png")
    expected = np.repeat(values[..., :1], 3, 2) if channels == 2 else values[..., :3]
    assert np.abs(np.asarray(image) - expected / 257).max() <= 1
    assert notes_of(image) == "16 bits per channel reduced to 8"


def test_tiff_of_sixteen_bit_colours(tmp_path: Path) -> None:
    values = (np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], 2) * 65535).astype("<u2")
    tags = [*plain(16, 1, 2, 3), (273, 4, 1, "data"), (278, 3, 1, 30), (279, 4, 1, values.nbytes)]
    (tmp_path / "photo.tif").write_bytes(tiff(tags, values.tobytes()))
    image = open_image(tmp_path / "photo.tif")
    assert np.abs(np.asarray(image) - values / 257).max() <= 1
    assert notes_of(image) == "16 bits per channel reduced to 8"


def test_tiff_in_which_white_is_zero(tmp_path: Path) -> None:
    values = (RAMP * 65535).astype("<u2")
    tags = [*plain(16, 1, 0), (273, 4, 1, "data"), (278, 3, 1, 30), (279, 4, 1, values.nbytes)]
    (tmp_path / "photo.tif").write_bytes(tiff(tags, values.tobytes()))
    image = open_image(tmp_path / "photo.tif")
    assert np.abs(gray_of(image) - (1 - RAMP)).max() < 1 / 254 and notes_of(image) == "16 bits reduced to 8"


# Transparency


def test_transparent_becomes_white() -> None:
    image = to_rgb(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    assert (np.asarray(image) == 255).all() and notes_of(image) == "transparency laid over white"
    assert np.asarray(to_rgb(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))[0, 0].tolist() == [127] * 3
    assert np.asarray(to_rgb(Image.new("LA", (4, 4), (0, 128))))[0, 0].tolist() == [127] * 3


def test_opaque_alpha_needs_no_note() -> None:
    image = to_rgb(RGB.convert("RGBA"))
    assert np.array_equal(np.asarray(image), np.asarray(RGB)) and notes_of(image) == ""


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palette(tmp_path: Path, suffix: str) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / f"photo.{suffix}", transparency=0)
    image = open_image(tmp_path / f"photo.{suffix}")
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((1, 0)) == (0, 0, 255)
    kept = open_image(tmp_path / f"photo.{suffix}", keep_alpha=True)
    assert kept.getpixel((0, 0))[3] == 0 and kept.getpixel((1, 0)) == (0, 0, 255, 255) and notes_of(kept) == ""


def test_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), "red")
    image.putpixel((1, 0), (0, 0, 255))
    image.save(tmp_path / "photo.png", transparency=(255, 0, 0))
    opened = open_image(tmp_path / "photo.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255) and opened.getpixel((1, 0)) == (0, 0, 255)


def test_what_was_given_stays() -> None:
    image = Image.new("RGBA", (6, 4), (10, 20, 30, 40))
    image.info["icc_profile"] = profile("RGB ", matrix_tags(DISPLAY_P3), "Display P3")
    image.getexif()[0x0112] = 6
    before = image.tobytes(), dict(image.info)
    assert to_rgb(image).size == upright(image).size == (4, 6)
    assert image.size == (6, 4) and (image.tobytes(), dict(image.info)) == before


# Orientation


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int, suffix: str) -> None:
    array = np.full((32, 48, 3), 128, np.uint8)
    array[:16, :16] = (255, 0, 0)  # top left
    array[:16, 32:] = (0, 0, 255)  # top right
    stored = {
        1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: array.swapaxes(0, 1),
        6: np.rot90(array), 7: array.swapaxes(0, 1)[::-1, ::-1], 8: np.rot90(array, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)
    image = open_image(path)
    assert image.size == (48, 32) == image_size(path)
    assert np.abs(np.asarray(image).astype(int) - array).mean() < 12


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"II*\0\x08\0\0\0\xff\xff"])
def test_a_damaged_exif_block_is_ignored(tmp_path: Path, exif: bytes) -> None:
    for suffix in ("jpg", "png", "webp"):
        RGB.save(tmp_path / f"photo.{suffix}", exif=exif)
        assert open_image(tmp_path / f"photo.{suffix}").size == image_size(tmp_path / f"photo.{suffix}") == SIZE


# Colour profiles, built by the ICC specification

DISPLAY_P3 = [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]
SRGB = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]  # D50 like all


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">l", round(value * 65536)) for value in values)


def matrix_tags(primaries: list[tuple[float, float, float]]) -> dict[bytes, bytes]:
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        name: b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    return tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)


def cmyk_tags() -> dict[bytes, bytes]:
    """All inks together, and any with black, are black; no ink is white; each alone, or with others, a middle grey."""
    lut = bytearray()
    for corner in range(16):
        lightness = 255 if corner == 0 else 0 if corner & 1 else 128
        lut += bytes((lightness, 128, 128))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + ramp * 4 + lut + ramp * 3
    return dict.fromkeys((b"A2B0", b"A2B1"), table)


def profile(space: str, tags: dict[bytes, bytes], name: str) -> bytes:
    text = name.encode("utf-16-be")
    spoken = b"mluc" + bytes(4) + struct.pack(">LL", 1, 12) + b"enUS" + struct.pack(">LL", len(text), 28) + text
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)
    tags = {b"desc": spoken, b"cprt": spoken, b"wtpt": white} | tags
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">LL", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    body = struct.pack(">L", len(tags)) + table + data
    kind, connection = (b"prtr", b"Lab ") if space == "CMYK" else (b"mntr", b"XYZ ")
    header = struct.pack(">L4sL4s4s4s", 128 + len(body), bytes(4), 0x04200000, kind, space.encode(), connection)
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + body


def test_display_p3(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(60, 200, (30, 40, 1)) + rng.integers(-30, 30, (30, 40, 3))
    linear = np.where(values / 255 <= 0.04045, values / 255 / 12.92, ((values / 255 + 0.055) / 1.055) ** 2.4)
    linear = linear @ np.array(DISPLAY_P3) @ np.linalg.inv(SRGB)
    expected = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055) * 255
    expected = expected.clip(0, 255)  # what lies outside sRGB
    icc = profile("RGB ", matrix_tags(DISPLAY_P3), "Display P3")
    for suffix in ("png", "tif"):
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"photo.{suffix}", icc_profile=icc)
        image = open_image(tmp_path / f"photo.{suffix}")
        assert np.abs(np.asarray(image) - expected).max() < 1.5
        assert notes_of(image) == "converted from Display P3 to sRGB" and "icc_profile" not in image.info
    glass = Image.fromarray(values.astype(np.uint8)).convert("RGBA")
    glass.putalpha(77)
    glass.save(tmp_path / "glass.png", icc_profile=icc)
    glass = np.asarray(open_image(tmp_path / "glass.png", keep_alpha=True))
    assert np.abs(glass[..., :3] - expected).max() < 1.5 and (glass[..., 3] == 77).all()


def test_srgb_itself_changes_nothing(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    RGB.save(tmp_path / "photo.png", icc_profile=icc)
    image = open_image(tmp_path / "photo.png")
    assert np.array_equal(np.asarray(image), np.asarray(RGB)) and notes_of(image) == ""


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_profile(tmp_path: Path, mode: str) -> None:
    icc = profile("GRAY", {b"kTRC": b"curv" + bytes(8)}, "Linear grey")
    Image.new("L", (8, 8), 128).convert(mode).save(tmp_path / "photo.png", icc_profile=icc)
    image = open_image(tmp_path / "photo.png")
    assert gray_of(image)[0, 0] * 255 == pytest.approx(188, abs=1), "half of white's light"
    assert notes_of(image) == "converted from Linear grey to sRGB"


def test_cmyk_profile(tmp_path: Path) -> None:
    photo = Image.new("CMYK", (48, 16))
    photo.paste((255, 0, 0, 0), (16, 0, 32, 16))
    photo.paste((0, 0, 0, 255), (32, 0, 48, 16))
    photo.save(tmp_path / "photo.jpg", quality=100, icc_profile=profile("CMYK", cmyk_tags(), "Three greys"))
    image = open_image(tmp_path / "photo.jpg")
    assert [image.getpixel((x, 8))[0] for x in (8, 24, 40)] == pytest.approx([255, 119, 0], abs=3)
    assert notes_of(image) == "converted from Three greys to sRGB"
    photo.save(tmp_path / "photo.jpg", quality=100)
    assert notes_of(open_image(tmp_path / "photo.jpg")) == "CMYK without a colour profile: colours are approximate"


def test_lab(tmp_path: Path) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(RGB, srgb, lab, outputMode="LAB").save(tmp_path / "photo.tif")
    image = open_image(tmp_path / "photo.tif")
    assert np.abs(np.asarray(image).astype(int) - np.asarray(RGB)).mean() < 3
    assert notes_of(image) == "converted from LAB to sRGB"


@pytest.mark.parametrize(
    ("mode", "icc"),
    [
        ("RGB", b"nonsense"),
        ("RGB", profile("RGB ", {}, "Empty")),
        ("RGB", profile("GRAY", {b"kTRC": b"curv" + bytes(8)}, "Grey")),
        ("RGB", profile("CMYK", cmyk_tags(), "CMYK")),
        ("L", profile("CMYK", cmyk_tags(), "CMYK")),
    ],
)
def test_a_profile_that_does_not_fit_is_ignored(tmp_path: Path, mode: str, icc: bytes) -> None:
    photo = RGB.convert(mode)
    photo.save(tmp_path / "photo.png", icc_profile=icc)
    image = open_image(tmp_path / "photo.png")
    assert np.array_equal(np.asarray(image), np.asarray(photo.convert("RGB")))
    assert notes_of(image) == "its colour profile does not fit and was ignored"


def test_a_profiles_name_cannot_carry_markup(tmp_path: Path) -> None:
    icc = profile("RGB ", matrix_tags(DISPLAY_P3), "<img src=x onerror=alert(1)>" + "x" * 200)
    RGB.save(tmp_path / "photo.png", icc_profile=icc)
    note = notes_of(open_image(tmp_path / "photo.png"))
    assert not set("<>=&\"'") & set(note) and len(note) < 100


# What is no image


def test_missing(tmp_path: Path) -> None:
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("none.png", "dangling.png", "a\0b.png"):
        with pytest.raises(UserError, match="There is no file"):
            open_image(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        open_image(tmp_path / ("long" * 80))


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.png"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            server.bind(str(path))
        else:
            path.symlink_to("/dev/zero")
        started = time.monotonic()
        for read in (open_image, image_size):
            with pytest.raises(UserError, match=r"photo\.png is not a file but a folder, a pipe or a device"):
                read(path)
        assert image_files(tmp_path) == []
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.png").write_bytes(content)
    for read in (open_image, image_size):
        with pytest.raises(UserError, match=r"notes\.png"):
            read(tmp_path / "notes.png")


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PPM", "TGA", "PCX", "DDS", "PSD", "FITS", "PDF"])
def test_other_formats_are_refused_whatever_their_name(tmp_path: Path, kind: str) -> None:
    """Pillow itself would open these, EPS with Ghostscript."""
    path = tmp_path / "photo.jpg"
    if kind == "PSD":
        path.write_bytes(b"8BPS\0\1" + bytes(6) + struct.pack(">HLLHH", 3, 10, 10, 8, 3) + bytes(2000))
    elif kind == "FITS":
        path.write_bytes(b"SIMPLE  =                    T".ljust(80) + bytes(2800))
    else:
        RGB.save(path, kind)
    with pytest.raises(UserError, match=r"photo\.jpg is not an image\. Choose a PNG, JPEG"):
        open_image(path)


@pytest.mark.parametrize("compression", [2, 6, 7, 99, 32766, 32809, 34661, 34676, 34712, 34925, 50000])
def test_odd_compressions(tmp_path: Path, compression: int) -> None:
    data = bytes(3600)
    tags = [*plain(8, compression, 2, 3), (273, 4, 1, "data"), (278, 3, 1, 30), (279, 4, 1, len(data))]
    (tmp_path / "photo.tif").write_bytes(tiff(tags, data))
    with pytest.raises(UserError, match=r"photo\.tif (is|cannot be)"):
        open_image(tmp_path / "photo.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"photo{suffix}"
    Image.effect_noise((200, 200), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match="photo"):
        open_image(path)


@given(st.data())
def test_damage_is_never_more_than_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = profile("RGB ", matrix_tags(DISPLAY_P3), "Display P3")
    RGB.save(
        buffer, data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])), exif=exif, icc_profile=icc
    )
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        assert open_image(path).mode == "RGB"
    except UserError as error:
        assert "damaged" in str(error)


# Limits


def test_decompression_bomb(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="more than 100 megapixels"):
        open_image(tmp_path / "bomb.png")


def test_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RGB.save(tmp_path / "photo.png")
    monkeypatch.setattr(images, "max_pixels", lambda: 40 * 30)
    assert open_image(tmp_path / "photo.png").size == SIZE
    monkeypatch.setattr(images, "max_pixels", lambda: 40 * 30 - 1)
    for read in (open_image, image_size):
        with pytest.raises(UserError, match=r"more than 0\.001199 megapixels"):
            read(tmp_path / "photo.png")


def test_a_larger_limit_than_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    monkeypatch.setenv("GENDEG_MAX_MEGAPIXELS", "200")
    assert image_size(tmp_path / "photo.png") == (20_000, 10_000)


def test_byte_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RGB.save(tmp_path / "photo.bmp")
    size = (tmp_path / "photo.bmp").stat().st_size
    monkeypatch.setattr(images, "max_bytes", lambda: size)
    assert open_image(tmp_path / "photo.bmp").size == SIZE
    monkeypatch.setattr(images, "max_bytes", lambda: size - 1)
    for read in (open_image, image_size):
        with pytest.raises(UserError, match="megabytes"):
            read(tmp_path / "photo.bmp")


@pytest.mark.parametrize("variable", ["GENDEG_MAX_MEGABYTES", "GENDEG_MAX_MEGAPIXELS"])
@pytest.mark.parametrize("value", ["many", "0", "-3", "1.5"])
def test_a_limit_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    RGB.save(tmp_path / "photo.png")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable} must be a whole number of at least 1, not '{value}'"):
        open_image(tmp_path / "photo.png")


def greedy_exif() -> bytes:
    """Tags that all claim the same bytes: 8 GB, once each has its copy."""
    return tiff([(1000 + i, 7, 400_000, 8) for i in range(20_000)], bytes(400_000))


def bomb(kind: str) -> bytes:
    buffer = io.BytesIO()
    strip = [(273, 4, 1, "data"), (278, 3, 1, 30), (279, 4, 1, 1200)]
    if kind == "TIFF tags":
        return tiff([*plain(), *strip, *((1000 + i, 7, 100_000, "data") for i in range(20_000))], bytes(100_000))
    if kind == "TIFF strips":
        return tiff([*plain(), (273, 1, 5_000_000, "data")], bytes(5_000_000))
    if kind == "TIFF tile":
        packed = zlib.compress(bytes(100_000_000), 1)
        sizes = [(322, 4, 1, 20_000), (323, 4, 1, 20_000), (324, 4, 1, "data"), (325, 4, 1, len(packed))]
        return tiff([*plain(8, 8), *sizes], packed)
    if kind == "TIFF twice":  # libtiff believes the first, Pillow the last
        return tiff([*plain(), *strip, (256, 4, 1, 1_000_000)], bytes(1200))
    if kind == "EXIF of JPEG":
        RGB.save(buffer, "JPEG")
        parts = [greedy_exif()[i : i + 65_000] for i in range(0, 600_000, 65_000)]
        segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
        return buffer.getvalue()[:2] + segments + buffer.getvalue()[20:]
    if kind.startswith("EXIF of"):
        RGB.save(buffer, kind.split()[-1], exif=greedy_exif())
        return buffer.getvalue()
    if kind == "scans":
        Image.new("L", (400, 400)).save(buffer, "JPEG", progressive=True)
        content = buffer.getvalue()
        return content[:-2] + content[content.rfind(b"\xff\xda") : -2] * 1000 + content[-2:]
    if kind == "GIF screen":
        RGB.save(buffer, "GIF")
        return buffer.getvalue()[:6] + b"\xff\xff\xff\xff" + buffer.getvalue()[10:]
    content = zlib.compress(bytes(200_000_000), 1)  # iCCP or zTXt
    chunk = kind.encode() + b"x\0\0" + content
    return png(3, 8, bytes(3600), struct.pack(">L", len(chunk) - 4) + chunk + struct.pack(">L", zlib.crc32(chunk)))


@pytest.mark.parametrize(
    "kind",
    [
        "TIFF tags", "TIFF strips", "TIFF tile", "TIFF twice", "EXIF of PNG", "EXIF of JPEG", "EXIF of WEBP", "scans",
        "GIF screen", "iCCP", "zTXt",
    ],
)  # fmt: skip
def test_small_files_that_would_fill_the_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo"
    path.write_bytes(bomb(kind))
    memory, answer = opened_elsewhere(path)
    assert memory < 60 and answer.startswith("photo "), answer


@pytest.mark.parametrize("kind", ["rgba.png", "16.png", "exif.jpg"])
def test_memory_is_bounded_by_the_pixels(tmp_path: Path, kind: str) -> None:
    """20 megapixels take 200 MB and a little."""
    photo = Image.linear_gradient("L").resize((5000, 4000))
    exif = Image.Exif()
    exif[0x0112] = 6
    if kind == "16.png":
        photo = Image.fromarray(np.asarray(photo).astype(np.uint16) * 257)
    elif kind == "rgba.png":
        photo = Image.merge("RGBA", [photo] * 4)
    else:
        photo = photo.convert("RGB")
    icc = profile("RGB ", matrix_tags(DISPLAY_P3), "Display P3")
    photo.save(tmp_path / kind, exif=exif, icc_profile=icc, compress_level=1)
    memory, answer = opened_elsewhere(tmp_path / kind)
    assert "(4000, 5000)" in answer and memory < 260, (memory, answer)


def opened_elsewhere(path: Path) -> tuple[float, str]:
    """Megabytes that a process of its own grew by at most, and the image's size or the sentence."""
    code = """if True:
        import resource, sys
        from PIL import Image, ImageCms
        from runtime.images import UserError, open_image
        Image.init()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            answer = str(open_image(sys.argv[1]).size)
        except UserError as error:
            answer = str(error)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000, answer)"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    memory, _, answer = done.stdout.strip().partition(" ")
    return float(memory), answer


# Folders


def test_photographs_of_a_folder(tmp_path: Path) -> None:
    wanted = ["a.png", "b.JPG", "deep/deeper/c.tiff", "film.gif", "link.webp", "phone.HEIC", "phone.avif"]
    for name in [*wanted, ".hidden.png", ".thumbnails/d.png", "deep/.d.png", "notes.txt", "film.mp4", "png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "link.webp":
            (tmp_path / name).symlink_to(tmp_path / "a.png")
        else:
            (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert [file.relative_to(tmp_path).as_posix() for file in image_files(tmp_path)] == wanted


# Writing


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_writes_what_it_opens(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(b"an older result")
    write_image(RGB.convert(mode), path)
    assert np.abs(np.asarray(open_image(path)).astype(int) - np.asarray(RGB.convert(mode).convert("RGB"))).mean() < 8
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_jpeg_of_a_transparent_image_has_white(tmp_path: Path) -> None:
    write_image(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), tmp_path / "photo.jpg")
    assert open_image(tmp_path / "photo.jpg").getpixel((4, 4)) == (255, 255, 255)


def test_the_longest_name_that_a_disk_takes(tmp_path: Path) -> None:
    write_image(RGB, tmp_path / f"{'x' * 251}.png")
    assert image_size(tmp_path / f"{'x' * 251}.png") == SIZE


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("photo.xyz", "must end in one of .png"),
        ("photo", "must end in one of .png"),
        ("nowhere/photo.png", "there is no folder"),
        (f"{'x' * 252}.png", "too long"),
        ("folder.png", "is a folder"),
        ("photo.webp", "cannot be written"),  # of 16,383 pixels at most
        ("\udce9.xyz", r"\udce9.xyz must end in"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError) as caught:
        write_image(Image.new("RGB", (20_000, 1)), tmp_path / name)
    assert sentence in str(caught.value)
    str(caught.value).encode()  # can be printed
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: Image.Image, file: io.BufferedWriter, *_: object, **__: object) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    write_image(RGB, tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(UserError, match=r"photo\.png cannot be written: No space left on device\."):
        write_image(RGB, tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_image(tmp_path / "\udce9.png")
    assert r"\udce9.png" in str(caught.value)
    str(caught.value).encode()
