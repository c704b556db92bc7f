"""Where does a generator come from? The bundled one, a local folder, or a Hugging Face Hub repository."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError

import gendeg.codec
import gendeg.scheduler  # noqa: F401  diffusers loads only classes of modules that are imported already
from gendeg.pipeline import GenDegPipeline

BUNDLED = Path(__file__).resolve().parents[1] / "assets" / "checkpoints"


def load_pipeline(
    name_or_path: str | Path = "compact", device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> GenDegPipeline:
    """Load a generator, ready to call.

    Args:
        name_or_path: "compact" (the bundled one), a folder that `save_pretrained` wrote, or a Hub repository.
        device: default: CUDA where there is one, else the CPU.
        dtype: default: float16 on CUDA, float32 elsewhere.

    Raises:
        ValueError: if there is no such model, or it is not a GenDeg pipeline.
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
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
