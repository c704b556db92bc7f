"""How does a degradation made at the model's working size get onto the photograph at its own size?

As two layers, found at working size and enlarged: degraded = transmission x clean + veil. Transmission, one a pixel,
is how much of the photograph's detail comes through: 1 beside a snowflake, 0 under it or in a blur. The veil is the
rest: flakes, streaks, airlight, or a whole blurred image. (Compare the fast guided filter, arXiv 1505.00996.)
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gendeg.image_forms import resize

STRIP = 128  # rows of the photograph worked on at once, which bounds memory
TELLING_VARIANCE = 1e-4  # of the clean image's local detail: with less, a square's own regression says little
REACHES = (27, 9, 5)  # of the squares that transmission is measured in, coarse to fine


def mean_around(image: torch.Tensor, reach: int) -> torch.Tensor:
    """Means over squares that reach so many pixels to each side, as far as the image goes, [..., h, w]."""
    middle = image.float().mean((-2, -1), keepdim=True)  # without it, sums stay small and exact
    mean = image.float() - middle
    for _ in range(2):  # by differences of running sums, which cost the same for any reach
        mean = mean.transpose(-1, -2)
        size = mean.shape[-2]
        sums = F.pad(mean.cumsum(-2), (0, 0, reach + 1, 0))
        sums = torch.cat([sums, sums[..., -1:, :].expand(*sums.shape[:-2], reach, -1)], -2)
        place = torch.arange(size, device=image.device)
        count = place.add(reach + 1).clamp(max=size) - place.sub(reach).clamp(min=0)
        mean = (sums[..., 2 * reach + 1 :, :] - sums[..., :size, :]) / count[:, None]
    return (mean + middle).to(image.dtype)


def slopes(clean: torch.Tensor, degraded: torch.Tensor, finest: int) -> list[torch.Tensor]:
    """Regression of degraded on clean detail finer than `finest`, in large squares to small ones: [1, h, w] each."""
    x, y = (image - mean_around(image, finest) for image in (clean, degraded))
    shared, own = (x * y).mean(0, keepdim=True), (x * x).mean(0, keepdim=True)
    found = [(shared.mean() + 1e-12) / (own.mean() + 1e-12)]
    for reach in REACHES:  # a square that holds too little detail to tell takes the larger one's word
        own_here = mean_around(own, reach) + TELLING_VARIANCE
        found.append(((mean_around(shared, reach) + TELLING_VARIANCE * found[-1]) / own_here).clamp(0, 1))
    return found[1:]


def transmission(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """How much of the clean image's fine detail is left, [3, h, w] twice to [1, h, w]."""
    (around, _, fine), (*_, coarse) = slopes(clean, degraded, 1), slopes(clean, degraded, 4)
    # A veil weakens fine and coarse alike; networks soften a little; what blurs, takes the more the finer detail is.
    here = coarse * (fine / (0.9 * coarse.clamp(min=1e-3))).clamp(max=1) ** 2
    # Squares are wider than a streak: beside it, where the veil is what it is in most places, it hides nothing.
    veil, weight = degraded - around * clean, torch.ones_like(around)
    for _ in range(3):  # weights that fall with the distance from the mean draw it to what is usual
        usual = mean_around(weight * veil, REACHES[0]) / mean_around(weight, REACHES[0])
        weight = (0.02 + (veil - usual).abs().mean(0, keepdim=True)) ** -2
    unusual = (veil - usual).abs().mean(0, keepdim=True) + 0.01
    share = (mean_around(unusual, 1) / mean_around(unusual, 9)).clamp(max=1) ** 4
    return 1 - (1 - here) * (1 - around * (1 - share))


def transfer_detail(
    photo: torch.Tensor,
    clean: torch.Tensor,
    degraded: torch.Tensor,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """Degrade a photograph as its small copy was degraded: of the type and size of `photo`, exact if nothing changed.

    Args:
        photo: uint8 tensor [3, H, W], or float in [0, 1].
        clean, degraded: float tensors [3, h, w] in [0, 1]: the photograph at the working size (or, at that size
            itself, the codec's rendering of it), and what the model made of it.
        kept: [1, h, w], how much of the clean detail is left where that is known; None: estimated (`transmission`).

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if photo.ndim != 3 or clean.shape != degraded.shape or clean.shape[0] != photo.shape[0]:
        raise ValueError(f"Shapes do not fit: {[tuple(i.shape) for i in (photo, clean, degraded)]}.")
    height, width = photo.shape[1:]
    here = transmission(clean, degraded) if kept is None else kept
    layers = torch.cat([degraded - clean + (1 - here) * clean, 1 - here])  # exact zeros where nothing changed
    if height > clean.shape[1]:  # enlarging is soft: what it would lose is added before
        size = layers.shape[1:]
        layers = 2 * layers - resize(resize(layers, (2 * size[0], 2 * size[1])), size)
    layers = resize(layers, (height, layers.shape[2]))
    result, white = torch.empty_like(photo), 255 if photo.dtype == torch.uint8 else 1
    for top in range(0, height, STRIP):
        rows = slice(top, top + STRIP)
        strip = photo[:, rows].float() / white
        veil, lost = resize(layers[:, rows], (strip.shape[1], width)).split([3, 1])
        strip = (strip + veil - lost * strip).clamp_(0, 1)
        result[:, rows] = (strip * white).round_() if photo.dtype == torch.uint8 else strip
    return result
