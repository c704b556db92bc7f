"""What does a photograph taken in too little light look like? Dark, crushed in the shadows, off-colour, finely grainy.

The scene's own light is dimmed before it is recorded. Noise follows the sensor: photon counts have a variance in
proportion to the signal, the electronics add a constant one (Foi et al., "Practical Poissonian-Gaussian noise
modeling", TIP 2008). A camera's tone curve then makes pixel values of it. In LOL (arXiv 1808.04560), at 256 pixels,
light is 4 to 7.5 stops down and taken to a power of .8 to 1.25, red and blue part from green by .3 stops, .2 to 14% of
values are 0, and noise is a pixel value of .003.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.simulators.depth import distance
from training.simulators.fields import column, log_uniform, uniform
from training.simulators.light import to_display, to_linear

Render = Callable[[torch.Tensor], torch.Tensor]


def underexposure(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Too short an exposure: the whole frame is dimmed alike.

    Args:
        clean: [B, 3, H, W] in [0, 1].
        generator: see the package.

    Returns:
        render(strength [B] in [0, 1]) -> [B, 3, H, W] in [0, 1].
    """
    return _photograph(clean, 1.0, generator)


def nightfall(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Lamps or a flash near the camera: what is far, the sky above all, is darkest.

    Args and returns: as `underexposure`.
    """
    near = column(uniform(clean.shape[0], 0.0, 0.7, generator), clean)
    return _photograph(clean, near + (1 - near) * distance(clean, generator), generator)


def _photograph(clean: torch.Tensor, lost: torch.Tensor | float, generator: torch.Generator) -> Render:
    """Dim the light, develop it with a tone curve of its own, add noise; all of them grow with strength.

    Contrast and black level take from the shadows, the shoulder takes from the highlights: the three shape the spread
    of the degradation map.

    Args:
        lost: share of the stops that each pixel loses, 1 or [B, 1, H, W].
    """
    batch = clean.shape[0]

    def seldom(highest: float) -> torch.Tensor:
        """Mostly small, now and then dominant."""
        return column(highest * torch.rand(batch, generator=generator) ** 3, clean)

    contrast, shoulder, black = seldom(0.4), seldom(25.0), seldom(0.05)
    stops = lost * column(uniform(batch, 3.0, 12.0, generator), clean)
    # Lamps are warm, moonlight and shade are cool: red and blue fade at different rates.
    warmth = 0.2 * torch.randn(batch, generator=generator)
    green = 0.05 * torch.randn(batch, generator=generator)
    cast = torch.stack([warmth, green, -warmth], dim=1)[:, :, None, None].to(clean)
    shot = column(log_uniform(batch, 2e-5, 8e-4, generator), clean)
    read = column(log_uniform(batch, 1e-4, 1e-3, generator) ** 2, clean)
    # Mostly luminance: cameras smooth colour away.
    grain = torch.randn(batch, 1, *clean.shape[2:], generator=generator)
    noise = (0.9 * grain + 0.45 * torch.randn(clean.shape, generator=generator)).to(clean)
    scene = to_linear(clean).clamp(min=1e-6)
    log_scene = scene.log2()
    curve = cast + contrast * log_scene - (1 + shoulder * scene).log2() / 2  # of the camera, in stops

    def render(strength: torch.Tensor) -> torch.Tensor:
        s = column(strength, clean)
        set_in = 1 - torch.exp2(-5 * s)  # how far the curve and the noise have
        light = torch.exp2(log_scene + set_in * curve - s * stops)
        light = light + (set_in * (shot * light + read)).sqrt() * noise
        return (to_display(light) - black * set_in).clamp(min=0)

    return render


SIMULATORS = {"underexposure": underexposure, "nightfall": nightfall}
