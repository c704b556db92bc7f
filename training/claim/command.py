"""One command for the paper's claim: python -m training.evaluate claim --photos DIR... --pairs DIR... --output results

Sets of pairs; codec, generator and structure correction from the existing pairs alone; the generator's pairs; restorers
from existing pairs, generated ones and both, each measured on tests that none of them saw; tables and figures, in
OUTPUT/report. Each is a process of its own. The same command goes on with an interrupted run and leaves out what is
done; to make something anew, delete its folder and those after it.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import UserError
from runtime.files import write_whole
from training.claim.trainings import EXISTING, GENERATED, SIMULATED, derived_recipe, trainings
from training.command_line import load_recipe
from training.pair_folders import PairFolders
from training.photos import Photos
from training.reproduce.run import Run, Stage, load_records, run_process, run_stages

RECIPES = Path(__file__).parents[1] / "recipes"
_BEFORE = ("codec", "generator", "structure", "generated")  # what comes before the restorers, and takes time


def claim(args: argparse.Namespace, run: Run) -> int:
    """Run the stages that are not done yet.

    Args:
        args: as `command` reads them.
        run: see `training.reproduce.run.run_process`.

    Returns:
        The exit code of the command that ended the run; 0 if all went well.

    Raises:
        UserError: if `--minutes` are too few for a restorer to begin.
    """
    args.output.mkdir(parents=True, exist_ok=True)
    records = load_records(args.output)
    data = ", ".join(folder.name for folder in (*args.photos, *args.pairs)) or "drawn scenes"

    def before(stage: Stage) -> None:
        shutil.rmtree(args.output / "report", ignore_errors=True)  # on what was there before

    if code := run_stages(stages(args, records), records, data, run, before):
        return code
    print(f"Tables and figures: {args.output / 'report' / 'claim.md'}")
    return 0


def stages(args: argparse.Namespace, records: Mapping[str, Any]) -> Iterator[Stage]:
    """All stages, in their order. Each is made when those before it are done, and depends on what became of them."""
    out, claim_file = args.output, RECIPES / f"claim-{args.recipes}.yaml"
    recipe = load_recipe(claim_file)
    data, generated, simulated = out / "data", out / "generated" / "pairs", out / "simulated" / "pairs"
    shares = recipe["time_shares"]
    total = sum(shares[name] for name in (*_BEFORE, *(one.network for one in trainings(recipe, sys.maxsize))))

    def minutes(name: str) -> list[str]:
        return ["--minutes", f"{args.minutes * shares[name] / total:.3f}"] if args.minutes else []

    def derived(name: str, of: str, *arguments: Any) -> Path:
        base = load_recipe(RECIPES / f"{recipe['recipes'][of]}.yaml")
        text = yaml.safe_dump(derived_recipe(recipe, base, *arguments), sort_keys=False, default_flow_style=None)
        file = out / "recipes" / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        write_whole(file, text.encode())
        return file

    folders = [part for option in ("photos", "pairs") for f in getattr(args, option) for part in (f"--{option}", f)]
    command = ["training.claim.setting", claim_file, *folders, "--output", data]
    yield Stage("data", [command], data, data / "setting.json", [])

    shown = {EXISTING: _shown(PairFolders([data / "existing"]))}
    for name, module, result, options in (
        ("codec", "codec", "config.json", []),
        ("generator", "generator", "pipeline", ["--codec", out / "codec"]),
        ("structure", "structure_correction", "pipeline", ["--model", out / "generator" / "pipeline"]),
    ):
        file = derived(name, name, shown[EXISTING])
        command = [f"training.{module}", file, "--pairs", data / "existing", *options, "--output", out / name]
        yield Stage(name, [[*command, *minutes(name)]], out / name, out / name / result, [], file)

    degrader = out / "structure" / "pipeline"
    command = ["training.create_dataset", "--clean", data / "photographs", "--model", degrader, "--output", generated]
    yield Stage("generated", [[*command, *minutes("generated")]], out / "generated", generated / "README.md", [])
    command = ["training.claim.simulated", claim_file, "--pairs", generated, "--output", simulated]
    yield Stage("simulated", [command], out / "simulated", simulated, [])

    pairs = PairFolders([generated])
    steps: dict[str, list[int]] = {}  # of each network: its first training has --minutes, the others as many steps
    for one in trainings(recipe, len(pairs.files)):
        existing = () if one.data == GENERATED else shown[EXISTING]
        others = () if one.data == EXISTING else _shown(pairs, one.count)
        file = derived(one.name, one.network, existing, others, one, steps.get(one.network))
        command = ["training.restorer", file, "--output", out / one.name]
        command += ["--pairs", data / "existing"] if existing else []
        command += ["--generated", simulated if one.data == SIMULATED else generated] if others else []
        command += [] if one.network in steps else minutes(one.network)
        measure = ["training.evaluate", "published", "--pairs", data / "in", data / "out", "--all-scenes", "--frechet"]
        measure += ["--restorers", out / one.name / "restorer", "--output", out / one.name / "quality.json"]
        yield Stage(one.name, [command, measure], out / one.name, out / one.name / "quality.json", [], file)
        if args.minutes and one.network not in steps:
            steps[one.network] = [stage["steps"] for stage in records[one.name]["stages"]]
            if len(steps[one.network]) < len(load_recipe(file)["stages"]):
                raise UserError(f"--minutes {args.minutes:g} are too few: {one.name} was over before it had begun.")
    command = ["training.claim.report", claim_file, "--output", out]
    yield Stage("report", [command], out / "report", out / "report" / "claim.md", [])


def _shown(pairs: PairFolders, count: int | None = None) -> Collection[str]:
    """The degradations of pairs, or of so many of them."""
    pairs = copy.copy(pairs)
    if count:
        pairs.keep(count)
    return sorted({row["degradation"] for row in pairs.rows})


def command(arguments: list[str] | None = None) -> int:
    """Read the command line and run what it asks for. Returns the exit code.

    Raises:
        UserError: for folders that are not there, and see `claim`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate claim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several = {"type": Path, "nargs": "+", "action": "extend", "default": [], "metavar": "DIR"}
    parser.add_argument("--photos", **several, help="folders of clean photographs (default: drawn scenes)")
    parser.add_argument("--pairs", **several, help="folders of published pairs, named like the recipe's data sets")
    parser.add_argument("--output", type=Path, default=Path("results"), help="(%(default)s)")
    parser.add_argument("--minutes", type=float, help="for all trainings (default: as long as their recipes say)")
    parser.add_argument("--recipes", choices=("compact", "smoke"), default="compact", help="(%(default)s)")
    args = parser.parse_args(arguments)
    if args.minutes is not None and not args.minutes > 0:
        raise UserError(f"--minutes {args.minutes:g}: a training needs more than none.")
    Photos(args.photos or None), PairFolders(args.pairs)  # what is missing is said now, not after hours
    return claim(args, run_process)
