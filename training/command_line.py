"""What do training's command lines have in common? A recipe, where things are, and how they end: with a sentence."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import UserError
from runtime.images import shown
from runtime.memory import is_out_of_memory
from training.photos import Photos

_LISTED = 20  # of what may be many


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorates the `main` of a command: what a user can mend ends it with a sentence on stderr.

    Returns:
        `main` that returns the exit code: 0, or its own; 2 after such a sentence; 130 after Ctrl-C. What else goes
        wrong is our fault and stays an exception.
    """
    name = _command(inspect.getfile(main))

    @wraps(main)
    def answering(*arguments: Any) -> int:
        try:
            return main(*arguments) or 0
        except UserError as error:
            said, code = _words(error), 2
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            reason = (error.strerror or _words(error)).rstrip(".")
            said, code = f"{where}{reason}. What is complete is kept; the same command goes on from there.", 2
        except KeyboardInterrupt:
            said, code = "Stopped; the same command goes on from there.", 130
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            said, code = "Out of memory. Choose a smaller --batch-size or, in a recipe, more gradient_accumulation.", 2
        print(shown(f"{name}: {said}"), file=sys.stderr)
        return code

    return answering


def _command(file: str) -> str:
    """ "generator" for training/generator/__main__.py, "codec" for training/codec.py."""
    path = Path(file)
    return path.parent.name if path.stem == "__main__" else path.stem


def _words(error: Exception) -> str:
    """What an error says; of one from a process that prepares data, without the traceback that torch puts around it."""
    text = str(error)
    return text.rstrip().splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def listing(lines: list[str]) -> str:
    """The first lines, each on its own and indented, and how many more there are."""
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "".join(f"\n  {line}" for line in [*lines[:_LISTED], *more])


PAIRS = {
    "--pairs": {
        "type": Path,
        "action": "append",
        "default": [],
        "help": "folder of degraded and clean images, may be given several times",
    }
}
FIRST_STAGE = {
    "--first-stage": {"type": int, "default": 1, "help": "leave out the stages before, which --initial has behind it"}
}


def stages_to_train(recipe: dict[str, Any], args: argparse.Namespace) -> list[tuple[int, dict[str, Any]]]:
    """A recipe's stages from `args.first_stage` on, each with its number; numbers start at 1.

    Raises:
        UserError: if there is no such stage, or nothing that has those before behind it.
    """
    stages = list(enumerate(recipe["stages"], 1))
    if not 1 <= args.first_stage <= len(stages):
        raise UserError(f"--first-stage {args.first_stage}: the recipe has the stages 1 to {len(stages)}.")
    if args.first_stage > 1 and not args.initial:
        raise UserError("--first-stage leaves out what trained weights have behind them: name these with --initial.")
    return stages[args.first_stage - 1 :]


def stage_minutes(recipe: dict[str, Any], stage: dict[str, Any], args: argparse.Namespace) -> float | None:
    """What a stage has of `--minutes`, by its `time_share` among the stages that are trained; None: no limit."""
    trained = recipe["stages"][getattr(args, "first_stage", 1) - 1 :]
    return args.minutes and args.minutes * stage.get("time_share", 1) / sum(s.get("time_share", 1) for s in trained)


def read_recipe(
    description: str, options: dict[str, dict[str, Any]] | None = None
) -> tuple[dict[str, Any], argparse.Namespace]:
    """The command line that every training script has: a recipe, where photographs are, where results go.

    Args:
        description: for --help.
        options: further options, name -> arguments of `add_argument`.

    Returns:
        (the recipe, the parsed arguments).

    Raises:
        UserError: if the recipe is none, or there are no photographs where they should be.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m training.{_command(sys.argv[0])}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="YAML file, see training/recipes")
    photos = "folder of clean photographs, may be given several times (default: procedural scenes)"
    parser.add_argument("--photos", type=Path, action="append", help=photos)
    minutes = "train for so long instead of for the recipe's steps; an interrupted run goes on with what is left"
    parser.add_argument("--minutes", type=float, help=minutes)
    parser.add_argument("--output", type=Path, help="where checkpoints and the model go (default: runs/<recipe>)")
    for name, arguments in (options or {}).items():
        parser.add_argument(name, **arguments)
    args = parser.parse_args()
    if args.minutes is not None and not args.minutes > 0:
        raise UserError(f"--minutes {args.minutes}: a training needs more than none.")
    recipe = load_recipe(args.recipe)
    Photos(args.photos)
    args.output = args.output or Path("runs") / args.recipe.stem
    return recipe, args


def check_recipe(recipe: dict[str, Any], parts: Sequence[str], what: str) -> None:
    """Raises: UserError if `recipe` lacks one of the parts that a recipe for `what` has."""
    if missing := [part for part in parts if part not in recipe]:
        raise UserError(f"This is no recipe for {what}: it lacks {', '.join(missing)}.")


def load_recipe(file: Path) -> dict[str, Any]:
    """What a recipe says.

    Raises:
        UserError: if there is no such file, or what it holds is no recipe.
    """
    if not file.is_file():
        raise UserError(f"There is no recipe {file}.")
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{file} is not a recipe; see training/recipes.")
    return recipe
