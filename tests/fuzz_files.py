"""Which files are damaged how? Images, weights and folders of models and pairs, by a seeded generator."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from safetensors.torch import save

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "F", "LA")
ODD_SIZES = ((1, 1), (1, 500), (7, 3), (33, 32), (64, 2000), (31, 32), (3, 3), (500, 1))
# No long whole numbers: they would ask for memory.
ODD_SETTINGS = (
    None, True, False, "", "haze", "\ud800", -1, 0, 1, 3, 0.5, float("nan"), float("inf"), float("-inf"), [], {},
    [None], [[]], {"a": {}}, [1, 2, 3], "../../etc/passwd", ["x", "y"], "0", {"haze": 1}, {"haze": None},
)  # fmt: skip


ODD_ENTRIES = (
    "../{}", "../../../../tmp/{}", "/etc/{}", "..\\{}", "C:\\{}", "a/../{}",
    "./{}", "a\0{}", "a//b/{}", "{}/", "{0}/{0}", "é😀/{}", "\u202e{}", "<img src=x>{}", "con.{}",
    ".{}", "__MACOSX/{}", "a" * 300 + "{}", "a/" * 600 + "{}", "{}.zip",
)  # fmt: skip


class RunsCode:
    """Unpickling it writes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.canary, "code ran")


def photograph(rng: random.Random, width: int, height: int) -> Image.Image:
    """A crop of a photograph."""
    photo = Image.fromarray(skimage.data.astronaut())
    left, top = rng.randrange(100), rng.randrange(100)
    return photo.crop((left, top, left + 300, top + 300)).resize((width, height))


def image_file(rng: random.Random) -> tuple[bytes, str, tuple[int, int] | None]:
    """(content, name, upright size) of an image file; size: None if it is damaged, and may or may not be readable."""
    kind = rng.choice(list(FORMATS))
    size = rng.choice(ODD_SIZES) if rng.random() < 0.3 else (rng.randrange(40, 90), rng.randrange(40, 90))
    image, options, upright = photograph(rng, *size), {}, size
    mode = rng.choice(MODES) if rng.random() < 0.4 else "RGB"
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "F":
        values = np.asarray(image.convert("L")).astype(np.float32) / 255
        values.flat[0] = rng.choice((0.5, np.nan, np.inf, -3, 1e30))
        image, kind = Image.fromarray(values), "TIFF"
    else:
        image = image.convert(mode)
    if kind in ("JPEG", "PNG", "TIFF", "WEBP") and rng.random() < 0.2:
        exif = Image.Exif()
        exif[0x0112] = orientation = rng.choice((0, 3, 6, 8, 9, 65535))
        options["exif"] = exif
        upright = size[::-1] if orientation in (6, 8) else size
    file = io.BytesIO()
    try:
        image.save(file, kind, **options)
    except (OSError, ValueError):  # a kind that has no such mode
        file, upright = io.BytesIO(), size
        image.convert("RGB").save(file, kind)
    content, name = file.getvalue(), f"photo{FORMATS[kind]}"
    if rng.random() < 0.15:
        name = rng.choice(("photo", "photo.txt", f"photo{rng.choice(list(FORMATS.values()))}", "photo.pth", "a" * 200))
    if rng.random() < 0.5:
        content, upright = damaged(rng, content, kind), None
    if mode == "F":
        upright = None  # not numbers, perhaps
    return content, name, upright


def zip_file(rng: random.Random) -> tuple[bytes, bool]:
    """(content of a ZIP, whether there is surely a photograph in it)."""
    file, sound = io.BytesIO(), False
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", rng.choice((0, 0, 8, 8, 12, 14))) as archive:
        warnings.simplefilter("ignore")  # of equal names
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            content, name, size = image_file(rng)
            odd = rng.random() < 0.6
            entry = zipfile.ZipInfo(rng.choice(ODD_ENTRIES).format(name) if odd else name)
            entry.compress_type = archive.compression
            if rng.random() < 0.3:
                odd = True
                entry.external_attr = rng.choice((0o120777, 0o100644, 0o040755, 0o010644, 0o060644)) << 16
            archive.writestr(entry, content)
            fit = size is not None and 32 <= min(size) and max(size) <= 90 and name.endswith(tuple(FORMATS.values()))
            sound |= fit and not odd and archive.compression in (0, 8)
    content = bytearray(file.getvalue())
    if rng.random() < 0.3:
        return damaged(rng, bytes(content)), False
    if rng.random() < 0.1 and (first := content.find(b"PK\1\2")) >= 0:
        content[first + 8] |= 1  # it says that it is locked with a password
        return bytes(content), False
    return bytes(content), sound


def damaged(rng: random.Random, content: bytes, kind: str = "") -> bytes:
    """A file cut, with bits turned over, with a part zeroed, empty, of another kind, or that claims a huge size."""
    data = bytearray(content)
    how = rng.choice(("cut", "cut", "bits", "bits", "bits", "zeros", "other", "huge", "repeated"))
    if how == "cut":
        return bytes(data[: rng.randrange(len(data))])
    if how == "bits":
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if how == "zeros":
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.randrange(1, 500))
        data[start:end] = bytes(end - start)
    if how == "repeated":
        return bytes(data) * 2
    if how == "huge" and kind == "PNG":
        data[16:24] = struct.pack(">II", rng.choice((2**31 - 1, 60_000, 0)), 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif how == "huge" and kind == "BMP":
        data[18:26] = struct.pack("<ii", 60_000, rng.choice((60_000, -60_000, -(2**31), 0)))
    elif how == "huge" and kind == "GIF":
        data[6:10] = struct.pack("<HH", 65_535, 65_535)
    elif how in ("other", "huge"):
        return rng.choice(
            (
                b"", b"\0", b"no pixels here", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%PDF-1.4", b"BM",
                b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", b"<script>alert(1)</script>",
                b"P6 50000 50000 255\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"PK\x03\x04",
            )
        )  # fmt: skip
    return bytes(data)


def weights_file(rng: random.Random, state: dict[str, torch.Tensor], folder: Path, canary: Path) -> tuple[Path, bool]:
    """(a weights file, whether it is sound)."""
    state, sound = dict(state), True
    name = rng.choice(list(state))
    change = rng.choice(("", "nan", "integers", "missing", "added", "shape", "complex", "empty", "half", "float8"))
    value = state[name].clone()
    if change == "nan":
        value.view(-1)[rng.randrange(value.numel())] = rng.choice((float("nan"), float("inf"), float("-inf")))
    elif change == "integers":
        value = value.to(rng.choice((torch.int8, torch.int64, torch.bool)))
    elif change == "complex":
        value = value.to(torch.complex64)
    elif change == "float8":
        value = value.to(torch.float8_e4m3fn)
    elif change == "half":
        value = value.to(rng.choice((torch.float16, torch.bfloat16, torch.float64)))
    elif change == "shape":
        value = rng.choice((value[None], value.reshape(-1), value.new_zeros(0), value.new_zeros(())))
    state[name] = value
    if change == "missing":
        del state[name]
    elif change == "added":
        state[rng.choice(("", "x", "downs.0.weight.x", "é" * 50))] = torch.zeros(2)
    elif change == "empty":
        state = {}
    sound = change in ("", "half")
    if rng.random() < 0.5:
        path = folder / "w.safetensors"
        content = save(state)
        if rng.random() < 0.5:
            content, sound = _damaged_safetensors(rng, content), False
        path.write_bytes(content)
        return path, sound
    path = folder / f"w{rng.choice(('.pth', '.pt', '.ckpt'))}"
    how = rng.choice(("plain", "plain", "wrapped", "code", "code inside", "pickle", "legacy", "object", "damaged"))
    content: Any = state
    if how == "wrapped":
        content = {rng.choice(("params", "state_dict", "net", "model", "odd")): state, "epoch": 3}
        sound = sound and "odd" not in content
    elif how == "code inside":
        content = {"state_dict": state, "hyper_parameters": RunsCode(canary)}
    elif how == "object":
        looped: dict[str, Any] = {}
        looped["model"] = looped
        content = rng.choice(
            ([state], 5, None, "text", looped, {1: state}, {"state_dict": 5}, {(1, 2): 3}, {"net": {}})
        )
    if how in ("code", "pickle"):
        path.write_bytes(pickle.dumps(RunsCode(canary) if how == "code" else {"a": 1}, rng.randrange(6)))
        return path, False
    torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    if how == "damaged":
        path.write_bytes(damaged(rng, path.read_bytes()))
    return path, sound and how in ("plain", "wrapped", "legacy")


def _damaged_safetensors(rng: random.Random, content: bytes) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = rng.choice(list(header)) if header else "x"
    entry = header.setdefault(name, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
    how = rng.choice(("length", "dtype", "shape", "offsets", "metadata", "json", "file", "file", "extra"))
    if how == "length":
        return struct.pack("<Q", rng.choice((2**63, 2**40, 0, length * 2, 2**64 - 1))) + content[8:]
    if how == "dtype":
        entry["dtype"] = rng.choice(("F31", "", "I64", 5, None, "BOOL"))
    elif how == "shape":
        entry["shape"] = rng.choice(([2**40, 2**40], [-1], "x", [0], [], None, [1.5]))
    elif how == "offsets":
        entry["data_offsets"] = rng.choice(([0, 2**62], [-4, 4], [8, 4], [], None, ["0", "4"]))
    elif how == "metadata":
        header["__metadata__"] = rng.choice((5, {"a": 1}, None, {"a": "b"}))
    elif how == "extra":
        body += b"more"
    text = json.dumps(header).encode()
    if how == "json":
        text = rng.choice((text[:-1], b"[]", b"null", b"\xff\xfe", b"{" * 5000, b""))
    whole = struct.pack("<Q", len(text)) + text + body
    return damaged(rng, whole) if how == "file" else whole


def changed_setting(rng: random.Random, value: Any) -> Any:
    """A JSON value with something in it taken away, or replaced by something odd."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        copy = value.copy()
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        if rng.random() < 0.25:
            del copy[key]
        else:
            copy[key] = changed_setting(rng, copy[key])
        return copy
    return rng.choice(ODD_SETTINGS)


def damaged_folder(rng: random.Random, sound: Path, folder: Path) -> Path:
    """A copy of a model's folder with one file damaged or missing."""
    files = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file())
    chosen = rng.choice([f for f in files if f.suffix == ".json"] if rng.random() < 0.8 else files)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if file != chosen:
            (folder / file).symlink_to(sound / file)
    content = (sound / chosen).read_bytes()
    if chosen.suffix == ".json" and rng.random() < 0.75:
        content = json.dumps(changed_setting(rng, json.loads(content))).encode()
    elif rng.random() < 0.9:
        content = damaged(rng, content)
    else:
        return folder  # it is missing
    (folder / chosen).write_bytes(content)
    return folder


def pair_folder(rng: random.Random, folder: Path) -> Path:
    """A folder of pairs, of which a row or an image is odd."""
    rows: list[Any] = []
    for number in range(3):
        names = {"clean_file_name": f"clean/{number}.png", "file_name": f"degraded/{number}.png"}
        for name in names.values():
            (folder / name).parent.mkdir(exist_ok=True)
            photograph(rng, 40, 40).save(folder / name)
        rows.append(names | {"degradation": "haze", "mu": 0.1, "sigma": 0.06})
    if rng.random() < 0.3:
        content, _, _ = image_file(rng)
        (folder / "clean" / "0.png").write_bytes(content)
    rows = changed_setting(rng, rows)
    text = "\n".join(map(json.dumps, rows)) if isinstance(rows, list) else json.dumps(rows)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        data = damaged(rng, data)
    (folder / "metadata.jsonl").write_bytes(data)
    return folder


def emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, deleted afterwards."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
