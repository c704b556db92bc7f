"""Are the settings in a file what the class they are for takes? Held against the types its signature states.

A JSON file can say anything: true for a number, a list of lists, NaN, a billion layers. What a class does with that
is a traceback at best, and at worst a network that quietly computes something else.
"""

from __future__ import annotations

import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError

LARGEST = 1_000_000  # of any number: no size, count or scale of a network comes near
MOST_LAYERS = 512  # of one kind: a class builds as many as it is told to before anybody can compare them with weights
LONGEST = 4096  # of lists
_COUNTS = ("layers", "blocks", "depths", "blk_num")
_MAY_BE_NEGATIVE = ("latents_mean", "shift_factor", "lambda_min_clipped")


def read_json(path: Path) -> dict[str, Any]:
    """The settings that a JSON file holds.

    Raises:
        UserError: if it is missing, damaged, or holds something else.
    """
    shown = "/".join(path.parts[-3:])  # users of a served app need not know where it lies
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown} is missing or damaged: it must hold settings as JSON.") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown} holds no settings: it must be a JSON object.")
    return content


def check_settings(settings: Mapping[str, Any], taker: Callable[..., Any], source: str, strict: bool = True) -> None:
    """Complain about settings that a class or function does not take, by its annotations; its defaults always pass.

    Numbers must be finite, not negative (but for shifts) and of a size that networks have. An annotated tuple may have
    any length, as diffusers' annotations mean it.

    Args:
        settings: as they were in the file; names that start with _ are the libraries' own notes.
        source: what the message calls the file.
        strict: whether unknown names are refused; False where other versions of a library have other names.

    Raises:
        UserError: names the file and the setting.
    """
    parameters = inspect.signature(taker).parameters
    hints = _hints(taker)
    for name, value in settings.items():
        if name.startswith("_"):
            continue
        if name not in parameters:
            if strict:
                raise UserError(f"{source}: there is no setting {name!r}.")
            continue
        default = parameters[name].default
        if default is inspect.Parameter.empty or type(value) is not type(default) or value != default:
            _check_kind(value, hints.get(name, Any), f"{source}: the setting {name!r}")
            _check_numbers(value, name, f"{source}: the setting {name!r}")


def _hints(taker: Callable[..., Any]) -> dict[str, Any]:
    function = taker.__init__ if isinstance(taker, type) else taker
    try:
        return typing.get_type_hints(function)
    except NameError:  # an annotation of a name that is only imported for type checkers
        annotations = {name: p.annotation for name, p in inspect.signature(taker).parameters.items()}
        return {name: kind for name, kind in annotations.items() if not isinstance(kind, str)}


def _check_kind(value: Any, hint: Any, what: str) -> None:
    if not _fits(value, hint):
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:50]} ..."
        raise UserError(f"{what} must be {_described(hint)}, not {shown}.")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(argument) and value == argument for argument in arguments)
    kind = origin or hint
    if kind is Any or kind is inspect.Parameter.empty:
        return True
    if kind in (None, type(None)):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in (int, str, bool):
        return type(value) is kind
    if not isinstance(kind, type):
        return False
    if issubclass(kind, Mapping):
        of = arguments[1] if len(arguments) == 2 else Any
        return isinstance(value, Mapping) and all(_fits(v, of) for v in value.values())
    if issubclass(kind, Sequence):
        items = [argument for argument in arguments if argument is not Ellipsis]
        return isinstance(value, (list, tuple)) and all(not items or any(_fits(v, i) for i in items) for v in value)
    return False  # an object, which JSON cannot hold


def _described(hint: Any) -> str:
    """What the user is to write, in JSON's words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(argument) for argument in arguments))
    if origin is typing.Literal:
        return " or ".join(json.dumps(argument) for argument in arguments)
    kind = origin or hint
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if kind in words:
        return words[kind]
    return "an object" if isinstance(kind, type) and issubclass(kind, Mapping) else "a list"


def _check_numbers(value: Any, name: str, what: str) -> None:
    if isinstance(value, Mapping):
        for inner in value.values():
            _check_numbers(inner, name, what)
    elif isinstance(value, (list, tuple)):
        if len(value) > LONGEST:
            raise UserError(f"{what} has {len(value)} entries; {LONGEST} are the most.")
        for inner in value:
            _check_numbers(inner, name, what)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        largest = MOST_LAYERS if any(part in name for part in _COUNTS) else LARGEST
        lowest = -largest if name in _MAY_BE_NEGATIVE else 0
        if not math.isfinite(value) or not lowest <= value <= largest:
            raise UserError(f"{what} must be from {lowest} to {largest}, not {value}.")
