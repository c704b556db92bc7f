"""How is a set of pairs written, and does it show what another one shows? Folders that `PairFolders` reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from runtime.files import write_whole
from runtime.images import open_image, write_image
from training.loop import processes
from training.photos import centre_square
from training.simulators.matching import simulate

Files = tuple[Path, Path]  # clean, degraded
# Correlation of two small grey images from which on they show one scene: copies of other sizes and qualities reach .99;
# of 1,332 different photographs two pairs reach .9, and none .93.
_ALIKE = 0.93
_SIDE = 32  # pixels of such an image


def copy_pairs(pairs: Sequence[Files], folder: Path, row: dict[str, Any]) -> None:
    """Write pairs of image files as a set; one that is there already stays.

    Args:
        row: what the metadata say of each pair.
    """
    if (folder / "metadata.jsonl").exists():
        return
    names = []
    for number, files in enumerate(pairs):
        sides = zip(("clean", "degraded"), files, strict=True)
        names.append([f"{side}/{number:05}{file.suffix.lower()}" for side, file in sides])
        for name, file in zip(names[-1], files, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
    _finish(folder, names, row)


def simulate_pairs(
    photos: Sequence[Path],
    asked: Sequence[tuple[float, float]],
    simulator: str,
    folder: Path,
    row: dict[str, Any],
    seed: int,
    size: int | None = None,
) -> None:
    """Write pairs by one kind of simulator as a set; what is there already stays.

    Args:
        photos: a photograph for each pair; one may serve several.
        asked: (mu, sigma) of each.
        row: what the metadata say of each pair; its `degradation` is made.
        size: side of the centre squares that are degraded, in pixels; None: whole photographs, at their own size.
    """
    if (folder / "metadata.jsonl").exists():
        return
    device = processes().device
    names = [(f"clean/{number:05}.png", f"degraded/{number:05}.png") for number in range(len(photos))]
    for side in ("clean", "degraded"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(tqdm(photos, desc=folder.name, unit="pair")):
        if not (folder / names[number][1]).exists():  # written last
            clean = centre_square(photo, size) if size else np.asarray(open_image(photo))
            pixels = torch.from_numpy(clean.copy()).permute(2, 0, 1).to(device).float() / 255
            generator = torch.Generator(device).manual_seed(seed + number)
            degraded = simulate(pixels, row["degradation"], *asked[number], generator, simulator).degraded
            degraded = (degraded * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            for name, image in zip(names[number], (clean, degraded), strict=True):
                write_image(Image.fromarray(image), folder / name)
    _finish(folder, names, row)


def _finish(folder: Path, names: Iterable[Sequence[str]], row: dict[str, Any]) -> None:
    """Write the metadata, with which the set is there. They name no scene: all of a set is learned from, or nothing."""
    lines = [json.dumps({"file_name": degraded, "clean_file_name": clean} | row) for clean, degraded in names]
    write_whole(folder / "metadata.jsonl", "".join(f"{line}\n" for line in lines).encode())


def fingerprints(files: Sequence[Path], centre: bool = False) -> np.ndarray:
    """Small grey images of mean 0 and length 1, [N, 1024]: their products are correlations.

    Args:
        centre: of their centre squares, which simulated pairs show.
    """
    shrunk = ImageOps.fit if centre else Image.Image.resize
    grey = [shrunk(open_image(f).convert("L"), (_SIDE, _SIDE), Image.Resampling.BOX) for f in tqdm(files, delay=2)]
    prints = np.array([np.asarray(image, dtype=np.float32).ravel() for image in grey]).reshape(-1, _SIDE**2)
    prints -= prints.mean(1, keepdims=True)
    return prints / np.linalg.norm(prints, axis=1, keepdims=True).clip(min=1e-6)


def show_one_of(files: Sequence[Path], others: np.ndarray, centre: bool = False) -> np.ndarray:
    """Of each image, or of its centre, whether it shows what one of `others` shows, bool [N]; each file read once.

    Args:
        others: their `fingerprints`.
    """
    known = {file: number for number, file in enumerate(dict.fromkeys(files))}
    if not known or not len(others):
        return np.zeros(len(files), dtype=bool)
    found = (fingerprints(list(known), centre) @ others.T).max(1) > _ALIKE
    return found[[known[file] for file in files]]
