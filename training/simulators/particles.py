"""How are thousands of falling particles (rain, snow) drawn and laid over a photograph?

A particle layer holds all particles of one size at one distance: random points convolved with the image that a
single moving particle leaves during the exposure. Layers add up to an optical depth tau, and a pixel keeps exp(-tau)
of the clean scene (Beer-Lambert): a near opaque streak, many faint far ones and the mist they merge into obey one law.
K. Garg, S. K. Nayar, "Vision and Rain", IJCV 75 (2007): a falling drop adds light in proportion to the share of the
exposure it covers a pixel. R. Li et al., "Heavy Rain Image Restoration", CVPR 2019: streak layers plus a veil.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Render = Callable[[torch.Tensor], torch.Tensor]

# A particle's brightness varies from _FAINTEST to 1 within its layer; the second number is the mean of the law used.
_FAINTEST, _MEAN_BRIGHTNESS = 0.3, 0.65


def particle_layers(
    height: int,
    width: int,
    coverage: torch.Tensor,
    radius: torch.Tensor,
    length: torch.Tensor,
    angle: torch.Tensor,
    blur: torch.Tensor,
    taper: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Layers of randomly placed, equally sized capsules (a disc dragged along a segment) with soft edges.

    Args:
        coverage: mean number of particles over a pixel, [B, L] for L layers.
        radius: half width of a particle in pixels, [B, L].
        length: way a particle falls during the exposure in pixels, [B, L]; at most nine tenths of the image.
        angle: direction of fall from the vertical in radians, [B, L].
        blur: width of the soft edge in pixels (at least 1 for smooth edges), [B, L].
        taper: how far a particle fades towards its ends, 0 (not at all) to 1 (to nothing).
        generator: source of the positions and brightnesses.

    Returns:
        [B, L, H, W]: 1 where one full particle covers the pixel, more where several do.
    """
    coverage, radius, angle, blur = (v[:, :, None, None] for v in (coverage, radius, angle, blur))
    half = length.clamp(max=0.9 * min(height, width))[:, :, None, None] / 2
    # The grid wraps around: a particle that leaves on one side comes in on the other.
    y = ((torch.arange(height) + height // 2) % height - height // 2)[:, None]
    x = (torch.arange(width) + width // 2) % width - width // 2
    sine, cosine = angle.sin(), angle.cos()
    along, across = (x * sine + y * cosine).abs_(), x * cosine - y * sine
    distance = torch.hypot((along - half).clamp_(min=0), across)
    kernel = ((radius - distance) / blur + 0.5).clamp_(0, 1)
    kernel *= kernel * (3 - 2 * kernel)
    kernel *= 1 - taper * (along / (half + radius)).clamp_(max=1) ** 2

    share = coverage / (_MEAN_BRIGHTNESS * kernel.sum((2, 3), keepdim=True))  # particles per pixel
    throw = torch.rand(kernel.shape, generator=generator) / share
    points = torch.where(throw < 1, _FAINTEST + (1 - _FAINTEST) * throw, 0)
    spectrum = torch.fft.rfft2(points) * torch.fft.rfft2(kernel)
    return torch.fft.irfft2(spectrum, s=(height, width)).clamp_(min=0)


def staggered(stagger: torch.Tensor, layers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """When layers come in as strength grows: all along for stagger 0, one after the other for stagger 1.

    Args:
        stagger: [B] in [0, 1].
        layers: how many.

    Returns:
        (start, span), both [B, L]: the strength at which a layer begins to show, and how much more brings it in fully.
    """
    start = stagger[:, None] * torch.arange(layers) / layers
    return start, (1 - start[:, -1:]).expand_as(start)


def compose(
    clean: torch.Tensor,
    layers: torch.Tensor,
    depth: torch.Tensor,
    start: torch.Tensor,
    span: torch.Tensor,
    colour: torch.Tensor,
    additive: torch.Tensor | float = 0.0,
) -> Render:
    """Lay particle layers over clean images.

    Args:
        clean: [B, 3, H, W] in [0, 1].
        layers: [B, L, H, W], from `particle_layers` or any other non-negative maps.
        depth: optical depth of each layer at full strength, [B, L].
        start, span: the strength at which each layer begins to show, and how much more brings it in fully, [B, L].
        colour: what an opaque particle looks like, in [0, 1], broadcastable to [B, 3, H, W].
        additive: 0: particles hide what lies behind them; 1: they add their light to it, as very short or very
            bright ones do. One number or [B].

    Returns:
        The render function: strength [B] -> [B, 3, H, W].
    """
    height, width = clean.shape[2:]
    layers, depth, start, span, colour = (v.to(clean) for v in (layers, depth, start, span, colour))
    additive = torch.as_tensor(additive).to(clean).reshape(-1, 1, 1, 1)
    # What full opacity would change; fixed, and in range for every opacity, so |change| grows with strength.
    change = torch.minimum((colour - clean) + additive * clean, 1 - clean)
    flat = layers.flatten(2)

    def render(strength: torch.Tensor) -> torch.Tensor:
        shown = ((strength.to(start)[:, None] - start) / span).clamp(0, 1)
        tau = torch.bmm((shown * depth)[:, None], flat).view(-1, 1, height, width)
        return torch.addcmul(clean, -torch.expm1(-tau), change).clamp_(0, 1)

    return render
