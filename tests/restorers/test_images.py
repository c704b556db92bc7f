import numpy as np
import pytest
from PIL import Image

from restorers.images import open_image

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    PHOTO.convert(mode).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 13))
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(np.asarray(image), np.asarray(PHOTO))


def test_upright_and_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    PHOTO.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (13, 20)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    assert open_image(tmp_path / "glass.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("text.png", "text.png is not an image"),
        ("cut.png", "cut.png cannot be read: "),
        ("deep.png", "deep.png cannot be read: it has more than 8 bits per channel."),
        ("large.png", "large.png has more than 100 megapixels"),
        ("missing.png", "missing.png cannot be read"),
    ],
)
def test_what_cannot_be_opened(tmp_path, name, sentence):
    path = tmp_path / name
    if name == "text.png":
        path.write_text("no pixels here")
    elif name == "cut.png":
        PHOTO.save(path)
        path.write_bytes(path.read_bytes()[:200])
    elif name == "deep.png":
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    elif name == "large.png":
        Image.new("1", (10_001, 10_000)).save(path)
    with pytest.raises(ValueError, match=sentence):
        open_image(path)
