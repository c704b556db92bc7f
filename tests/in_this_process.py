"""Commands that ought to have a process of their own, run in that of the test: most of their time is importing."""

import importlib
import sys

import pytest


class InThisProcess:
    """Runs commands as `run_process` does, without a process for each; `modules` are those it ran."""

    def __init__(self):
        self.modules = []

    def __call__(self, arguments, log, keep):
        module = arguments[2]
        self.modules.append(module)
        package = hasattr(importlib.import_module(module), "__path__")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments[2:])
            try:
                return importlib.import_module(f"{module}.__main__" if package else module).main()
            except SystemExit:
                return 1
