"""What does a photograph taken in too little light look like? Dark, crushed in the shadows, grainy, off-colour.

Light is dimmed before it is recorded. Noise follows the sensor: photon counts have a variance in proportion to the
signal, the electronics add a constant one (Foi et al., "Practical Poissonian-Gaussian noise modeling", TIP 2008), and
demosaicking smears both over neighbouring pixels. A camera's tone curve then makes pixel values of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from training.simulators.fields import column, follow_edges, fractal_noise, log_uniform, standardised, uniform
from training.simulators.light import to_display, to_linear

Render = Callable[[torch.Tensor], torch.Tensor]


def dim_exposure(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """An underexposed photograph: the whole frame dimmed alike, with a contrast, shoulder and black level of its own.

    The three shape what the dimming does to shadows and highlights, and with it the spread of the degradation map:
    a steeper contrast and a black level take from the shadows, a shoulder takes from the highlights.

    Args:
        clean: [B, 3, H, W] in [0, 1].
        generator: see the package.

    Returns:
        render(strength [B] in [0, 1]) -> [B, 3, H, W] in [0, 1].
    """
    batch = clean.shape[0]
    # Powers of a uniform draw: mostly small, now and then dominant.
    contrast, shoulder, black = torch.rand(3, batch, generator=generator) ** 4
    stops = column(uniform(batch, 1.0, 8.0, generator), clean)
    return _photograph(clean, stops, generator, contrast, 60 * shoulder, 0.4 * black)


def local_light(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """A dark scene that is lit in places: pools of light, light from one side, a vignette, broken shadow.

    Args and returns: as `dim_exposure`.
    """
    batch, _, height, width = clean.shape
    rows = torch.arange(height)[None, :, None] / 256
    columns = torch.arange(width)[None, None, :] / 256
    tall, wide = height / 256, width / 256

    # Lamps above a surface: irradiance falls off as (1 + (r / height)^2)^(-3/2) (inverse square and two cosines).
    illumination = torch.zeros(batch, height, width)
    for always in (True, False, False):
        y = uniform(batch, -0.2, 1.2, generator) * tall
        x = uniform(batch, -0.2, 1.2, generator) * wide
        lamp = log_uniform(batch, 0.12, 0.7, generator)
        power = torch.ones(batch) if always else torch.randn(batch, generator=generator).clamp(0, 1)
        squared = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
        pool = (1 + squared / lamp[:, None, None] ** 2) ** -1.5
        illumination = torch.maximum(illumination, power[:, None, None] * pool)
    # Close to a lamp the exposure is right, far away only the ambient light is left: stops of light lost, 0 to 1.
    plateau = log_uniform(batch, 1.0, 12.0, generator)[:, None, None]
    illumination = (plateau * illumination / illumination.amax((1, 2), keepdim=True)).clamp(max=1)
    ambient = log_uniform(batch, 0.002, 0.3, generator)[:, None, None]
    unlit = (torch.log(ambient + (1 - ambient) * illumination) / torch.log(ambient))[:, None].to(clean)

    # Broad shadows with irregular edges. What was bright by day, the sky above all, is often what is dark by night.
    daylight = clean.mean(1, keepdim=True)
    for window, padding in (((25, 1), (12, 0)), ((1, 25), (0, 12))):
        daylight = F.avg_pool2d(daylight, window, stride=1, padding=padding, count_include_pad=False)
    irregular = fractal_noise(batch, height, width, generator, scale=log_uniform(batch, 80, 300, generator)).to(clean)
    by_day = column(uniform(batch, 0.0, 1.5, generator), clean)
    edge = column(log_uniform(batch, 0.1, 1.0, generator), clean)
    threshold = column(uniform(batch, -0.8, 0.8, generator), clean)
    shadow = standardised(irregular + by_day * standardised(daylight)) - threshold
    shadow = torch.sigmoid(follow_edges(shadow, clean) / edge)

    # How the stops are shared out; powers let one cause dominate.
    shares = torch.rand(3, batch, generator=generator) ** 4 * torch.tensor([[0.3], [1.0], [1.0]]) + 1e-4
    shares = shares / shares.sum(0) * log_uniform(batch, 5.0, 14.0, generator)
    overall, lamps, shadows = (column(share, clean) for share in shares)
    return _photograph(clean, overall + lamps * unlit + shadows * shadow, generator)


def spot_light(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """A dark scene of which a lamp, a window or headlights pick out a part: the stronger, the smaller that part.

    Args and returns: as `dim_exposure`.
    """
    batch, _, height, width = clean.shape
    y, x = (uniform(batch, 0.1, 0.9, generator)[:, None, None, None] * side for side in (height, width))
    rows, columns = torch.arange(height)[:, None] - y, torch.arange(width) - x
    # A pool of light, longer in one direction; very long, it is light that falls in from one side.
    turn = uniform(batch, 0.0, 3.14159, generator)[:, None, None, None]
    longer = log_uniform(batch, 1.0, 8.0, generator)[:, None, None, None]
    along, across = rows * turn.cos() + columns * turn.sin(), columns * turn.cos() - rows * turn.sin()
    distance = standardised(((along / longer) ** 2 + across**2).sqrt().to(clean))
    irregular = fractal_noise(batch, height, width, generator, scale=log_uniform(batch, 80, 250, generator)).to(clean)
    field = distance + 0.25 * irregular
    # Ranks, so that strength is about the share of the picture that is dark.
    rank = field.flatten(1).argsort(1).argsort(1).to(clean).view_as(field) / (height * width)
    edge = column(log_uniform(batch, 0.25, 1.0, generator), clean)
    depth = column(uniform(batch, 3.0, 7.0, generator), clean)

    def stops(strength: torch.Tensor) -> torch.Tensor:
        return depth * ((strength * (1 + edge) - 1 + rank) / edge).clamp(0, 1)

    return _photograph(clean, stops, generator)


def _photograph(
    clean: torch.Tensor,
    stops: torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
    generator: torch.Generator,
    contrast: torch.Tensor | float = 0.0,
    shoulder: torch.Tensor | float = 0.0,
    black: torch.Tensor | float = 0.0,
) -> Render:
    """Dim the light, add noise, develop; every one of the changes grows with strength.

    Args:
        stops: halvings of the light at strength 1, [B, 1, 1, 1] or [B, 1, H, W], at least 0; or a function of the
            strength [B, 1, 1, 1] that returns them.
        contrast: what strength 1 adds to the exponent of the light, [B] or a number.
        shoulder: compression of highlights at strength 1: light x becomes x / (1 + shoulder x), [B] or a number.
        black: pixel value that strength 1 subtracts, [B] or a number.
    """
    batch = clean.shape[0]
    log_light = to_linear(clean).clamp(min=1e-6).log2()
    # Lamps are warm, moonlight and shade are cool: red and blue fade at different rates.
    warmth = 0.08 * torch.randn(batch, generator=generator)
    green = 0.02 * torch.randn(batch, generator=generator)
    cast = 1 + torch.stack([-warmth, green, warmth], dim=1)[:, :, None, None].to(clean)
    shot = column(log_uniform(batch, 2e-4, 3e-3, generator), clean)
    read = column(log_uniform(batch, 2e-4, 1.5e-3, generator) ** 2, clean)
    noise = _sensor_noise(clean, generator)
    contrast, shoulder, black = (
        column(torch.as_tensor(v, dtype=clean.dtype).expand(batch), clean) for v in (contrast, shoulder, black)
    )

    def render(strength: torch.Tensor) -> torch.Tensor:
        s = column(strength, clean)
        # The last part of the way goes to black whatever the draws.
        lost = stops(s) if callable(stops) else s * stops
        light = torch.exp2((1 + contrast * s) * log_light - lost * cast - 9 * s**6)
        light = light / (1 + shoulder * s * light)
        amount = 1 - torch.exp2(-4 * s)
        light = light + (amount * (shot * light + read)).sqrt() * noise
        return (to_display(light) - black * s).clamp(min=0)

    return render


def _sensor_noise(clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise of unit variance like `clean`, correlated between neighbours as after demosaicking."""
    batch, _, height, width = clean.shape
    white = torch.randn(batch, 3, height + 2, width + 2, generator=generator)
    smear = torch.rand(batch, generator=generator)[:, None] * torch.tensor([0.25, 0.0, 0.25])
    smear[:, 1] = 1 - smear.sum(1)
    smear = smear / smear.square().sum(1, keepdim=True).sqrt()
    rows = smear.repeat_interleave(3, 0)[:, None, :, None]
    columns = smear.repeat_interleave(3, 0)[:, None, None, :]
    flat = white.view(1, batch * 3, height + 2, width + 2)
    flat = F.conv2d(F.conv2d(flat, rows, groups=batch * 3), columns, groups=batch * 3)
    return flat.view(batch, 3, height, width).to(clean)


SIMULATORS = {"dim_exposure": dim_exposure, "local_light": local_light, "spot_light": spot_light}
