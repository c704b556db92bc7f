"""Where do bundled files lie, and those that the user adds?"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_INSTALLED = _ROOT / "gendeg" / "assets"  # where a wheel puts them, see pyproject.toml
ASSETS = _INSTALLED if _INSTALLED.is_dir() else _ROOT / "assets"
MODELS = Path("models") if _INSTALLED.is_dir() else _ROOT / "models"  # weights and pipelines of the user's own
