"""How far away is what each pixel of a photograph shows? A guess; haze, rain and snow thicken with distance."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from training.simulators.fields import column, follow_edges, log_uniform, uniform

_SHRINK = 4  # the sky is looked for in a small image


def distance(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A plausible distance map [B, 1, H, W], 0 at the nearest and 1 at the farthest point of each image.

    Flat ground under a camera: distance is inverse to the angle below the horizon. What is even and hangs from the top
    edge is sky, or a background that is as far; the horizon lies about where it ends.
    """
    batch, height = clean.shape[0], clean.shape[2]
    scene = max(height, 256)  # a smaller image is a crop of it
    sky = _sky(clean)
    horizon = sky.mean((2, 3), keepdim=True) * height + scene * column(uniform(batch, -0.4, 0.15, generator), clean)
    camera = column(log_uniform(batch, 0.1, 1.0, generator), clean)
    below = (torch.arange(height)[:, None].to(clean) - horizon).clamp(min=0) / scene
    far = torch.lerp(camera / (below + camera), torch.ones_like(sky), sky)
    low, high = far.amin((2, 3), keepdim=True), far.amax((2, 3), keepdim=True)
    return (far - low) / (high - low).clamp(min=1e-4)


def _sky(clean: torch.Tensor) -> torch.Tensor:
    """How surely each pixel belongs to an even area that reaches the top edge, [B, 1, H, W] in [0, 1]."""
    small = F.avg_pool2d(clean, _SHRINK, ceil_mode=True)
    step = (F.max_pool2d(small, 3, 1, 1) + F.max_pool2d(-small, 3, 1, 1)).amax(1, keepdim=True)
    even = torch.sigmoid((0.10 - step) / 0.02)
    sky = even.cummin(2).values
    for _ in range(8):  # also behind what stands before it
        sky = torch.minimum(even, F.max_pool2d(sky, 3, 1, 1))
    sky = F.interpolate(sky, size=clean.shape[-2:], mode="bilinear", align_corners=False)
    return follow_edges(sky, clean, radius=3).clamp(0, 1)
