"""Whatever image a person has is opened as an upright RGB photograph, or refused in a sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import images
from runtime.images import open_image, to_rgb

SIZE = (40, 30)
RAMP = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(30, 40)
RGB = Image.fromarray((np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2) * 255).astype(np.uint8))


def gray_of(image: Image.Image) -> np.ndarray:
    array = np.asarray(image).astype(float)
    assert (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all()
    return array[..., 0] / 255


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".gif", ".jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    RGB.save(tmp_path / f"photo{suffix}")
    image = open_image(tmp_path / f"photo{suffix}")
    assert image.mode == "RGB" and image.size == SIZE
    assert np.abs(np.asarray(image).astype(float) - np.asarray(RGB)).mean() < 12


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


def test_sixteen_bits(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save(tmp_path / "photo.png")
    assert np.abs(gray_of(open_image(tmp_path / "photo.png")) - RAMP).max() < 1 / 254


def test_dark_sixteen_bits_stay_dark(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 200).astype(np.uint16)).save(tmp_path / "photo.png")
    assert gray_of(open_image(tmp_path / "photo.png")).max() < 0.01


@pytest.mark.parametrize("white", [1, 255])
def test_floats(white: int) -> None:
    assert np.abs(gray_of(to_rgb(Image.fromarray(RAMP * white))) - RAMP).max() < 1 / 254


def test_floats_that_are_not_numbers() -> None:
    with pytest.raises(ValueError, match="not numbers"):
        to_rgb(Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)))


def test_transparent_becomes_white() -> None:
    assert (np.asarray(to_rgb(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))) == 255).all()
    assert np.asarray(to_rgb(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))[0, 0].tolist() == [127] * 3


def test_transparent_palette() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.info["transparency"] = 0
    assert (np.asarray(to_rgb(palette)) == 255).all()


def test_exif_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    RGB.save(tmp_path / "photo.png", exif=exif)
    image = open_image(tmp_path / "photo.png")
    assert image.size == SIZE[::-1]
    assert np.array_equal(np.asarray(image), np.rot90(np.asarray(RGB), -1))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "photo.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "photo.gif").getpixel((0, 0)) == (255, 0, 0)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file"):
        open_image(tmp_path / "none.png")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.png"):
        open_image(tmp_path / "notes.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"photo{suffix}"
    Image.effect_noise((200, 200), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match="photo"):
        open_image(path)


def test_decompression_bomb(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="megapixels"):
        open_image(tmp_path / "bomb.png")


def test_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RGB.save(tmp_path / "photo.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 30)
    assert open_image(tmp_path / "photo.png").size == SIZE
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 30 - 1)
    with pytest.raises(ValueError, match="megapixels"):
        open_image(tmp_path / "photo.png")
