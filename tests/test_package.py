"""The wheel holds all that is needed to degrade and restore a photograph; requirements files say the same as it.

Modules that are commands answer mistakes with a sentence, also in a process of their own.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
USE = """
import sys
from PIL import Image
import gendeg, gendeg.__main__, restorers
assert sys.argv[1] in gendeg.__file__ and sys.argv[1] in restorers.__file__
restored = restorers.load_restorer("nafnet")(Image.open("photo.png"))
assert restored.size == (320, 240)
sys.exit(gendeg.__main__.main(["photo.png", "--degradation", "haze", "-o", "hazy.png"]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, without what it depends on."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(wheels)], check=True, timeout=300
    )
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder), str(wheel)], check=True, timeout=300)
    return folder


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_python_and_commands_from_another_folder(installed: Path, photo: Path, tmp_path: Path) -> None:
    Image.open(photo).save(tmp_path / "photo.png")
    used = run(installed, tmp_path, sys.executable, "-c", USE, str(installed))
    assert used.returncode == 0, used.stderr
    assert "reached" in used.stdout
    restored = run(installed, tmp_path, str(installed / "bin" / "restore"), "hazy.png", "-o", "restored.png")
    assert restored.returncode == 0 and (tmp_path / "restored.png").is_file(), restored.stderr
    assert (installed / "bin" / "gendeg").is_file()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("gendeg none.png --degradation haze -o out.png", "gendeg: There is no file none.png."),
        ("gendeg.importer none.ckpt --output out --tokenizer .", "import: The tokenizer"),
        ("restorers none.png -o out.png", "There is no none.png."),
    ],
)
def test_modules_are_commands(command: str, sentence: str, tmp_path: Path) -> None:
    done = run(ROOT, tmp_path, sys.executable, "-m", *command.split())
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_every_room_and_its_data_are_in_the_wheel(installed: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    rooms = ("gendeg/", "restorers/", "runtime/", "training/")
    for name in tracked.stdout.split():
        if name.startswith(rooms):
            assert (installed / name).is_file(), f"{name} is missing"
        if name.startswith(("assets/checkpoints/", "assets/intensity")):
            assert (installed / "gendeg" / name).is_file(), f"{name} is missing"


def requirements(name: str) -> set[str]:
    """Lines of a requirements file, comments and references to other files left out."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return {re.sub(r"\s", "", line) for line in lines if line and not line.startswith("-")}


def test_requirements_files_say_what_the_package_says() -> None:
    needed, extras = set(PROJECT["project"]["dependencies"]), PROJECT["project"]["optional-dependencies"]
    assert requirements("requirements.txt") == needed | set(extras["app"])
    assert requirements("requirements-scale.txt") == set(extras["scale"])
    assert requirements("requirements-dev.txt") == set(extras["dev"]) | set(extras["train"])
