"""Measures what the models reach and draws it: python -m training.evaluate WHAT --photos DIR

- `codec`: PSNR of the codec's round trip.
- `control`: asked against reached intensity, per degradation, without matching: the network's own control;
  with --physics that of the pictures as the compact model delivers them.
- `mixtures`: the same of the second of two degradations, for every pair of them, and what both come to together.
- `held-back`: real pairs (--pairs) whose scenes training leaves out: how near to them the generator comes, and how near
  the simulators.
- `sheet`: a contact sheet, six degradations at three intensities.
- `structure`: what structure correction changes, in one-step predictions and in full generation.
- `structure-sheet`: all six degradations, without and with structure correction.
- `restorers`: gain in PSNR and SSIM on simulated pairs, per degradation and restorer.
- `own`: the same on pairs of the generator, at typical and at real intensities.
- `estimator`: how often the estimator names the degradation, and how far its mu and sigma are off: on simulated
  pairs, on held-back --pairs, and on photographs in --real, whose folders are named by degradation.
- `robustness`: how far restorers come as mu rises to what real data hold, per degradation (--degradation).
- `published`: PSNR and SSIM on folders of pairs (--pairs) at their own size, per data set: as they are, and restored;
  and LPIPS where torchmetrics and torchvision are installed. Of pairs that name their scene those that training leaves
  out.
- `noise-space`: whether the denoiser of an adaptation (--adaptation, its output) predicts noise better the better the
  real photographs it sees are restored, on held-back --pairs.
- `restorers-sheet`: photographs as they are (real ones, say), beside what every restorer makes of them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.estimator import BUNDLED, load_estimator
from restorers.registry import Restorer, available, load_restorer
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.images import write_image
from training.command_line import command_line, listing
from training.evaluate.codec import evaluate_codec
from training.evaluate.control import evaluate_control
from training.evaluate.estimator import evaluate_estimator
from training.evaluate.held_back import evaluate_held_back
from training.evaluate.inputs import evaluation_squares, generated, simulated
from training.evaluate.mixtures import evaluate_mixtures
from training.evaluate.noise_space import evaluate_noise_space, load_denoiser
from training.evaluate.published import evaluate_published, load_lpips
from training.evaluate.restorers import evaluate_restorers
from training.evaluate.robustness import evaluate_robustness
from training.evaluate.sheets import contact_sheet, restorers_sheet, structure_sheet
from training.evaluate.structure import evaluate_structure
from training.pair_folders import PairFolders
from training.photos import Photos


@command_line
def main() -> None:
    """Measure or draw what the command line asks for; print the table, write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sheets = ("sheet", "structure-sheet", "restorers-sheet")
    tables = ("codec", "control", "mixtures", "held-back", "structure", "restorers", "own", "robustness", "published")
    tables += ("noise-space", "estimator")
    parser.add_argument("what", choices=(*tables, *sheets))
    parser.add_argument("--physics", action="store_true", help="control: keep to the rules of gendeg/physics.py")
    parser.add_argument("--photos", type=Path, help="folder of clean test photographs (default: procedural scenes)")
    parser.add_argument("--pairs", type=Path, nargs="+", help="held-back, published, noise-space: folders of pairs")
    parser.add_argument("--adaptation", type=Path, help="noise-space: what training.noise_space_adaptation wrote")
    parser.add_argument("--real", type=Path, help="estimator: folder of folders of real photographs, haze, rain ...")
    parser.add_argument("--estimator", type=Path, default=BUNDLED, help="estimator: its folder (default: bundled)")
    parser.add_argument("--model", default="compact", help="generator: bundled name, folder or Hub repository")
    parser.add_argument("--restorers", nargs="+", help="names or files (default: all that are bundled)")
    parser.add_argument(
        "--degradation", nargs="+", choices=list(DEGRADATIONS), help="robustness: which (default: all six)"
    )
    parser.add_argument("--all-scenes", action="store_true", help="published: also what training learns from")
    parser.add_argument("--luma", action="store_true", help="published: also PSNR and SSIM of the luma (Y of YCbCr)")
    parser.add_argument("--limit", type=int, help="use only so many photographs, or scenes or pairs of each data set")
    parser.add_argument("--choose", type=int, nargs="+", help="sheets: which photograph for each row")
    parser.add_argument("--output", type=Path, help="where to write the figures (JSON) or the sheet (PNG)")
    args = parser.parse_args()
    if args.output and not args.output.parent.is_dir():
        parser.error(f"There is no folder {args.output.parent} to write {args.output.name} to.")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit takes a number from 1.")
    needs_pairs, takes_pairs = ("held-back", "published", "noise-space"), ("estimator",)
    if args.what not in takes_pairs and (args.what in needs_pairs) != bool(args.pairs):
        parser.error("--pairs names the folders of pairs that held-back, published and noise-space are measured on.")
    if (args.what == "noise-space") != bool(args.adaptation):
        parser.error("--adaptation names what noise-space is measured of.")
    files = Photos(args.photos).files
    restoring = ("restorers", "restorers-sheet", "own", "robustness", "published")
    generating = ("codec", "control", "mixtures", "held-back", "structure", "own", "robustness", "sheet")
    generating += ("structure-sheet",)
    restorers = _restorers(args.restorers) if args.what in restoring else []
    model = load_pipeline(args.model) if args.what in generating else None
    if args.what == "published":
        _published(restorers, args)
        return
    if args.what == "restorers-sheet":
        if not files:
            parser.error("restorers-sheet needs --photos, a folder of degraded photographs.")
        chosen = _chosen(files, args.choose) if args.choose else files[: args.limit or 6]
        write_image(restorers_sheet(restorers, chosen), args.output or "sheet.png")
        return
    if args.what == "held-back":
        photos = PairFolders(args.pairs, scenes="held_back")
    else:
        photos = evaluation_squares(args.photos)[: args.limit]
    if args.what in sheets:
        photos = torch.stack(_chosen(photos, args.choose)) if args.choose else photos
        if len(photos) < len(DEGRADATIONS) or (args.choose and len(photos) > len(DEGRADATIONS)):
            parser.error(f"A sheet shows {len(DEGRADATIONS)} photographs, one for each row; here are {len(photos)}.")
        sheet = contact_sheet if args.what == "sheet" else structure_sheet
        write_image(sheet(model, photos), args.output or "sheet.png")
        return
    if args.what == "robustness":
        result = evaluate_robustness(restorers, model, photos, args.degradation or list(DEGRADATIONS))
        _print_tables(result)
        _write(args.output, result)
        return
    if args.what == "restorers":
        result = evaluate_restorers(restorers, photos, simulated(photos))
    elif args.what == "noise-space":
        adapted, held_back = load_restorer(args.adaptation / "restorer"), PairFolders(args.pairs, scenes="held_back")
        result = evaluate_noise_space(load_denoiser(args.adaptation), adapted, photos, held_back, args.limit)
    elif args.what == "own":
        result = evaluate_restorers(restorers, photos, generated(model, photos))
    elif args.what == "estimator":
        held_back = PairFolders(args.pairs, scenes="held_back") if args.pairs else None
        result = evaluate_estimator(load_estimator(args.estimator), photos, held_back, args.real)
    elif args.what == "held-back":
        result = evaluate_held_back(model, photos, args.limit)
    elif args.what == "structure":
        result = evaluate_structure(model, photos)
    elif args.what == "control":
        result = evaluate_control(model, photos, physics=args.physics)
    elif args.what == "mixtures":
        result = evaluate_mixtures(model, photos)
    else:
        result = {"codec": evaluate_codec(model, photos)}
    print(markdown(result))
    _write(args.output, result)


def markdown(rows: dict[str, dict[str, float | None]]) -> str:
    """A table: a row a key, a column a measure; empty where there is none."""
    columns = list(next(iter(rows.values())))
    lines = [["", *(c.replace("_", " ") for c in columns)], ["---"] * (len(columns) + 1)]
    for name, values in rows.items():
        numbers = (values.get(c) for c in columns)
        cells = ("" if n is None else str(n) if isinstance(n, int) else f"{n:.3f}" for n in numbers)
        lines.append([name.replace("_", " "), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _published(restorers: list[Restorer], args: argparse.Namespace) -> None:
    """Print a table per data set, write them; at last say what could not be measured."""
    faults: list[str] = []
    lpips = load_lpips()
    result = evaluate_published(restorers, args.pairs, faults, args.all_scenes, args.limit, args.luma, lpips)
    _print_tables(result)
    if not lpips:
        print("\nLPIPS: not available. It needs torchmetrics and torchvision, and the weights that they download.")
    _write(args.output, result)
    if faults:
        raise UserError(f"Not all could be measured:{listing(faults)}")


def _print_tables(tables: dict[str, dict[str, dict[str, float | None]]]) -> None:
    for name, table in tables.items():
        print(f"\n### {name}\n\n{markdown(table)}")


def _write(output: Path | None, result: dict[str, Any]) -> None:
    """As JSON, if there is a place for it."""

    def finite(value: Any) -> Any:
        """JSON knows no infinity, the PSNR of an image that is left as it was."""
        if isinstance(value, dict):
            return {name: finite(inner) for name, inner in value.items()}
        return value if value is None or math.isfinite(value) else None

    if output:
        write_whole(output, (json.dumps(finite(result), indent=1) + "\n").encode())


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
