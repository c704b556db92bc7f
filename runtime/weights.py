"""How do weights come out of a file safely? safetensors, or PyTorch files of which only tensors are read.

A PyTorch file is a program for Python's unpickler, which may call any function it names. Here it goes to torch's own
unpickler for weights, and what the file names beside tensors is replaced by stand-ins that do nothing: of a training
framework's objects, which lie in honest files beside the weights, nothing is needed, imported or called.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
import threading
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from runtime.errors import UserError

PYTORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar")
SUFFIXES = (".safetensors", *PYTORCH_SUFFIXES)
_DOWNLOADED = {  # in place of weights, and how it begins
    b"version https://git-lfs": "the pointer of a file in Git LFS. Download the file itself",
    b"<html": "a web page. Download the file again",
    b"<!doctype html": "a web page. Download the file again",
}
_LOCK = threading.Lock()  # stand-ins are torch's for the whole process while a file is read


def weights_suffix(path: str | Path) -> str:
    """The one of SUFFIXES that a file's name ends in, as it is written there; "" if it is not called like weights."""
    name = Path(path).name
    return next((name[-len(suffix) :] for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def read_state_dict(path: str | Path) -> Mapping[str, Any]:
    """The content of a weights file: names to tensors, or what such a mapping is wrapped in; a list's by its places.

    Tensors of a file in torch's present format stay on disk until they are used.

    Raises:
        UserError: if the file is missing, of another kind, damaged, holds no weights, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    suffix = weights_suffix(path).lower()
    if not suffix:
        raise UserError(f"{path.name} is no weights file: its name must end in {', '.join(SUFFIXES)}.")
    kind, start = "safetensors" if suffix == ".safetensors" else "PyTorch", b""
    try:
        with path.open("rb") as file:
            start = file.read(200).lower()
        if kind == "safetensors" or start[8:9] == b"{":  # some are renamed
            return load_file(path)
        named = _names(path)
        suspicious = sorted(filter(_suspicious, named))
        if suspicious:
            raise UserError(_refusal(path, f"it names {suspicious[0]}"))
        with _LOCK, warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(named)):
            warnings.simplefilter("ignore")  # about pickle versions and archives that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, "they are not of a kind that can be passed over")) from error
    except Exception as error:  # almost anything is raised on damaged files
        hint = next((f": it holds {what}" for mark, what in _DOWNLOADED.items() if mark in start), "")
        raise UserError(f"{path.name} is damaged or no {kind} file{hint}.") from error
    if isinstance(content, (list, tuple)) and any(isinstance(part, Mapping) for part in content):
        return {str(place): part for place, part in enumerate(content)}
    if isinstance(content, Counter):
        raise UserError(f"{path.name} holds no weights but a Python object. Save its state_dict() instead.")
    if not isinstance(content, Mapping):
        found = "" if content is None else f" but a {type(content).__name__}"
        raise UserError(f"{path.name} holds no weights{found}.")
    return content


def _refusal(path: Path, why: str) -> str:
    return (
        f"{path.name} was not opened: besides weights it holds Python objects, and loading those can run code ({why}). "
        f"Ask its author for a safetensors file."
    )


def check_tensors(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Complain about tensors that cannot be a network's parameters in this precision.

    Raises:
        UserError: names the tensor: it holds no fractions, values that are not finite, or such as dtype cannot hold.
    """
    limit = torch.finfo(dtype).max
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise UserError(f"The tensor {name!r} holds no plain numbers but {_kind(tensor)}.")
        if tensor.numel() == 0:
            continue
        lowest, highest = (float(v) for v in (tensor.float() if tensor.itemsize == 1 else tensor).aminmax())
        if not (abs(lowest) < float("inf") and abs(highest) < float("inf")):
            raise UserError(f"The tensor {name!r} holds values that are not numbers (NaN or infinity).")
        if max(-lowest, highest) > limit:
            raise UserError(
                f"The tensor {name!r} holds values up to {max(-lowest, highest):.3g}, more than "
                f"{str(dtype).removeprefix('torch.')} can hold ({limit:.3g}). Load it as float32 or bfloat16."
            )


def _kind(tensor: torch.Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return kind if tensor.layout is torch.strided and not tensor.is_meta else f"a {kind} tensor in a form of its own"


# ------------------------------------------------------------------------------------------------------- stand-ins


# Of Python's own library, the names that are found in honest files: containers, and what training scripts are told.
_DATA = {
    *(f"builtins.{name}" for name in ("getattr", "object", "slice", "range", "frozenset", "dict", "list", "tuple")),
    *(f"builtins.{name}" for name in ("int", "float", "bool", "str", "bytes", "set", "bytearray", "complex")),
    *(f"collections.{name}" for name in ("OrderedDict", "Counter", "defaultdict", "deque")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),  # Python 3.13's
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("argparse.Namespace", "types.SimpleNamespace", "functools.partial", "copyreg._reconstructor", "uuid.UUID"),
    *("_codecs.encode", "typing.Any", "typing.Union", "decimal.Decimal", "fractions.Fraction"),
}


class _Nothing:
    """Stands for an object whose state may have any form, such as a NumPy number."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Bag:
    """Stands for an object that items and attributes are put into: torch's unpickler lets that be done to a Counter."""

    def __new__(cls, *args: Any) -> Any:
        return Counter()


def _list(*args: Any) -> list[Any]:
    return []


def _suspicious(name: str) -> bool:
    """Whether a name is of Python's own library and no mere data: what an attack calls. A stand-in would do as well."""
    return name.partition(".")[0] in sys.stdlib_module_names and name not in _DATA


def _stand_ins(names: Iterable[str]) -> list[tuple[Any, str]]:
    """Pairs for `torch.serialization.safe_globals`; what torch itself allows comes before them."""

    def stand_in(name: str) -> Any:
        if name == "collections.deque":
            return _list
        return _Nothing if name.startswith(("numpy.", "functools.")) else _Bag

    return [(stand_in(name), name) for name in names]


def _names(path: Path) -> set[str]:
    """The classes and functions that a PyTorch file names, found without unpickling: "module.name"."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(file.endswith("/constants.pkl") for file in archive.namelist()):
                raise UserError(f"{path.name} is a TorchScript program. Save its state_dict() instead.")
            pickles = [file for file in archive.namelist() if file.endswith("/data.pkl")]
            files = [BytesIO(archive.read(file)) for file in pickles]
        return {name for file in files for name in _names_in_pickle(file)}
    with path.open("rb") as file:  # torch's old format: magic number, protocol, system, content; then keys and numbers
        first = _names_in_pickle(file)
        try:
            return first.union(*(_names_in_pickle(file) for _ in range(3)))
        except ValueError:  # one pickle and nothing more: no PyTorch file, but what it names is worth knowing
            return first


def _names_in_pickle(file: Any) -> set[str]:
    names = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = argument.partition(" ")
            # Pickles that torch writes have Python 2's names; it reads them as Python 3's.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            names.add(f"{module}.{name}")
        elif opcode.name == "STACK_GLOBAL":
            raise pickle.UnpicklingError("a pickle of a later protocol than torch writes")
    return names
