"""Where does a generator come from? The bundled one, a local folder, a Hugging Face Hub repository, the authors' file.

python -m gendeg.checkpoints import gendeg.ckpt --output FOLDER    makes a folder of it, see gendeg/importer.py
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from huggingface_hub.errors import HFValidationError

import gendeg.codec
import gendeg.scheduler
from gendeg.pipeline import GenDegPipeline

BUNDLED = Path(__file__).resolve().parents[1] / "assets" / "checkpoints"
# The package imports this module: python -m would warn that it runs it a second time.
warnings.filterwarnings("ignore", "'gendeg.checkpoints' found in sys.modules", RuntimeWarning)


@dataclass(frozen=True)
class Preset:
    """How to sample: a diffusers scheduler, and defaults of a call."""

    scheduler: type[Any]
    num_inference_steps: int
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5


# Both start at the last training timestep, where the noise is strongest, as the paper's sampler does.
PRESETS = {
    "fast": Preset(DPMSolverMultistepScheduler, 15),
    "paper": Preset(EulerAncestralDiscreteScheduler, 100),
}


def load_pipeline(
    name_or_path: str | Path = "compact",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    preset: str | None = None,
) -> GenDegPipeline:
    """Load a generator, ready to call.

    Args:
        name_or_path: "compact" (the bundled one), a folder that `save_pretrained` wrote, or a Hub repository.
        device: default: CUDA where there is one, else the CPU.
        dtype: default: float16 on CUDA, float32 elsewhere.
        preset: how to sample, see `apply_preset`; default: as the generator was saved.

    Raises:
        ValueError: if there is no such model, it is not a GenDeg pipeline, or it has no such preset.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    source = BUNDLED / name_or_path if (BUNDLED / name_or_path / "model_index.json").is_file() else name_or_path
    if Path(source).is_dir() and not (Path(source) / "model_index.json").is_file():
        raise ValueError(f"{source} is not a GenDeg pipeline: it holds no model_index.json.")
    try:
        pipeline = GenDegPipeline.from_pretrained(source, torch_dtype=dtype, use_safetensors=True)
    except (OSError, HFValidationError) as error:  # the latter: a path, but no such folder
        bundled = ", ".join(sorted(f.parent.name for f in BUNDLED.glob("*/model_index.json"))) or "none"
        raise ValueError(
            f"No generator {str(name_or_path)!r}: not bundled (there is: {bundled}), not a folder, and no readable "
            f"Hub repository."
        ) from error
    if preset is not None:
        apply_preset(pipeline, preset)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def apply_preset(pipeline: GenDegPipeline, name: str) -> None:
    """Let a generator that samples from noise do so in one of two ways; `save_pretrained` keeps the choice.

    Args:
        name: "paper": the published sampler, 100 Euler-ancestral steps; "fast": 15 steps of DPM-Solver++. A step is
            three evaluations of the network, for guidance.

    Raises:
        ValueError: if there is no such preset, or the pipeline samples by a bridge, which has no use for one.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}. Choose one of: {', '.join(PRESETS)}.")
    if isinstance(pipeline.scheduler, gendeg.scheduler.BridgeScheduler):
        raise ValueError(
            f"The preset {name!r} is for generators that start from noise; this one starts from the photograph, and "
            f"has only a number of steps to choose."
        )
    defaults = asdict(PRESETS[name])
    scheduler = defaults.pop("scheduler")
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")
    pipeline.register_to_config(**defaults)


if __name__ == "__main__":
    from gendeg.importer import main

    sys.exit(main())
