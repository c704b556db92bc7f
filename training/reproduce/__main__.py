"""Makes all bundled checkpoints: python -m training.reproduce --photos DIR... --pairs DIR... --output runs

From random initialisation, in this order: codec, generator, structure correction, tables of what they reach, a pair
data set of all photographs by this generator, three restorers, their tables, and the estimator of degradations. Each is
a command of its own, in a process of its own. The same command goes on with an interrupted run and leaves out what is
done; to make something anew, delete its folder.
OUTPUT/checkpoints is what `assets/checkpoints` holds; OUTPUT/reproduce.json says how everything was made.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from training.command_line import command_line
from training.pair_folders import PairFolders, is_held_back
from training.photos import Photos
from training.reproduce.card import COMPACT, write_cards
from training.reproduce.pack import pack
from training.reproduce.run import Run, Stage, load_records, run_process, run_stages
from training.scenes import draw_scenes

RESTORERS = ("nafnet", "promptir", "swin")
# What each has of --minutes; of what is left away with --only, the others have more. On top come tables, and the
# pictures that structure correction learns from.
SHARES = {"codec": 10, "generator": 76, "structure": 14, "dataset": 40, **dict.fromkeys(RESTORERS, 60), "estimator": 15}
TABLES = {
    "compact-tables": ("codec", "control", "structure", "held-back"),
    "restorer-tables": ("restorers", "own", "published"),
}
_STALE = dict.fromkeys(COMPACT, tuple(TABLES)) | dict.fromkeys(("dataset", *RESTORERS), ("restorer-tables",))
RECIPES = Path(__file__).parents[1] / "recipes"
SCENES = 8  # drawn where there are no photographs


def stages(args: argparse.Namespace) -> list[Stage]:
    """All stages, in their order."""
    out, smoke = args.output, "-smoke" if args.recipes == "smoke" else ""
    photos, pairs = _each("--photos", args.photos), _each("--pairs", args.pairs)
    codec, generated, degrader = out / "codec", out / "generator" / "pipeline", out / "structure" / "pipeline"
    datasets = [out / "dataset" / f"{number}-{folder.name}" for number, folder in enumerate(args.photos, 1)]
    names = args.only or SHARES

    def minutes(name: str, part: float = 1.0) -> list[str]:
        share = part * SHARES[name] / sum(SHARES.get(n, 0) for n in names) if name in names else 0
        return ["--minutes", f"{args.minutes * share:.2f}"] if args.minutes else []

    def training(name: str, module: str, recipe: str, result: str, needs: list[Path], *options: str | Path) -> Stage:
        file, output = RECIPES / f"{recipe}{smoke or '-compact' * (module != 'restorer')}.yaml", out / name
        command = [f"training.{module}", file, *photos, *pairs, *options, "--output", output, *minutes(name)]
        return Stage(name, [command], output, output / result, needs, file)

    def dataset(folder: Path, output: Path) -> list[str | Path]:
        part = len(Photos(folder).files) / len(Photos(args.photos).files)
        command = ["training.create_dataset", "--clean", folder, "--output", output, "--model", degrader]
        return [*command, *minutes("dataset", part)]

    def tables(name: str, needs: list[Path]) -> Stage:
        commands: list[list[str | Path]] = []
        held_back = [folder for folder in args.pairs if any(map(is_held_back, PairFolders([folder]).rows))]
        for what in TABLES[name]:
            of_pairs = what in ("held-back", "published")
            if held_back if of_pairs else args.test:
                images = ["--pairs", *held_back] if of_pairs else ["--photos", args.test]
                models = ["--model", out / "checkpoints" / "compact"] if what not in ("restorers", "published") else []
                if name == "restorer-tables":
                    models += ["--restorers", *(out / "checkpoints" / "restorers" / name for name in RESTORERS)]
                file = out / name / f"{what}.json"
                commands.append(["training.evaluate", what, *images, *models, "--output", file])
        return Stage(name, commands, out / name, out / name, needs)

    return [
        training("codec", "codec", "codec", "config.json", []),
        training("generator", "generator", "generator", "pipeline", [codec], "--codec", codec),
        training("structure", "structure_correction", "structure", "pipeline", [generated], "--model", generated),
        tables("compact-tables", [degrader]),
        Stage(
            name="dataset",
            commands=[dataset(folder, output) for folder, output in zip(args.photos, datasets, strict=True)],
            output=out / "dataset",
            result=datasets[-1] / "README.md",
            needs=[degrader],
        ),
        *[
            training(name, "restorer", f"restorer-{name}", "restorer", datasets, *_each("--generated", datasets))
            for name in RESTORERS
        ],
        tables("restorer-tables", [degrader, *(out / name / "restorer" for name in RESTORERS)]),
        training("estimator", "estimator", "estimator", "estimator", []),
    ]


def _each(option: str, values: list[Path]) -> list[str | Path]:
    return [part for value in values for part in (option, value)]


def reproduce(args: argparse.Namespace, run: Run) -> int:
    """Run the stages that are asked for and not done yet, then put checkpoints and their cards together.

    Args:
        args: as `main` reads them.
        run: see `run_process`.

    Returns:
        The exit code of the command that ended the run; 0 if all went well.

    Raises:
        UserError: if a stage lacks what one before it makes.
    """
    args.output.mkdir(parents=True, exist_ok=True)
    args.photos = args.photos or [draw_scenes(args.output / "scenes", SCENES)]
    records = load_records(args.output)
    data = [f"{folder.name} ({len(Photos(folder).files):,} photographs)" for folder in args.photos]
    data += [f"{folder.name} ({len(PairFolders([folder]).files):,} pairs)" for folder in args.pairs]
    data = f"{', '.join(data)}; {args.terms}"
    asked = (stage for stage in stages(args) if stage.commands and (not args.only or stage.name in args.only))

    def before(stage: Stage) -> None:
        if stage.name in TABLES:
            put_together(args.output, records)
        for name in _STALE.get(stage.name, ()):  # tables of what was there before
            shutil.rmtree(args.output / name, ignore_errors=True)

    if code := run_stages(asked, records, data, run, before, args.processes):
        return code
    put_together(args.output, records)
    write_cards(args.output, records)
    return 0


def put_together(output: Path, records: dict[str, Any]) -> None:
    """Copy what is done to OUTPUT/checkpoints, of the generator the newest."""
    places = {"generator": ("pipeline", "compact"), "structure": ("pipeline", "compact")}
    places |= {name: ("restorer", f"restorers/{name}") for name in RESTORERS} | {"estimator": ("estimator",) * 2}
    for name, (made, place) in places.items():
        result = output / name / made
        if records.get(name, {}).get("done") and result.exists():
            shutil.rmtree(output / "checkpoints" / place, ignore_errors=True)
            shutil.copytree(result, output / "checkpoints" / place)


@command_line
def main() -> int:
    """Read the command line and run what it asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m training.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = {"type": Path, "nargs": "+", "action": "extend", "default": [], "metavar": "DIR"}
    parser.add_argument("--photos", **several, help=f"folders of clean photographs (default: {SCENES} drawn scenes)")
    parser.add_argument("--pairs", **several, help="folders of published pairs, see training.restorer")
    parser.add_argument("--test", type=Path, metavar="DIR", help="photographs to measure on (default: no tables)")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="(%(default)s)")
    parser.add_argument("--minutes", type=float, help="for all stages but tables (default: as long as the recipes say)")
    parser.add_argument(
        "--processes", type=int, default=1, help="that train together: one for each GPU or CPU core (1)"
    )
    parser.add_argument("--only", nargs="+", choices=(*SHARES, *TABLES), help="these stages (default: all)")
    parser.add_argument("--recipes", choices=("compact", "smoke"), default="compact", help="(%(default)s)")
    parser.add_argument("--terms", default="their own terms hold", help="of photographs and pairs, for the model cards")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="instead: copy 40 MB of photographs and pairs there")
    args = parser.parse_args()
    if args.processes < 1:
        parser.error("--processes takes a number from 1.")
    Photos(args.photos), Photos(args.test), PairFolders(args.pairs)  # what is missing is said now, not after hours
    if args.pack:
        pack(args.photos, args.pairs, args.pack)
        return 0
    return reproduce(args, run_process)


if __name__ == "__main__":
    sys.exit(main())
