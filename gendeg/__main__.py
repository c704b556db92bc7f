"""Degrades one photograph: python -m gendeg photo.jpg --degradation haze -o hazy.png

Prints the asked and the reached intensity. What is not given of --mu and --sigma is drawn, to
fit what is, the way real data sets have them. A mixture: --degradation rain+haze --mu 0.1,0.05
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from gendeg.checkpoints import PRESETS, load_pipeline, quiet
from gendeg.degradations import DEGRADATIONS
from gendeg.mixture import MAX_PARTS, parts_of
from gendeg.prior import PRIOR
from gendeg.request import MAX_SEED, STRUCTURE_CORRECTION, Result, degrade, read_request, resolutions
from runtime.errors import UserError
from runtime.images import check_output, shown, write_image


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after a sentence on stderr."""
    args = _parser().parse_args(arguments)
    quiet()
    try:
        inputs, outputs = [args.photo, args.mask], [args.output, args.clean_output]
        _check_outputs([file for file in inputs if file], [file for file in outputs if file])
        first, *also = _parts(args.degradation, args.mu, args.sigma, args.seed)
        request = read_request(
            str(args.photo), *first, args.seed, args.steps, None, None, args.resolution, args.output_size,
            args.caption, args.structure_correction, also=also, mask=args.mask and str(args.mask),
        )  # fmt: skip
        for note in request.photo.info.get("notes", ()):
            print(f"{shown(args.photo)}: {note}.", file=sys.stderr)
        result = degrade(load_pipeline(args.model, preset=args.preset), [request])[0]
        write_image(result.degraded, args.output)
        if args.clean_output:
            write_image(result.clean, args.clean_output)
    except UserError as error:
        print(f"gendeg: {error}", file=sys.stderr)
        return 2
    _report(result)
    return 0


def _parts(
    degradation: str, mu: list[float] | None, sigma: list[float] | None, seed: int
) -> list[tuple[str, float, float]]:
    """(degradation, mu, sigma) of each, the latter drawn where none are given."""
    names, rng = parts_of(degradation), np.random.default_rng(abs(seed))
    for option, values in (("--mu", mu), ("--sigma", sigma)):
        if values is not None and len(values) != len(names):
            raise UserError(
                f"{option} gives {len(values)} values for {len(names)} degradations. Give one for each, with commas "
                f"between them, or leave {option} out."
            )
    asked = zip(names, mu or [None] * len(names), sigma or [None] * len(names), strict=True)
    return [(name, *PRIOR.complete(name, rng, *intensity)) for name, *intensity in asked]


def _report(result: Result) -> None:
    request = result.request
    if not request.also:
        print(f"asked    mu {request.mu:.4f}  sigma {request.sigma:.4f}")
    for part, reached in zip(request.parts, result.parts, strict=False):
        print(
            f"{part.degradation}: asked mu {part.mu:.4f}  sigma {part.sigma:.4f}, "
            f"reached mu {reached.mu:.4f}  sigma {reached.sigma:.4f}"
        )
    what = "together" if request.also else "reached "
    print(f"{what} mu {result.mu:.4f}  sigma {result.sigma:.4f}")
    width, height = result.degraded.size
    print(f"at {width} x {height}  mu {result.delivered_mu:.4f}  sigma {result.delivered_sigma:.4f}")
    if result.inside:
        print("inside the mask  mu {:.4f}  sigma {:.4f}".format(*result.inside))


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor several with commas between them") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gendeg", description=__doc__.partition("\n")[0])
    parser.add_argument("photo", type=Path, help="a clean photograph")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the degraded image, e.g. out.png")
    parser.add_argument("--clean-output", type=Path, help="the ground truth that pairs with it, pixel by pixel")
    parser.add_argument(
        "--degradation",
        required=True,
        help=f"one of: {', '.join(DEGRADATIONS)}; or up to {MAX_PARTS} of them, rain+haze, which are "
        f"applied in the order that physics has",
    )
    parser.add_argument(
        "--mu",
        type=_numbers,
        help="wanted mean of |clean - degraded|; of a mixture one for each, 0.1,0.05 (default: drawn)",
    )
    parser.add_argument("--sigma", type=_numbers, help="wanted standard deviation of it, likewise (default: drawn)")
    parser.add_argument(
        "--mask", type=Path, help="an image: only where it is white, or opaque, the photograph is degraded"
    )
    parser.add_argument("--seed", type=int, default=0, help=f"0 to {MAX_SEED} (default: 0)")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    low, high = resolutions()
    parser.add_argument(
        "--resolution",
        type=int,
        help=f"short side at which the model works, {low} to {high}: streaks, flakes and drops come out finer at a "
        f"larger one (default: the model's own)",
    )
    parser.add_argument(
        "--output-size",
        default="photo",
        help="of the result: photo (the photograph's own), working, or a short side in pixels (default: photo)",
    )
    parser.add_argument("--caption", default="", help="what the photograph shows")
    parser.add_argument(
        "--structure-correction",
        choices=list(STRUCTURE_CORRECTION),
        default="auto",
        help="line fine structure up with the clean photograph (default: auto, where the model has learned it)",
    )
    parser.add_argument("--model", default="compact", help="bundled name, local folder or Hub repository (%(default)s)")
    parser.add_argument(
        "--preset", choices=list(PRESETS), help="of a model that starts from noise: how it samples (default: its own)"
    )
    return parser


def _check_outputs(inputs: list[Path], outputs: list[Path]) -> None:
    """Before any work, refuse what could not be written, or would destroy the photograph or its mask."""
    taken = [file.resolve() for file in inputs]
    for output in outputs:
        check_output(output)
        if not os.path.isdir(output.parent):
            raise UserError(f"There is no folder {shown(output.parent)}.")
        same = (output.samefile(file) for file in inputs if os.path.exists(output) and os.path.exists(file))
        if output.resolve() in taken or any(same):
            raise UserError(f"{shown(output)} would overwrite another image of this command. Choose another name.")
        taken.append(output.resolve())


if __name__ == "__main__":
    sys.exit(main())
