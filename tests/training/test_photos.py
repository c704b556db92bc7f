"""Folders of photographs to train on: every format that can be opened, and what cannot be is said at once."""

import sys

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UserError
from runtime.images import PHOTOGRAPHS
from training.pair_folders import PairFolders
from training.photos import Photos

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def _photo(path):
    path.parent.mkdir(exist_ok=True)
    Image.linear_gradient("L").resize((80, 64)).convert("RGB").save(path)


@pytest.mark.parametrize("name", ["film.gif", "PHONE.AVIF", "scan.tiff"])
def test_every_format_that_can_be_opened_is_found(tmp_path, name):
    _photo(tmp_path / name)
    photos = Photos(tmp_path)
    assert [file.name for file in photos.files] == [name]
    assert photos.random_crop(32, np.random.default_rng(0)).shape == (32, 32, 3)


def test_a_phone_s_file_without_its_library_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _photo(tmp_path / "a.jpg")
    (tmp_path / "b.heic").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"b\.heic is a HEIC file\. Install pillow-heif"):
        Photos(tmp_path)


def test_a_folder_without_photographs_says_which_are_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError) as caught:
        Photos(tmp_path)
    assert all(suffix in str(caught.value) for suffix in PHOTOGRAPHS)


@pytest.mark.parametrize(("degraded", "clean"), [("degraded", "clean"), ("input", "target"), ("lq", "gt")])
def test_equally_named_pairs_may_be_of_any_format(tmp_path, degraded, clean):
    for folder in (degraded, clean):
        _photo(tmp_path / folder / "a.gif")
    assert PairFolders([tmp_path]).files == [(tmp_path / clean / "a.gif", tmp_path / degraded / "a.gif")]
