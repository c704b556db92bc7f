"""How far away is what each pixel of a photograph shows? A guess; haze, rain and snow thicken with distance."""

from __future__ import annotations

import torch

from training.simulators.fields import follow_edges, fractal_noise, log_uniform, uniform


def distance(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A plausible distance map [B, 1, H, W], 0 at the nearest and 1 at the farthest point of each image."""
    batch, _, height, width = clean.shape
    # Where the image lies in a scene 256 pixels high: a smaller one is a crop of it.
    scene = max(height, 256)
    top = uniform(batch, 0, scene - height, generator)
    row = (top[:, None] + torch.arange(height)) / scene  # [B, H], 0 top, 1 bottom

    # Flat ground under a camera: distance is inverse to the angle below the horizon; sky and horizon are farthest.
    horizon = uniform(batch, -0.2, 0.6, generator)[:, None]
    camera = log_uniform(batch, 0.03, 0.4, generator)[:, None]
    ground = (camera / ((row - horizon).clamp(min=0) + camera))[:, None, :, None].expand(-1, 1, -1, width)

    # Hills, houses, hedges: silhouettes one before the other, each nearer one covers what is below its outline.
    layers = torch.ones(batch, 1, height, width)
    for depth in (0.75, 0.5, 0.25):
        outline = fractal_noise(batch, 1, width, generator, scale=90.0)[:, 0]  # [B, 1, W]
        outline = uniform(batch, 0.0, 1.1, generator)[:, None, None] + 0.12 * outline
        cover = torch.sigmoid((row[:, :, None] - outline) / 0.02)[:, None]
        layers = torch.lerp(layers, torch.full_like(layers, depth), cover)

    relief = fractal_noise(batch, height, width, generator, scale=128.0)
    parts = torch.stack([ground, layers, torch.sigmoid(relief)]).to(clean)
    weights = torch.rand(4, batch, generator=generator) ** 2 * torch.tensor([1.0, 0.7, 0.3, 1.0])[:, None] + 0.01
    weights = (weights / weights.sum(0)).to(clean)[:, :, None, None, None]
    far = (weights[:3] * parts).sum(0) + weights[3] * _colour_attenuation(clean)
    far = follow_edges(far, clean)
    low, high = far.amin((2, 3), keepdim=True), far.amax((2, 3), keepdim=True)
    return (far - low) / (high - low).clamp(min=1e-4)


def _colour_attenuation(clean: torch.Tensor) -> torch.Tensor:
    """Distance cue of a photograph, [B, 1, H, W] in [0, 1]: far things are bright and pale (Zhu et al., TIP 2015)."""
    value, low = clean.amax(1, keepdim=True), clean.amin(1, keepdim=True)
    saturation = (value - low) / value.clamp(min=1e-3)
    return (0.12 + 0.96 * value - 0.78 * saturation).clamp(0, 1)
