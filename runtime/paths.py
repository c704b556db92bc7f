"""Where do bundled files lie, and those that the user adds?"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "assets"
MODELS = ROOT / "models"  # whatever weights and pipelines the user puts there
