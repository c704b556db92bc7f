"""Does a degradation stay what it is on a large photograph, and what does that cost? A table, a row a degradation.

python -m training.benchmarks.detail [--photos DIR] [--count N]

Photographs are brought to 4000 x 3000 pixels; enlarged ones, which have no detail of that size, are given grain.
Columns, each the worst over the photographs:
- seconds, cpu_seconds: for everything after the picture at working size; the second is of all cores together.
- agreement_db: PSNR between the result, shrunk to working size, and the picture made there.
- calm_detail: gradient energy in the half of the pixels that changed least at working size, against the photograph's.
- against_contrast: the same, against the photograph's times the square of the contrast left there at working size.
- rough_detail: gradient energy in the other half; low for a blur, which must stay one.
- peak_gib: most memory of the whole process so far, models included.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image, ImageOps

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.detail import mean_around
from gendeg.image_forms import resize
from gendeg.pipeline import GenDegPipeline
from restorers.metrics import psnr
from runtime.images import open_image
from training.evaluate.__main__ import markdown
from training.photos import Photos

SIZE = (4000, 3000)
GRAIN = 0.012  # deviation
WORST_IS_HIGHEST = {"seconds", "cpu_seconds", "rough_detail", "peak_gib"}


def large_photograph(file: Path) -> torch.Tensor:
    """An image file as uint8 tensor [3, H, W] of SIZE, cropped and resized."""
    image = open_image(file)
    enlarged = image.width * image.height < SIZE[0] * SIZE[1]
    pixels = torch.from_numpy(np.array(ImageOps.fit(image, SIZE, Image.Resampling.LANCZOS))).permute(2, 0, 1)
    if enlarged:
        grain = torch.randn(SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(0)) * 255 * GRAIN
        pixels = torch.stack([(channel + grain).round_().clamp_(0, 255).byte() for channel in pixels])
    return pixels.contiguous()


def local_contrast(image: torch.Tensor) -> torch.Tensor:
    """Deviation in squares of 19 pixels, over colours together: [3, h, w] to [1, h, w]."""
    return (mean_around(image**2, 9) - mean_around(image, 9) ** 2).clamp(min=0).mean(0, keepdim=True).sqrt()


def gradient_energy(image: torch.Tensor) -> torch.Tensor:
    """Squared differences to the next pixel below and to the right: uint8 [3, H, W] to float [H - 1, W - 1]."""
    energy = torch.zeros(image.shape[1] - 1, image.shape[2] - 1)
    for channel in image:
        values = channel.float()
        energy += (values[1:, :-1] - values[:-1, :-1]) ** 2 + (values[:-1, 1:] - values[:-1, :-1]) ** 2
    return energy


def measure(pipeline: GenDegPipeline, photo: torch.Tensor, degradation: str) -> dict[str, float]:
    """One photograph, uint8 [3, H, W], through the pipeline and up to its own size: the columns of the table."""
    height, width = photo.shape[1:]
    size = pipeline.working_size(height, width)
    mu, sigma = DEGRADATIONS[degradation].typical
    timed = {}
    for output_size in ("working", "photo"):
        generator = torch.Generator().manual_seed(0)
        started, cpu_started = time.perf_counter(), time.process_time()
        output = pipeline(
            photo, degradation, mu=mu, sigma=sigma, generator=generator, output_size=output_size, output_type="pt"
        )
        timed[output_size] = time.perf_counter() - started, time.process_time() - cpu_started, output
    seconds, cpu_seconds = (timed["photo"][i] - timed["working"][i] for i in range(2))
    output, result = timed["working"][2], (timed["photo"][2].images[0] * 255).round().byte()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    small, degraded = output.clean[0], output.images[0]
    change = (degraded - small).abs().mean(0, keepdim=True)
    calm = resize((change <= change.median()).float(), (height, width))[0, 1:, 1:] > 0.5
    contrast = (local_contrast(degraded) / local_contrast(small).clamp(min=1e-3)).clamp(max=1)
    left, before = gradient_energy(result), gradient_energy(photo)
    expected = before * resize(contrast, (height, width))[0, 1:, 1:] ** 2
    shrunk = resize(result.float() / 255, size).clamp(0, 1)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "agreement_db": float(psnr(shrunk[None], degraded[None])),
        "calm_detail": float(left[calm].sum() / before[calm].sum()),
        "against_contrast": float(left[calm].sum() / expected[calm].sum()),
        "rough_detail": float(left[~calm].sum() / before[~calm].sum()),
        "peak_gib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs, large ones best (default: skimage's own)")
    parser.add_argument("--count", type=int, default=3, help="how many of them (%(default)s)")
    args = parser.parse_args()
    if args.photos:
        files = Photos(args.photos).files[: args.count]
    else:
        names = ("coffee.png", "rocket.jpg", "motorcycle_left.png", "astronaut.png", "chelsea.png")
        files = [Path(skimage.data_dir) / name for name in names[: args.count]]
    pipeline = load_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    print(f"{torch.get_num_threads()} threads, {SIZE[0]} x {SIZE[1]} pixels: {', '.join(file.name for file in files)}")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in DEGRADATIONS}
    for file in files:
        photo = large_photograph(file)
        for name, measured in rows.items():
            measured.append(measure(pipeline, photo, name))
            print(f"{file.name}, {name} measured", flush=True)
    worst = {
        name: {
            column: (max if column in WORST_IS_HIGHEST else min)(m[column] for m in measured) for column in measured[0]
        }
        for name, measured in rows.items()
    }
    print(markdown(worst))


if __name__ == "__main__":
    main()
