"""Measures what the models reach and draws it: python -m training.evaluate codec|control|sheet --photos DIR

- `codec`: PSNR of the codec's round trip.
- `control`: asked against reached intensity, per degradation.
- `sheet`: a contact sheet, six degradations at three intensities.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import spearmanr
from tqdm import tqdm

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import IntensityPrior
from training.photos import Photos, centre_square

SIZE = 256
SHEET_INTENSITIES = {
    "haze": ((0.06, 0.04), (0.12, 0.08), (0.21, 0.11)),
    "rain": ((0.03, 0.05), (0.07, 0.08), (0.15, 0.10)),
    "snow": ((0.03, 0.07), (0.07, 0.10), (0.15, 0.13)),
    "motion_blur": ((0.015, 0.025), (0.035, 0.045), (0.06, 0.065)),
    "raindrop": ((0.015, 0.05), (0.04, 0.09), (0.09, 0.12)),
    "low_light": ((0.10, 0.07), (0.20, 0.13), (0.28, 0.18)),
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
    psnr = []
    for photo in tqdm(photos.split(8), desc="codec"):
        latents = pipeline.encode(photo.to(pipeline.device, pipeline.dtype))
        restored = pipeline.decode(latents * pipeline.vae.config.scaling_factor).cpu()
        psnr.append(-10 * (restored - photo).square().mean((1, 2, 3)).log10())
    psnr = torch.cat(psnr)
    return {"photographs": len(psnr), "psnr_mean": float(psnr.mean()), "psnr_worst": float(psnr.min())}


def evaluate_control(pipeline: GenDegPipeline, photos: torch.Tensor, seed: int = 0) -> dict[str, dict[str, float]]:
    """Ask every photograph for one intensity drawn from the prior, per degradation, and measure what is reached."""
    prior = IntensityPrior()
    table = {}
    for name in DEGRADATIONS:
        rng = np.random.default_rng(seed)
        asked = np.array([prior.sample(name, rng)[:2] for _ in range(len(photos))])
        reached = []
        for chunk in tqdm(range(0, len(photos), 8), desc=name):
            part = slice(chunk, chunk + 8)
            generators = [torch.Generator().manual_seed(seed + i) for i in range(*part.indices(len(photos)))]
            output = pipeline(
                photos[part], name, mu=asked[part, 0], sigma=asked[part, 1], generator=generators, output_type="pt"
            )
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
        print(f"| {name.replace('_', ' ')} | " + " | ".join(f"{values[c]:.3f}" for c in columns) + " |")


def contact_sheet(pipeline: GenDegPipeline, photos: torch.Tensor, seed: int = 0) -> Image.Image:
    """Rows: a photograph each, clean and at three intensities of one degradation, labelled with what was reached."""
    caption, gap = 20, 4
    font = ImageFont.load_default(13)
    sheet = Image.new("RGB", (4 * (SIZE + gap) - gap, len(DEGRADATIONS) * (SIZE + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, degradation) in enumerate(DEGRADATIONS.items()):
        mus, sigmas = zip(*SHEET_INTENSITIES[name], strict=True)
        photo = photos[row].expand(3, -1, -1, -1)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(3)]
        output = pipeline(photo, name, mu=mus, sigma=sigmas, generator=generators)
        labels = [
            f"{degradation.label}: mu {m:.3f}  sigma {s:.3f}" for m, s in zip(output.mu, output.sigma, strict=True)
        ]
        for column, (image, label) in enumerate(
            zip([output.clean[0], *output.images], ["clean", *labels], strict=True)
        ):
            x, y = column * (SIZE + gap), row * (SIZE + caption)
            sheet.paste(image, (x, y))
            draw.text((x + 3, y + SIZE + 2), label, fill="black", font=font)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("codec", "control", "sheet"))
    parser.add_argument("--photos", type=Path, help="folder of clean test photographs (default: procedural scenes)")
    parser.add_argument("--model", default="compact", help="bundled name, folder or Hub repository")
    parser.add_argument("--limit", type=int, help="use only so many photographs")
    parser.add_argument("--choose", type=int, nargs=6, help="sheet: which photograph for each row")
    parser.add_argument("--output", type=Path, help="where to write the figures (JSON) or the sheet (PNG)")
    args = parser.parse_args()
    pipeline = load_pipeline(args.model)
    photos = evaluation_squares(args.photos)[: args.limit]
    if args.what == "sheet":
        photos = photos[args.choose] if args.choose else photos
        contact_sheet(pipeline, photos).save(args.output or "sheet.png")
        return
    if args.what == "codec":
        result = evaluate_codec(pipeline, photos)
        print_table({"codec": result})
    else:
        result = evaluate_control(pipeline, photos)
        print_table(result)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
