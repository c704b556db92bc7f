"""How near do restorers come to the truth on published pairs? Means of each data set, as restoration papers report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from tqdm import tqdm

from restorers.metrics import psnr, ssim
from restorers.registry import Restorer
from runtime.errors import UserError, sentence
from runtime.images import open_image
from runtime.memory import is_out_of_memory
from training.evaluate.frechet import features, frechet
from training.pair_folders import PairFolders, is_held_back

SMALLEST = 32  # pixels of the shorter side: SSIM needs 11, LPIPS 31
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def evaluate_published(
    restorers: list[Restorer],
    folders: Sequence[Path],
    faults: list[str],
    all_scenes: bool = False,
    limit: int | None = None,
    with_luma: bool = False,
    lpips: Distance | None = None,
    with_frechet: bool = False,
) -> dict[str, dict[str, dict[str, float]]]:
    """Restore the degraded images at their own size, as users do, and compare with the clean ones.

    Args:
        folders: see `PairFolders`. A data set is what its rows call `dataset`, or a folder where they do not.
        faults: gets a sentence for each pair that cannot be read, data set without a pair to measure, and restorer that
            fails, which is then missing from the table.
        all_scenes: measures all pairs; else of the rows that name a scene only those that training leaves out.
        limit: at most so many pairs of each data set, evenly spread.
        with_luma: adds PSNR and SSIM of the luma.
        lpips: see `load_lpips`.
        with_frechet: adds the Frechet distance of the restored images to the clean ones (`training.evaluate.frechet`).

    Returns:
        A table per data set. Rows: the degraded images as they are, every restorer. Columns: number of pairs, and means
        of PSNR (dB) and SSIM of RGB, of `psnr_y` and `ssim_y`, of `lpips`; `frechet`.

    Raises:
        UserError: see `PairFolders`.
    """
    chosen: dict[str, list[tuple[Path, Path]]] = {}
    nameless = set()
    for folder in folders:
        pairs = PairFolders([folder])
        for files, row in zip(pairs.files, pairs.rows, strict=True):
            dataset = str(row.get("dataset") or folder.resolve().name)
            members = chosen.setdefault(dataset, [])
            if "scene" not in row:
                nameless.add(dataset)
            if all_scenes or is_held_back(row) or "scene" not in row:
                members.append(files)
    measure = partial(_measures, with_luma=with_luma, lpips=lpips)
    tables = {}
    for dataset, files in chosen.items():
        if dataset in nameless:
            print(f"{dataset}: rows without a scene are all measured, whatever has been trained on.")
        if not files:
            faults.append(f"{dataset}: training leaves none of its scenes out; --all-scenes measures all.")
        elif table := _table(restorers, spread(files, limit), dataset, faults, measure, with_frechet):
            tables[dataset] = table
    return tables


def load_lpips() -> Distance | None:
    """LPIPS (arXiv 1801.03924; AlexNet, as papers report it) of two float images [B, 3, H, W] in [0, 1].

    None where torchmetrics or torchvision is missing, or the weights that they download.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()
    except (ImportError, OSError, RuntimeError):  # a RuntimeError: torchvision is there, but made for another torch
        return None


def luma(images: torch.Tensor) -> torch.Tensor:
    """Y of YCbCr (ITU-R BT.601 of video range, 16 to 235 of 255, as MATLAB's rgb2ycbcr) of uint8 images [B, 3, H, W].

    Returns:
        Floats in [0, 1], unrounded, of the same shape: in all three channels alike, for metrics of RGB.
    """
    weights = torch.tensor([65.481, 128.553, 24.966]) / 255
    y = (torch.einsum("bchw,c->bhw", images.float(), weights) + 16) / 255
    return y[:, None].expand(images.shape)


def _table(
    restorers: list[Restorer],
    files: Sequence[tuple[Path, Path]],
    dataset: str,
    faults: list[str],
    measure: Callable[[torch.Tensor, torch.Tensor], dict[str, float]],
    with_frechet: bool,
) -> dict[str, dict[str, float]]:
    """Empty if none of the pairs can be read."""
    rows: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"as it is": lambda image: image}
    rows |= {restorer.name: restorer for restorer in restorers}
    measured: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    seen: dict[str, list[torch.Tensor]] = {row: [] for row in (*rows, "clean")}  # features of the images
    for clean_file, degraded_file in tqdm(files, desc=dataset, unit="pair"):
        try:
            clean, degraded = _pixels(clean_file), _pixels(degraded_file)
        except UserError as error:
            faults.append(f"{dataset}: {error}")
            continue
        if with_frechet:
            seen["clean"].append(features(clean))
        for row in [*measured]:
            try:
                image = rows[row](degraded)
                measured[row].append(measure(image, clean))
                if with_frechet:
                    seen[row].append(features(image))
            except Exception as error:
                why = "There is too little memory for it." if is_out_of_memory(error) else sentence(error)
                faults.append(f"{dataset}: {row} fails with {degraded_file.name}: {why}")
                del measured[row]
    table = {
        row: {"pairs": len(values)} | {column: fmean(value[column] for value in values) for column in values[0]}
        for row, values in measured.items()
        if values
    }
    for row in table if with_frechet else ():
        table[row]["frechet"] = frechet(torch.cat(seen[row]), torch.cat(seen["clean"]))
    return table


def _measures(image: torch.Tensor, clean: torch.Tensor, with_luma: bool, lpips: Distance | None) -> dict[str, float]:
    values = {"psnr": psnr(image, clean), "ssim": ssim(image, clean)}
    if with_luma:
        values |= {"psnr_y": psnr(luma(image), luma(clean)), "ssim_y": ssim(luma(image), luma(clean))}
    if lpips:
        with torch.inference_mode():
            values["lpips"] = lpips(image / 255, clean / 255)
    return {name: float(value) for name, value in values.items()}


def spread(files: Sequence[tuple[Path, Path]], limit: int | None) -> Sequence[tuple[Path, Path]]:
    """So many of them, evenly spread: neighbours are often of one scene."""
    count = len(files) if limit is None else min(limit, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def _pixels(file: Path) -> torch.Tensor:
    """uint8 [1, 3, H, W].

    Raises:
        UserError: if the file cannot be read, or shows too little to be measured.
    """
    image = open_image(file)
    if min(image.size) < SMALLEST:
        raise UserError(f"{file.name} is too small to be measured: it needs {SMALLEST} pixels on each side.")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
