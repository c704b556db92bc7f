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
- `claim`: the paper's claim from scratch, by many trainings, with options of its own: claim --help.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from gendeg.estimator import BUNDLED, load_estimator
from gendeg.pipeline import GenDegPipeline
from restorers.registry import Restorer, available, load_restorer
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.images import write_image
from training.claim.command import command as claim
from training.claim.tables import markdown as table_of
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
def main() -> int | None:
    """Measure or draw what the command line asks for; print the table, write the file."""
    if sys.argv[1:2] == ["claim"]:  # has options of its own
        return claim(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=(*TABLES, *TABLES_OF_EACH, *SHEETS))
    parser.add_argument("--physics", action="store_true", help="control: keep to the rules of gendeg/physics.py")
    parser.add_argument("--photos", type=Path, help="folder of clean test photographs (default: procedural scenes)")
    parser.add_argument("--pairs", type=Path, nargs="+", help=f"folders of pairs: {', '.join(_NEED_PAIRS)}, estimator")
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
    frechet = "published: also the Frechet distance to the clean images, on the bundled estimator's features"
    parser.add_argument("--frechet", action="store_true", help=frechet)
    parser.add_argument("--limit", type=int, help="use only so many photographs, or scenes or pairs of each data set")
    parser.add_argument("--choose", type=int, nargs="+", help="sheets: which photograph for each row")
    parser.add_argument("--output", type=Path, help="where to write the figures (JSON) or the sheet (PNG)")
    args = parser.parse_args()
    if args.output and not args.output.parent.is_dir():
        parser.error(f"There is no folder {args.output.parent} to write {args.output.name} to.")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit takes a number from 1.")
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    for name in given - {"what", "output"} - set(_TAKES[args.what].split()):
        takes = " and ".join(f"--{option}" for option in _TAKES[args.what].replace("_", "-").split())
        parser.error(f"--{name.replace('_', '-')} has no effect on {args.what}, which takes {takes}.")
    if args.what in _NEED_PAIRS and not args.pairs:
        parser.error(f"--pairs names the folders of pairs that {', '.join(_NEED_PAIRS)} are measured on.")
    if args.what == "noise-space" and not args.adaptation:
        parser.error("--adaptation names what noise-space is measured of.")
    if args.what in SHEETS:
        write_image(SHEETS[args.what](args), args.output or "sheet.png")
        return None
    faults: list[str] = []
    if args.what in TABLES:
        result = TABLES[args.what](args)
        print(markdown(result))
    else:
        result = TABLES_OF_EACH[args.what](args, faults)
        for name, table in result.items():
            print(f"\n### {name}\n\n{markdown(table)}")
    _write(args.output, result)
    if faults:
        raise UserError(f"Not all could be measured:{listing(faults)}")
    return None


# -------------------------------------------------------------------------------------------- what can be asked for


def _model(args: argparse.Namespace) -> GenDegPipeline:
    return load_pipeline(args.model)


def _squares(args: argparse.Namespace) -> torch.Tensor:
    return evaluation_squares(args.photos)[: args.limit]


def _held_back(args: argparse.Namespace) -> PairFolders:
    return PairFolders(args.pairs, scenes="held_back")


def _of_restorers(args: argparse.Namespace) -> Table:
    restorers, photos = _restorers(args.restorers), _squares(args)
    return evaluate_restorers(restorers, photos, simulated(photos))


def _of_own(args: argparse.Namespace) -> Table:
    restorers, photos = _restorers(args.restorers), _squares(args)
    return evaluate_restorers(restorers, photos, generated(_model(args), photos))


def _of_noise_space(args: argparse.Namespace) -> Table:
    denoiser, adapted = load_denoiser(args.adaptation), load_restorer(args.adaptation / "restorer")
    return evaluate_noise_space(denoiser, adapted, _squares(args), _held_back(args), args.limit)


def _of_estimator(args: argparse.Namespace) -> Table:
    pairs = _held_back(args) if args.pairs else None
    return evaluate_estimator(load_estimator(args.estimator), _squares(args), pairs, args.real)


def _of_published(args: argparse.Namespace, faults: list[str]) -> dict[str, Table]:
    restorers, lpips = _restorers(args.restorers), load_lpips()
    if not lpips:
        print("LPIPS: not available. It needs torchmetrics and torchvision, and the weights that they download.")
    settings = args.all_scenes, args.limit, args.luma, lpips, args.frechet
    return evaluate_published(restorers, args.pairs, faults, *settings)


def _of_robustness(args: argparse.Namespace, _: list[str]) -> dict[str, Table]:
    restorers, kinds = _restorers(args.restorers), args.degradation or list(DEGRADATIONS)
    return evaluate_robustness(restorers, _model(args), _squares(args), kinds)


def _sheet(draw: Callable[..., Image.Image], args: argparse.Namespace) -> Image.Image:
    photos = _squares(args)
    photos = torch.stack(_chosen(photos, args.choose)) if args.choose else photos
    if len(photos) < len(DEGRADATIONS) or (args.choose and len(photos) > len(DEGRADATIONS)):
        raise UserError(f"A sheet shows {len(DEGRADATIONS)} photographs, one for each row; here are {len(photos)}.")
    return draw(_model(args), photos)


def _restorers_sheet(args: argparse.Namespace) -> Image.Image:
    files = Photos(args.photos).files
    if not files:
        raise UserError("restorers-sheet needs --photos, a folder of degraded photographs.")
    chosen = _chosen(files, args.choose) if args.choose else files[: args.limit or 6]
    return restorers_sheet(_restorers(args.restorers), chosen)


Table = dict[str, dict[str, float | None]]
_TAKES = {  # besides --output
    "codec": "model photos limit",
    "control": "model photos limit physics",
    "mixtures": "model photos limit",
    "held-back": "model pairs limit",
    "structure": "model photos limit",
    "restorers": "restorers photos limit",
    "own": "restorers model photos limit",
    "noise-space": "adaptation pairs photos limit",
    "estimator": "estimator pairs photos real limit",
    "published": "restorers pairs all_scenes luma frechet limit",
    "robustness": "restorers model degradation photos limit",
    "sheet": "model photos choose limit",
    "structure-sheet": "model photos choose limit",
    "restorers-sheet": "restorers photos choose limit",
}
_NEED_PAIRS = ("held-back", "published", "noise-space")
TABLES: dict[str, Callable[[argparse.Namespace], Table]] = {
    "codec": lambda args: {"codec": evaluate_codec(_model(args), _squares(args))},
    "control": lambda args: evaluate_control(_model(args), _squares(args), physics=args.physics),
    "mixtures": lambda args: evaluate_mixtures(_model(args), _squares(args)),
    "held-back": lambda args: evaluate_held_back(_model(args), _held_back(args), args.limit),
    "structure": lambda args: evaluate_structure(_model(args), _squares(args)),
    "restorers": _of_restorers,
    "own": _of_own,
    "noise-space": _of_noise_space,
    "estimator": _of_estimator,
}
TABLES_OF_EACH: dict[str, Callable[[argparse.Namespace, list[str]], dict[str, Table]]] = {
    "published": _of_published,  # data set
    "robustness": _of_robustness,  # degradation
}
SHEETS: dict[str, Callable[[argparse.Namespace], Image.Image]] = {
    "sheet": partial(_sheet, contact_sheet),
    "structure-sheet": partial(_sheet, structure_sheet),
    "restorers-sheet": _restorers_sheet,
}


def markdown(rows: dict[str, dict[str, float | None]]) -> str:
    """A table: a row a key, a column a measure; empty where there is none."""
    columns = list(next(iter(rows.values())))
    lines = []
    for name, values in rows.items():
        numbers = (values.get(c) for c in columns)
        cells = ("" if n is None else str(n) if isinstance(n, int) else f"{n:.3f}" for n in numbers)
        lines.append([name.replace("_", " "), *cells])
    return table_of(["", *(c.replace("_", " ") for c in columns)], lines)


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
