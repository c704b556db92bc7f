"""What does a photograph taken in too little light look like? Dark, crushed in the shadows, off-colour, finely grainy.

All of the scene's light is dimmed alike before it is recorded. Noise follows the sensor: photon counts have a variance
in proportion to the signal, the electronics add a constant one (Foi et al., "Practical Poissonian-Gaussian noise
modeling", TIP 2008); at the size of these images most of it is in the brightness. A camera's tone curve then makes pixel
values of it. Ranges are those of LOL (arXiv 1808.04560): 4 to 7 stops, exponents of .8 to 1.25, casts of .3 stops.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.simulators.fields import column, log_uniform, uniform
from training.simulators.light import to_display, to_linear

Render = Callable[[torch.Tensor], torch.Tensor]


def underexposure(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """Too short an exposure, developed with a contrast, a shoulder and a black level of its own.

    The three shape what the dimming does to shadows and highlights, and with it the spread of the degradation map:
    contrast and black level take from the shadows, the shoulder takes from the highlights.

    Args:
        clean: [B, 3, H, W] in [0, 1].
        generator: see the package.

    Returns:
        render(strength [B] in [0, 1]) -> [B, 3, H, W] in [0, 1].
    """
    batch = clean.shape[0]

    def seldom(highest: float) -> torch.Tensor:
        """Mostly small, now and then dominant."""
        return column(highest * torch.rand(batch, generator=generator) ** 3, clean)

    contrast, shoulder, black = seldom(1.0), seldom(8.0), seldom(0.12)
    stops = column(uniform(batch, 2.0, 12.0, generator), clean)
    # Lamps are warm, moonlight and shade are cool: red and blue fade at different rates.
    warmth = 0.25 * torch.randn(batch, generator=generator)
    green = 0.06 * torch.randn(batch, generator=generator)
    cast = torch.stack([warmth, green, -warmth], dim=1)[:, :, None, None].to(clean)
    shot = column(log_uniform(batch, 2e-5, 8e-4, generator), clean)
    read = column(log_uniform(batch, 1e-4, 1e-3, generator) ** 2, clean)
    grain = torch.randn(batch, 1, *clean.shape[2:], generator=generator)
    noise = 0.9 * grain + 0.45 * torch.randn(clean.shape, generator=generator)
    noise = noise.to(clean)
    log_light = to_linear(clean).clamp(min=1e-6).log2()

    def render(strength: torch.Tensor) -> torch.Tensor:
        s = column(strength, clean)
        developed = 1 - torch.exp2(-5 * s)  # how far the camera's own curve has set in
        light = torch.exp2((1 + contrast * developed) * log_light - s * stops + developed * cast)
        light = light / (1 + shoulder * developed * light)
        light = light + (developed * (shot * light + read)).sqrt() * noise
        return (to_display(light) - black * developed).clamp(min=0)

    return render


SIMULATORS = {"underexposure": underexposure}
