"""Photographs out of whatever is sent: none is lost, none lands elsewhere, and a ZIP cannot use up disk or memory."""

import io
import os
import stat
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import UserError
from training.dataset import unpack
from training.dataset.unpack import gather

_file = io.BytesIO()
Image.linear_gradient("L").resize((40, 40)).convert("RGB").save(_file, "PNG")
PHOTO = _file.getvalue()


def zipped(path, *entries, **options):
    """A ZIP of (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def found(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_photographs_and_zips_together(tmp_path, folder):
    (tmp_path / "own.JPG").write_bytes(b"own")
    (tmp_path / "notes.txt").write_text("no photograph")
    entries = [("trip/a.png", b"1"), ("b.heic", b"2"), ("trip/", b""), ("Thumbs.db", b""), ("__MACOSX/._b.png", b"x")]
    first = zipped(tmp_path / "first.zip", *entries, (".hidden/c.png", b"x"), (".d.png", b"x"), ("more.zip", b"PK"))
    skipped = gather([first, tmp_path / "own.JPG", tmp_path / "notes.txt"], folder)
    assert found(folder) == {"trip/a.png": b"1", "b.heic": b"2", "own.JPG": b"own"}
    assert skipped == [
        ("first.zip: Thumbs.db", "not an image file"),
        ("first.zip: more.zip", "a ZIP inside of a ZIP: unpack it first"),
        ("notes.txt", "neither a photograph nor a ZIP"),
    ]


def test_of_equal_names_none_is_lost(tmp_path, folder):
    one = zipped(tmp_path / "1.zip", ("a.png", b"1"), ("b.png/c.png", b"2"))
    two = zipped(tmp_path / "2.zip", ("a.png", b"3"), ("b.png", b"4"), ("a.png/d.png", b"5"))
    assert not gather([one, two], folder)
    assert sorted(found(folder).values()) == [b"1", b"2", b"3", b"4", b"5"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.text(
                st.sampled_from("ab/\\.:\0ü.. C\u202e\n|😀") | st.characters(exclude_categories=["Cs"]), max_size=30
            ),
            st.sampled_from([".png", ".JPG", "", ".txt", "/", ".png/x.gif"]),
            st.sampled_from([0, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_nothing_lands_outside_and_what_is_sent_is_there_or_named(entries):
    entries = [(name, *rest) for name, *rest in entries if not (name + rest[0]).startswith("\0") and name + rest[0]]
    with tempfile.TemporaryDirectory() as place:
        outer = Path(place)
        folder = outer / "deep" / "photos"
        folder.mkdir(parents=True)
        infos = []
        for number, (name, suffix, mode) in enumerate(entries):
            info = zipfile.ZipInfo(name + suffix)
            info.external_attr = mode << 16
            infos.append((info, f"{number}".encode()))
        sent = zipped(outer / "sent.zip", *infos)
        try:
            skipped = gather([sent], folder)
        except UserError as error:
            assert "There is no photograph" in str(error) and not found(folder)
            return
        everything = {path for path in outer.rglob("*") if not path.is_dir()}
        assert everything == {sent, *(path for path in folder.rglob("*") if path.is_file())}
        assert not any(path.is_symlink() for path in everything)
        hidden = sum(
            info.is_dir()
            or any(p.startswith(".") and p not in (".", "..") for p in info.filename.replace("\\", "/").split("/"))
            for info, _ in infos
        )
        assert len(set(found(folder).values())) == len(found(folder)), "each once"
        assert len(found(folder)) + len(skipped) + hidden >= len(infos)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../out.png", "leads out of the ZIP"),
        ("a/../../out.png", "leads out of the ZIP"),
        ("..\\out.png", "leads out of the ZIP"),
        ("a" * 251 + ".png", "name is too long"),
        ("a/" * 501 + "b.png", "name is too long"),
    ],
)
def test_names_that_lead_elsewhere_are_named_and_left_out(tmp_path, folder, name, reason):
    sent = zipped(tmp_path / "sent.zip", (name, PHOTO), ("good.png", PHOTO))
    ((left, why),) = gather([sent], folder)
    assert left.startswith("sent.zip: ") and reason in why
    assert list(found(folder)) == ["good.png"] and not list(tmp_path.rglob("out.png"))


def test_absolute_names_and_drives_lie_in_the_folder(tmp_path, folder):
    gather([zipped(tmp_path / "sent.zip", ("/etc/a.png", b"1"), ("C:\\b.png", b"2"))], folder)
    assert found(folder) == {"etc/a.png": b"1", "C_/b.png": b"2"}


def test_a_locked_photograph_a_link_and_a_rare_compression_are_named(tmp_path, folder):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    sent = zipped(tmp_path / "sent.zip", ("locked.png", PHOTO), (link, b"/etc/passwd"), ("good.png", PHOTO))
    content = bytearray(sent.read_bytes())
    start = content.index(b"PK\1\2")
    content[start + 8] |= 1  # of the first entry in the list
    sent.write_bytes(content)
    with zipfile.ZipFile(sent, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("rare.png", PHOTO)
    assert gather([sent], folder) == [
        ("sent.zip: locked.png", "locked with a password: pack it without one"),
        ("sent.zip: link.png", "a link or a device, not a file"),
        ("sent.zip: rare.png", "compressed in a rare way: pack it as an ordinary ZIP"),
    ]
    assert list(found(folder)) == ["good.png"]


def test_names_in_strange_encodings(tmp_path, folder):
    sent = zipped(tmp_path / "sent.zip", ("käse.png", b"1"))
    content = sent.read_bytes()
    name = "käse.png".encode()
    unsaid = content.replace(struct.pack("<H", 0x800), b"\0\0")  # UTF-8 that is not said to be so, as macOS has it
    sent.write_bytes(unsaid)
    gather([sent], folder)
    assert list(found(folder)) == ["käse.png"]
    sent.write_bytes(unsaid.replace(name, b"k\xe4\xe4se.png"))  # neither the one nor the other
    gather([sent], folder)
    assert len(found(folder)) == 2
    sent.write_bytes(content.replace(name, b"k\xff\xffse.png"))
    with pytest.raises(
        UserError, match=r"sent\.zip: the names in it are in no encoding that can be read: pack it anew"
    ):
        gather([sent], folder)


@pytest.mark.parametrize("content", [b"", b"no ZIP", b"PK\3\4" + bytes(100), PHOTO, b"PK\5\6" + b"\xff" * 18])
def test_what_is_no_zip_is_said(tmp_path, folder, content):
    (tmp_path / "photos.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"There is no photograph .*photos\.zip: no ZIP, or damaged: pack it anew"):
        gather([tmp_path / "photos.zip"], folder)


def test_an_entry_without_a_name_is_passed_over(tmp_path, folder):
    sent = zipped(tmp_path / "sent.zip", ("a.png", PHOTO), ("b.png", PHOTO))
    sent.write_bytes(sent.read_bytes().replace(b"a.png", b"\0.png"))
    gather([sent], folder)
    assert list(found(folder)) == ["b.png"]


def test_nothing_to_work_on_is_said(tmp_path, folder):
    with pytest.raises(UserError, match="Upload a ZIP of photographs, or the photographs themselves"):
        gather([], folder)
    with pytest.raises(UserError, match=r"There is no photograph to work on in what you sent\."):
        gather([zipped(tmp_path / "empty.zip")], folder)
    with pytest.raises(UserError, match=r"no photograph.*\(text\.zip: a\.txt: not an image file\)\."):
        gather([zipped(tmp_path / "text.zip", ("a.txt", b""))], folder)


@settings(max_examples=80)
@given(st.data())
def test_a_damaged_zip_is_a_sentence_or_gives_what_is_whole(data):
    with tempfile.TemporaryDirectory() as place:
        outer = Path(place)
        (folder := outer / "photos").mkdir()
        sent = zipped(outer / "sent.zip", ("a.png", PHOTO), ("b/c.png", PHOTO * 3), compression=zipfile.ZIP_DEFLATED)
        content = bytearray(sent.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        sent.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
        try:
            gather([sent], folder)
        except UserError:
            assert not found(folder)
        assert {path.parent.parent for path in folder.rglob("*") if path.is_file()} <= {outer, folder}
        assert set(found(folder).values()) <= {PHOTO, PHOTO * 3}, "whole, by their checksums"


# ----------------------------------------------------------------------------------------------------------- limits


def test_too_many_photographs_are_refused_before_any_is_unpacked(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("GENDEG_MAX_PHOTOGRAPHS", "2")
    sent = zipped(tmp_path / "sent.zip", *((f"{number}.png", b"x") for number in range(3)))
    with pytest.raises(UserError, match="You sent 3 photographs; here a data set is made of at most 2"):
        gather([sent], folder)
    assert not found(folder)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("GENDEG_MAX_UNPACKED_MEGABYTES", "2")
    entries = [(f"{number}.png", bytes(10**6)) for number in range(3)]
    bomb = zipped(tmp_path / "bomb.zip", *entries, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10_000
    with pytest.raises(UserError, match="your photographs have 3 megabytes; the limit here is 2"):
        gather([bomb], folder)
    assert not found(folder)
    monkeypatch.setenv("GENDEG_MAX_MEGABYTES", "1")
    (left,) = gather([zipped(tmp_path / "one.zip", ("a.png", bytes(10**6 + 1)), ("b.png", b""))], folder)
    assert left == ("one.zip: a.png", "more than 1 megabytes")


def test_a_bomb_that_lies_of_its_size_gives_no_more_than_it_says(tmp_path, folder):
    bomb = zipped(tmp_path / "bomb.zip", ("a.png", bytes(10**7)), compression=zipfile.ZIP_DEFLATED)
    bomb.write_bytes(bomb.read_bytes().replace(struct.pack("<I", 10**7), struct.pack("<I", 100)))
    with pytest.raises(UserError, match=r"bomb\.zip|no photograph"):
        gather([bomb], folder)
    assert not found(folder)


def test_a_list_of_names_that_would_fill_the_memory_is_not_read(tmp_path, folder):
    entries = ((f"{number}" * 50_000 + ".png", b"") for number in "123456789")
    sent = zipped(tmp_path / "sent.zip", *entries, *((f"{n}{'x' * 60_000}", b"") for n in range(70)))
    assert sent.stat().st_size > 2 * unpack._AT_ONCE
    with pytest.raises(UserError, match="it holds too many files: send fewer at once"):
        gather([sent], folder)


def test_many_zips_fill_the_memory_no_more_than_one(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(unpack, "_MOST_NAMES", 5)
    sent = zipped(tmp_path / "sent.zip", *((f"{n}.txt", b"") for n in range(3)), ("a.png", PHOTO))
    small = zipped(tmp_path / "small.zip", ("b.png", PHOTO))
    skipped = gather([sent, sent, small], folder)
    assert skipped[-1] == ("sent.zip", "it holds too many files: send fewer at once") and len(skipped) == 4
    assert set(found(folder)) == {"a.png", "b.png"}
    monkeypatch.setenv("GENDEG_MAX_PHOTOGRAPHS", "2")
    with pytest.raises(UserError, match="You sent 3 files; here a data set is made of at most 2"):
        gather([sent] * 3, folder)


def test_an_upload_that_is_deleted_meanwhile_stays(tmp_path, folder):
    (tmp_path / "own.png").write_bytes(PHOTO)
    gather([tmp_path / "own.png"], folder)
    os.unlink(tmp_path / "own.png")
    assert found(folder) == {"own.png": PHOTO}
