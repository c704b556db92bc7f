"""Trains a generator: python -m training.generator training/recipes/generator-compact.yaml --photos DIR --codec DIR

A recipe that names Stable Diffusion is trained as the paper does (training/generator/stable_diffusion.py); any other
trains the compact profile's bridge from random initialisation (training/generator/bridge.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from gendeg.importer import check_repository, push_folder
from training.command_line import FIRST_STAGE, PAIRS, command_line, read_recipe
from training.generator import bridge, stable_diffusion
from training.loop import processes


@command_line
def main() -> None:
    """Read the recipe and the command line, train, and upload the pipeline folder if asked."""
    options = {
        "--codec": {"type": Path, "help": "folder of the trained codec"},
        "--initial": {"help": "what to start from: a pipeline folder; or Stable Diffusion 1.5, a folder or on the Hub"},
        **PAIRS,
        **FIRST_STAGE,
        "--push-to-hub": {"metavar": "OWNER/NAME", "help": "upload the result there"},
    }
    recipe, args = read_recipe(__doc__, options)
    if args.push_to_hub:
        check_repository(args.push_to_hub)
    run = stable_diffusion.run if "stable_diffusion" in recipe else bridge.run
    run(recipe, args)
    if args.push_to_hub and processes().is_main_process:
        push_folder(args.output / "pipeline", args.push_to_hub)


if __name__ == "__main__":
    sys.exit(main())
