"""Are the rooms of ARCHITECTURE.md kept? Who may import whom, no circles, no file too long to be read."""

import ast
import re
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("runtime", "restorers", "gendeg", "training")
FILES = [ROOT / "app.py", *sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
TABS = (
    "gendeg.tab",
    "gendeg.endpoint",
    "gendeg.only_here",
    "gendeg.robustness_tab",
    "restorers.tab",
    "training.dataset.tab",
)
LINES = 400  # of a file; gendeg.tab, which describes the layout of most that there is to choose, has more
SCM = ("restorers.nafnet", "restorers.architectures")  # the structure correction module is a NAFNet, read as one


def _name(file: Path) -> str:
    """ "gendeg.tab" for gendeg/tab.py, "gendeg" for gendeg/__init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(file): file for file in FILES}


def imported(source: str, whole: bool) -> set[str]:
    """What a module imports, as dotted names; of `from a import b` both "a" and "a.b", whichever of them is a module.

    Args:
        whole: also inside of functions, where an import waits until it is needed.
    """
    names = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out from the root"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        if whole or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
    return names


def imports_of(module: str, whole: bool = True) -> set[str]:
    return imported(MODULES[module].read_text(encoding="utf-8"), whole)


def below(names: set[str], *tops: str) -> set[str]:
    """Those of the names that are one of `tops`, or inside of it."""
    return {name for name in names if any(name == top or name.startswith(f"{top}.") for top in tops)}


def modules_of(room: str) -> list[str]:
    return sorted(below(set(MODULES), room))


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b\nfrom c import d\nif True:\n    import e\nclass F:\n    import f\ndef g():\n    import h\n"
    assert imported(source, whole=False) == {"a.b", "c", "c.d", "e", "f"}
    assert imported(source, whole=True) == {"a.b", "c", "c.d", "e", "f", "h"}
    assert all(modules_of(room) for room in ROOMS)


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("runtime", ("gendeg", "restorers", "training", "app")),
        ("restorers", ("gendeg", "training", "app")),
        ("gendeg", ("training", "app")),
        ("training", ("app",)),
    ],
)
def test_a_room_does_not_import_those_that_stand_on_it(room: str, others: tuple[str, ...]) -> None:
    wrong = {module: found for module in modules_of(room) if (found := below(imports_of(module), *others))}
    assert not wrong


def test_a_generator_needs_of_the_restorers_what_its_structure_correction_is_made_of() -> None:
    modules = {module for module in modules_of("gendeg") if below(imports_of(module), "restorers")}
    assert modules == {"gendeg.structure_correction"}
    found = below(imports_of("gendeg.structure_correction"), "restorers")
    assert found == below(found, *SCM)


def test_only_the_app_its_tabs_and_its_jobs_import_gradio() -> None:
    allowed = {"app", *TABS, "runtime.page", "runtime.requests", "runtime.uploads"}
    assert {module for module in MODULES if below(imports_of(module), "gradio")} == allowed


def test_both_halves_can_be_used_without_gradio() -> None:
    """What importing them, or their commands, needs: straight, and by way of others."""
    needed, waiting = set(), ["gendeg", "gendeg.__main__", "restorers", "restorers.__main__"]
    while waiting:
        module = waiting.pop()
        if module not in needed:
            needed.add(module)
            waiting += imports_of(module, whole=False) & set(MODULES)
    assert "gendeg.pipeline" in needed
    assert not {module for module in needed if below(imports_of(module, whole=False), "gradio")}


def test_there_are_no_circles() -> None:
    graph = {module: (imports_of(module, whole=False) & set(MODULES)) - {module} for module in MODULES}
    for module in graph:  # of `from training.generator import bridge`, the module counts
        packages = {name for name in graph[module] if MODULES[name].name == "__init__.py"}
        graph[module] -= {package for package in packages if below(graph[module] - {package}, package)}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_a_file_is_short_enough_to_be_read() -> None:
    lines = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > LINES and module != "gendeg.tab"} == {}


def test_every_file_says_first_what_it_is_about() -> None:
    assert [
        module for module, file in MODULES.items() if not ast.get_docstring(ast.parse(file.read_text("utf-8")))
    ] == []


def test_every_package_is_in_the_wheel() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    there = {".".join(file.parent.relative_to(ROOT).parts) for file in FILES[1:]}
    assert there == set(packages) - {"gendeg.assets"}


def test_files_that_documents_name_are_there() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "assets").rglob("*.md")]
    pattern = re.compile(rf"`((?:{'|'.join(ROOMS)}|tests)/[a-z0-9_/-]+\.[a-z]+)`")
    named = {(file.name, path) for file in documents for path in pattern.findall(file.read_text(encoding="utf-8"))}
    assert ("ARCHITECTURE.md", "gendeg/pipeline.py") in named
    assert {(document, path) for document, path in named if not (ROOT / path).is_file()} == set()
