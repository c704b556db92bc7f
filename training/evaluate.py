"""Measures what the models reach and draws it: python -m training.evaluate WHAT --photos DIR

- `codec`: PSNR of the codec's round trip.
- `control`: asked against reached intensity, per degradation, without matching: the networks' own control.
- `sheet`: a contact sheet, six degradations at three intensities.
- `structure`: what structure correction changes, in one-step predictions and in full generation.
- `structure-sheet`: all six degradations, without and with structure correction.
- `restorers`: gain in PSNR and SSIM on simulated pairs, per degradation and restorer.
- `restorers-sheet`: photographs as they are (real ones, say), beside what every restorer makes of them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import spearmanr
from tqdm import tqdm

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.detail import transfer_detail
from gendeg.intensity import intensity
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import IntensityPrior
from restorers.metrics import psnr, ssim
from restorers.registry import Restorer, available, load_restorer
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.images import open_image, write_image
from training.command_line import command_line
from training.photos import Photos, centre_square, resize_short_side
from training.simulators.matching import simulate
from training.structure_correction import one_step

SIZE = 256
SHEET_INTENSITIES = {
    "haze": ((0.06, 0.04), (0.12, 0.08), (0.21, 0.11)),
    "rain": ((0.03, 0.05), (0.07, 0.08), (0.15, 0.10)),
    "snow": ((0.03, 0.07), (0.07, 0.10), (0.15, 0.13)),
    "motion_blur": ((0.015, 0.027), (0.035, 0.052), (0.06, 0.074)),
    "raindrop": ((0.015, 0.05), (0.04, 0.09), (0.09, 0.12)),
    "low_light": ((0.10, 0.06), (0.18, 0.11), (0.25, 0.14)),
}


def evaluation_squares(folder: Path | None) -> torch.Tensor:
    """Centre squares of all photographs, or of 40 procedural scenes: float tensor [N, 3, 256, 256] in [0, 1]."""
    photos = Photos(folder)
    if photos.files:
        arrays = [centre_square(file, SIZE) for file in photos.files]
    else:
        arrays = [photos.random_crop(SIZE, np.random.default_rng(i)) for i in range(40)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def evaluate_codec(pipeline: GenDegPipeline, photos: torch.Tensor) -> dict[str, float]:
    """Mean over photographs of the PSNR, in dB, after encoding and decoding."""
    reached = []
    for photo in tqdm(photos.split(8), desc="codec"):
        latents = pipeline.encode(photo.to(pipeline.device, pipeline.dtype))
        reached.append(psnr(pipeline.decode(latents * pipeline.vae.config.scaling_factor).cpu(), photo))
    reached = torch.cat(reached)
    return {"photographs": len(reached), "psnr_mean": float(reached.mean()), "psnr_worst": float(reached.min())}


def real_intensities(degradation: str, count: int, seed: int) -> np.ndarray:
    """(mu, sigma) drawn the way real data sets have them: [count, 2]."""
    prior, rng = IntensityPrior(), np.random.default_rng(seed)
    return np.array([prior.sample(degradation, rng)[:2] for _ in range(count)])


def evaluate_control(pipeline: GenDegPipeline, photos: torch.Tensor, seed: int = 0) -> dict[str, dict[str, float]]:
    """Ask every photograph for one intensity drawn from the prior, per degradation, and measure what is reached.

    Columns: median |asked - reached| of mu and sigma, at the working size, and rank correlation of asked and reached.
    """
    settings = {"match_intensity": False, "output_size": "working", "output_type": "pt"}
    table = {}
    for name in DEGRADATIONS:
        asked = real_intensities(name, len(photos), seed)
        reached = []
        for chunk in tqdm(range(0, len(photos), 8), desc=name):
            part = slice(chunk, chunk + 8)
            generators = [torch.Generator().manual_seed(seed + i) for i in range(*part.indices(len(photos)))]
            mu, sigma = asked[part].T
            output = pipeline(photos[part], name, mu=mu, sigma=sigma, generator=generators, **settings)
            reached.append(np.stack([output.mu, output.sigma], axis=1))
        reached = np.concatenate(reached)
        off = np.median(np.abs(asked - reached), axis=0)
        table[name] = {
            "mu_error": float(off[0]),
            "sigma_error": float(off[1]),
            "mu_rank_correlation": float(spearmanr(asked[:, 0], reached[:, 0])[0]),
            "sigma_rank_correlation": float(spearmanr(asked[:, 1], reached[:, 1])[0]),
        }
    return table


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """A Markdown table: a row a key, a column a measure."""
    columns = list(next(iter(rows.values())))
    print("| | " + " | ".join(c.replace("_", " ") for c in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, values in rows.items():
        print(
            f"| {name.replace('_', ' ')} | "
            + " | ".join(f"{values[c]:.3f}" if c in values else "" for c in columns)
            + " |"
        )


def contact_sheet(pipeline: GenDegPipeline, photos: torch.Tensor, seed: int = 3) -> Image.Image:
    """Rows: a photograph each, clean and at three intensities of one degradation, labelled with what was reached.

    The seed is a row's own throughout, so that nothing but the intensity changes; blur goes sideways with the default.
    """
    rows = []
    for row, (name, degradation) in enumerate(DEGRADATIONS.items()):
        mus, sigmas = zip(*SHEET_INTENSITIES[name], strict=True)
        photo = photos[row].expand(3, -1, -1, -1)
        generators = [torch.Generator().manual_seed(seed) for _ in mus]
        output = pipeline(photo, name, mu=mus, sigma=sigmas, generator=generators, output_size="working")
        reached = zip(output.images, output.mu, output.sigma, strict=True)
        degraded = [(image, f"{degradation.label}: mu {mu:.3f}  sigma {sigma:.3f}") for image, mu, sigma in reached]
        rows.append([(output.clean[0], "clean"), *degraded])
    return tile(rows)


# ------------------------------------------------------------------------------------------------------ structure


class TestPairs(NamedTuple):
    """degraded: [N, 3, H, W] in [0, 1]; phrases, mu, sigma: of each."""

    degraded: torch.Tensor
    phrases: list[str]
    mu: list[float]
    sigma: list[float]


def simulated_pairs(photos: torch.Tensor, degradation: str, seed: int) -> TestPairs:
    """Photographs [N, 3, H, W] degraded by the simulators at real intensities."""
    asked = real_intensities(degradation, len(photos), seed)
    pairs = [
        simulate(photo, degradation, *asked[i], torch.Generator().manual_seed(seed + i))
        for i, photo in enumerate(tqdm(photos, desc=f"simulating {degradation}"))
    ]
    degraded = torch.stack([pair.degraded for pair in pairs])
    return TestPairs(degraded, *map(list, zip(*((p.phrase, p.mu, p.sigma) for p in pairs), strict=True)))


@torch.no_grad()
def evaluate_structure(pipeline: GenDegPipeline, photos: torch.Tensor, seed: int = 0) -> dict[str, dict[str, float]]:
    """What structure correction changes, in all degradations, whether or not it is their policy.

    Columns: PSNR and SSIM of one-step predictions from the easy 30 % of the times to the true degraded image, before
    and after, and with the photograph's detail transferred instead, which is what the others get; then, of full
    generation, how far mu and sigma move (median), the PSNR to the clean image where the uncorrected degradation map is
    below its median, and the correlation of gradients with the clean image.
    """
    table = {}
    for name in DEGRADATIONS:
        pairs = simulated_pairs(photos, name, seed)
        ease = 0.7 + 0.3 * torch.rand(len(photos), generator=torch.Generator().manual_seed(seed))
        asked = real_intensities(name, len(photos), seed)
        measured = []
        for chunk in tqdm(range(0, len(photos), 8), desc=name):
            part = slice(chunk, chunk + 8)
            seeds = [seed + i for i in range(*part.indices(len(photos)))]
            conditions = pairs.phrases[part], pairs.mu[part], pairs.sigma[part]
            predicted = one_step(pipeline, photos[part], pairs.degraded[part], *conditions, ease[part], seeds)[0]
            corrected = pipeline.correct_structure(photos[part], predicted)
            generators = [torch.Generator().manual_seed(s) for s in seeds]
            asked_part = {"mu": asked[part, 0], "sigma": asked[part, 1]}
            output = pipeline(
                photos[part], name, **asked_part, generator=generators, output_type="pt", output_size="working",
                structure_correction=True, match_intensity=False,
            )  # fmt: skip
            round_trip = pipeline.decode(pipeline.encode(photos[part]) * pipeline.vae.config.scaling_factor)
            three = zip(photos[part], round_trip, predicted, strict=True)
            transferred = torch.stack([transfer_detail(*images) for images in three])
            before, after = intensity(round_trip, output.uncorrected), intensity(output.clean, output.corrected)
            row = {
                "psnr": psnr(predicted, pairs.degraded[part]),
                "psnr_detail": psnr(transferred, pairs.degraded[part]),
                "psnr_corrected": psnr(corrected, pairs.degraded[part]),
                "ssim": ssim(predicted, pairs.degraded[part]),
                "ssim_corrected": ssim(corrected, pairs.degraded[part]),
                "mu_moves": (after[0] - before[0]).abs(),
                "sigma_moves": (after[1] - before[1]).abs(),
                "detail_psnr": _detail(output.clean, output.uncorrected, output.uncorrected),
                "detail_psnr_corrected": _detail(output.clean, output.corrected, output.uncorrected),
                "gradients": _gradient_correlation(output.clean, output.uncorrected),
                "gradients_corrected": _gradient_correlation(output.clean, output.corrected),
            }
            measured.append(torch.stack(list(row.values()), dim=1))
        values = torch.cat(measured)
        table[name] = {
            column: float(values[:, i].median() if column.endswith("moves") else values[:, i].mean())
            for i, column in enumerate(row)
        }
    return table


def _detail(clean: torch.Tensor, image: torch.Tensor, uncorrected: torch.Tensor) -> torch.Tensor:
    """PSNR [B] to the clean image over the half of the pixels that the uncorrected image degrades least."""
    change = (clean - uncorrected).abs().mean(1, keepdim=True)
    mild = (change <= change.flatten(1).median(1)[0][:, None, None, None]).float()
    error = ((clean - image).square() * mild).sum((1, 2, 3)) / (3 * mild.sum((1, 2, 3)))
    return -10 * error.log10()


def _gradient_correlation(clean: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Correlation [B] of the differences between neighbouring pixels."""
    gradients = [torch.cat([i.diff(dim=2).flatten(1), i.diff(dim=3).flatten(1)], dim=1) for i in (clean, image)]
    first, second = (g - g.mean(1, keepdim=True) for g in gradients)
    return (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1)).clamp(min=1e-9)


def structure_sheet(pipeline: GenDegPipeline, photos: torch.Tensor, seed: int = 0) -> Image.Image:
    """Rows: a photograph and degradation each: clean, without and with structure correction, and the change times 8."""
    rows = []
    for row, (name, degradation) in enumerate(DEGRADATIONS.items()):
        mu, sigma = SHEET_INTENSITIES[name][1]
        generator = torch.Generator().manual_seed(seed)
        settings = {"structure_correction": True, "match_intensity": False, "output_size": "working"}
        output = pipeline(photos[row], name, mu=mu, sigma=sigma, generator=generator, **settings)
        before, after = output.uncorrected[0], output.corrected[0]
        change = np.asarray(after, dtype=np.int16) - np.asarray(before)
        policy = "on" if degradation.structure_correction else "off"
        cells = [(output.clean[0], "clean"), (before, f"{degradation.label}: off"), (after, f"on (policy: {policy})")]
        rows.append([*cells, (Image.fromarray((128 + 8 * change).clip(0, 255).astype(np.uint8)), "change x 8")])
    return tile(rows)


# ------------------------------------------------------------------------------------------------------ restorers


def evaluate_restorers(restorers: list[Restorer], photos: torch.Tensor, seed: int = 0) -> dict[str, dict[str, float]]:
    """Mean PSNR and SSIM of the degraded images, and what every restorer adds; for clean ones what it leaves.

    In the last row, of the clean photographs themselves, the numbers are not gains but PSNR and SSIM.
    """
    table = {}
    for name in [*DEGRADATIONS, "clean"]:
        degraded = photos if name == "clean" else simulated_pairs(photos, name, seed).degraded
        before = torch.stack([psnr(degraded, photos), ssim(degraded, photos)])
        row = {} if name == "clean" else {"psnr": float(before[0].mean()), "ssim": float(before[1].mean())}
        for restorer in restorers:
            results = torch.cat([restorer(batch) for batch in tqdm(degraded.split(8), desc=f"{restorer.name}, {name}")])
            after = torch.stack([psnr(results, photos), ssim(results, photos)])
            gain = (after if name == "clean" else after - before).mean(1)
            row |= {f"{restorer.name}_psnr": float(gain[0]), f"{restorer.name}_ssim": float(gain[1])}
        table[name] = row
    return table


def restorers_sheet(restorers: list[Restorer], files: list[Path]) -> Image.Image:
    """Rows: a photograph each, as it is and restored by every restorer."""
    rows = []
    for file in files:
        photo = resize_short_side(open_image(file), SIZE).crop((0, 0, SIZE, SIZE))
        rows.append([(photo, "as it is"), *((restorer(photo), restorer.name) for restorer in restorers)])
    return tile(rows)


# ----------------------------------------------------------------------------------------------------------- main


def tile(rows: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    """Labelled images of SIZE in rows and columns."""
    caption, gap = 20, 4
    font = ImageFont.load_default(13)
    sheet = Image.new("RGB", (len(rows[0]) * (SIZE + gap) - gap, len(rows) * (SIZE + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (image, label) in enumerate(row):
            sheet.paste(image, (x * (SIZE + gap), y * (SIZE + caption)))
            draw.text((x * (SIZE + gap) + 3, y * (SIZE + caption) + SIZE + 2), label, fill="black", font=font)
    return sheet


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sheets = ("sheet", "structure-sheet", "restorers-sheet")
    parser.add_argument("what", choices=("codec", "control", "structure", "restorers", *sheets))
    parser.add_argument("--photos", type=Path, help="folder of clean test photographs (default: procedural scenes)")
    parser.add_argument("--model", default="compact", help="generator: bundled name, folder or Hub repository")
    parser.add_argument("--restorers", nargs="+", help="names or files (default: all that are bundled)")
    parser.add_argument("--limit", type=int, help="use only so many photographs")
    parser.add_argument("--choose", type=int, nargs="+", help="sheets: which photograph for each row")
    parser.add_argument("--output", type=Path, help="where to write the figures (JSON) or the sheet (PNG)")
    args = parser.parse_args()
    if args.output and not args.output.parent.is_dir():
        parser.error(f"There is no folder {args.output.parent} to write {args.output.name} to.")
    files = Photos(args.photos).files
    model = _restorers(args.restorers) if args.what.startswith("restorers") else load_pipeline(args.model)
    if args.what == "restorers-sheet":
        if not files:
            parser.error("restorers-sheet needs --photos, a folder of degraded photographs.")
        chosen = _chosen(files, args.choose) if args.choose else files[: args.limit or 6]
        write_image(restorers_sheet(model, chosen), args.output or "sheet.png")
        return
    photos = evaluation_squares(args.photos)[: args.limit]
    if args.what in sheets:
        photos = torch.stack(_chosen(photos, args.choose)) if args.choose else photos
        if len(photos) < len(DEGRADATIONS) or (args.choose and len(photos) > len(DEGRADATIONS)):
            parser.error(f"A sheet shows {len(DEGRADATIONS)} photographs, one for each row; here are {len(photos)}.")
        sheet = contact_sheet if args.what == "sheet" else structure_sheet
        write_image(sheet(model, photos), args.output or "sheet.png")
        return
    if args.what == "restorers":
        result = evaluate_restorers(model, photos)
    elif args.what == "structure":
        result = evaluate_structure(model, photos)
    elif args.what == "control":
        result = evaluate_control(model, photos)
    else:
        result = {"codec": evaluate_codec(model, photos)}
    print_table(result)
    if args.output:
        # JSON knows no infinity, the PSNR of an image that is left as it was.
        finite = {n: {c: v if math.isfinite(v) else None for c, v in row.items()} for n, row in result.items()}
        write_whole(args.output, (json.dumps(finite, indent=1) + "\n").encode())


def _chosen(photos: Sequence[Any], choose: list[int]) -> list[Any]:
    if not all(0 <= i < len(photos) for i in choose):
        raise UserError(f"--choose takes numbers from 0 to {len(photos) - 1}, of {len(photos)} photographs.")
    return [photos[i] for i in choose]


def _restorers(names: list[str] | None) -> list[Restorer]:
    names = names or list(available())
    if not names:
        raise UserError("There are no restorers yet. Train one, or name a file with --restorers.")
    restorers = [load_restorer(name) for name in names]
    called = [restorer.name for restorer in restorers]
    for restorer, name in zip(restorers, names, strict=True):
        if called.count(restorer.name) > 1:  # every trained one lies in a folder `restorer`
            restorer.name = str(name)
    return restorers


if __name__ == "__main__":
    sys.exit(main())
