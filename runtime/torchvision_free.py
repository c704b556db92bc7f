"""How do timm and spandrel load where there is no working torchvision? With placeholders for what we never use.

Both import torchvision when they are imported, for image transforms, data sets and a detection layer; neither needs it
for the networks we take from them. Its wheels fit exactly one build of torch, and beside another (a CPU build from an
index that has no matching torchvision, say) importing it fails.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Placeholder(type):
    """A class whose attributes are classes of the same kind: enough to be subclassed, listed and asked isinstance."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(name, (), {})


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_module(name: str) -> ModuleType:
    """Import timm or spandrel, with the real torchvision if it works, else with placeholders, which are then removed.

    Raises:
        ImportError: if the package itself is not installed.
    """
    if name in sys.modules:
        return sys.modules[name]
    try:
        importlib.import_module("torchvision")
        return importlib.import_module(name)
    except Exception:  # absent, or built for another torch: RuntimeError, OSError, ...
        _forget("torchvision")
        _forget(name)
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
        _forget("torchvision")


def _forget(package: str) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        del sys.modules[module]
