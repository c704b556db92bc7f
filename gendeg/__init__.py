"""GenDeg: diffusion-based degradation of clean photographs with controllable intensity (arXiv 2411.17687)."""

from gendeg.call import GenDegOutput
from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.mixture import MixtureOutput, degrade_mixture
from gendeg.pipeline import GenDegPipeline

__all__ = [
    "DEGRADATIONS", "GenDegOutput", "GenDegPipeline", "MixtureOutput", "degrade_mixture", "get_degradation",
    "load_pipeline",
]  # fmt: skip
