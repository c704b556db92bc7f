"""Does an image cost the same however many there are already? Time of the last images of a data set against the first.

python -m training.benchmarks.create_dataset [--count 5000] [--span 500]

Runs `training.create_dataset` with a model so small that reading, writing and bookkeeping are what is measured. Times
are those at which the images appear on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from gendeg.codec import PatchCodec
from gendeg.scheduler import BridgeScheduler
from training import create_dataset
from training.generator.bridge import Generator, save_pipeline
from training.generator.tokenizer import train_tokenizer

RECIPE = Path(__file__).parents[1] / "recipes" / "generator-smoke.yaml"
SIZE = 64  # pixels of each side of a photograph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="images to generate (%(default)s)")
    parser.add_argument("--span", type=int, default=500, help="how many first and last ones to compare (%(default)s)")
    args = parser.parse_args()
    if args.span < 2 or 2 * args.span > args.count:
        parser.error("--count must be at least twice --span, which must be at least 2")
    with tempfile.TemporaryDirectory() as folder:
        model, clean, output = (Path(folder) / name for name in ("model", "clean", "output"))
        photographs = _photographs(clean, args.count)
        stub_model(model, photographs * 2 - 1)
        command = ["--clean", str(clean), "--output", str(output), "--model", str(model), "--degradations", "rain"]
        with contextlib.redirect_stdout(sys.stderr):
            if create_dataset.main([*command, "--steps", "1"]):
                raise SystemExit("The data set was not made.")
        times = np.sort([file.stat().st_mtime for file in (output / "train" / "degraded").rglob("*.png")])
    span = args.span
    if len(times) < 2 * span:
        raise SystemExit(f"Only {len(times)} images were accepted; too few to compare the first and last {span}.")
    first, last = (times[span - 1] - times[0]) / (span - 1), (times[-1] - times[-span]) / (span - 1)
    print(f"{len(times)} images on {os.cpu_count()} CPUs, {torch.get_num_threads()} threads")
    print(f"first {span}: {first * 1000:.2f} ms an image; last {span}: {last * 1000:.2f} ms; ratio {last / first:.3f}")


def _photographs(folder: Path, count: int) -> torch.Tensor:
    """Write `count` soft random images; returns 16 of them as float tensor [16, 3, SIZE, SIZE] in [0, 1]."""
    folder.mkdir()
    rng, some = np.random.default_rng(0), []
    for number in range(count):
        colours = Image.fromarray(rng.integers(64, 192, (4, 4, 3), dtype=np.uint8))
        image = colours.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06}.png")
        if number < 16:
            some.append(np.asarray(image))
    return torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float() / 255


def stub_model(folder: Path, photographs: torch.Tensor) -> None:
    """Write a pipeline with random weights and a codec that knows the photographs, [B, 3, H, W] in [-1, 1]."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    torch.manual_seed(0)
    codec = PatchCodec(latent_channels=16, width=16, depth=1)
    codec.initialise_from(photographs)
    tokenizer = train_tokenizer(recipe["model"]["text"]["max_position_embeddings"])
    model = Generator(recipe["model"], 16, len(tokenizer), tokenizer.eos_token_id)
    save_pipeline(model, codec, tokenizer, BridgeScheduler(), recipe["pipeline"], folder)


if __name__ == "__main__":
    main()
