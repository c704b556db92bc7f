"""What does the codec lose of a photograph?"""

from __future__ import annotations

import torch
from tqdm import tqdm

from gendeg.pipeline import GenDegPipeline
from restorers.metrics import psnr


@torch.no_grad()
def evaluate_codec(pipeline: GenDegPipeline, photos: torch.Tensor) -> dict[str, float]:
    """Mean over photographs of the PSNR, in dB, after encoding and decoding."""
    reached = []
    for photo in tqdm(photos.split(8), desc="codec"):
        latents = pipeline.encode(photo.to(pipeline.device, pipeline.dtype))
        reached.append(psnr(pipeline.decode(latents * pipeline.vae.config.scaling_factor).cpu(), photo))
    reached = torch.cat(reached)
    return {"photographs": len(reached), "psnr_mean": float(reached.mean()), "psnr_worst": float(reached.min())}
