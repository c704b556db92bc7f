"""What can a degradation do to a pixel? The picture nearest to a generated one that keeps to it.

Rain and snow lay white over a scene: they tint nothing and darken nothing. A moving camera moves the light of the whole
frame alike. A drop shows the colours around it. Low light takes light away smoothly. The small networks are not exact
in that; tinted flakes, torn edges, rainbows in drops and the codec's 8 x 8 blocks in the dark are their mistakes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from gendeg.detail import convolve, mean_around, resized, transfer_detail

_REACH = 24  # pixels to each side that a blur may carry light
_NOISE = 1e-2  # of the spectrum's mean power: frequencies with less say little about the way of the light
_EXPLAINED = 0.7  # of a picture's change may be missed by the way that is found for it
_FAINT = 0.08  # of a way's brightest point: what is fainter is noise
_AROUND = 16  # pixels to each side whose mean colour a drop has
_FULL = 1 / 8  # mean change from which on a drop has no other colour than that
_NEAR = 8  # pixels to each side within which darkness changes smoothly
_DARK = 0.02  # added to values whose ratio is taken: black tells nothing about light that is lost
_CONTRAST = 1e-3  # variance of brightness from which on darkness may follow edges


def lay_white(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """White over `clean`, in each pixel as opaque, the same in all colours, as comes nearest to `degraded`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    room = 1 - clean
    opacity = ((degraded - clean) * room).sum(1, keepdim=True) / room.square().sum(1, keepdim=True).clamp(min=1e-4)
    return clean + opacity.clamp(0, 1) * room


def dim(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """`clean` with less light, by a factor that changes smoothly but for edges; arguments as above.

    The factor's logarithm is filtered, guided by the brightness of `clean` (He, Sun and Tang, "Guided image filtering",
    TPAMI 2013).
    """

    def near(image: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(image, 2 * _NEAR + 1, stride=1, padding=_NEAR, count_include_pad=False)

    factor = ((degraded + _DARK) / (clean + _DARK)).log()
    brightness, middle_factor = clean.mean(1, keepdim=True), near(factor)
    middle = near(brightness)
    slope = near(brightness * factor) - middle * middle_factor
    slope = slope / (near(brightness.square()) - middle.square() + _CONTRAST)
    factor = near(slope) * brightness + near(middle_factor - slope * middle)
    return ((clean + _DARK) * factor.clamp(max=0).exp() - _DARK).clamp(0, 1)


def move_light(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """`clean`, its light moved along one way, the one that comes nearest to `degraded`; arguments as above.

    Images that no one way explains stay as they are.
    """
    moved = torch.stack([convolve(*pair) for pair in zip(clean, ways_of_light(clean, degraded), strict=True)])
    missed, change = ((degraded - image).abs().mean((1, 2, 3), keepdim=True) for image in (moved, clean))
    return torch.where(missed < _EXPLAINED * change, moved, degraded)


def ways_of_light(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """How light has moved in each image [B, 3, H, W]: kernels [B, k, k] of sum 1, by Wiener's quotient of spectra."""
    height, width = clean.shape[-2:]
    fade = torch.outer(*(torch.hann_window(n, periodic=False, device=clean.device).sqrt() for n in (height, width)))
    x, y = (torch.fft.rfft2((i - i.mean((-2, -1), keepdim=True)) * fade) for i in (clean, degraded))
    weight = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)).to(clean.device)
    power = weight * x.abs().square().sum(1)
    way = weight * (x.conj() * y).sum(1) / (power + _NOISE * power.mean((-2, -1), keepdim=True) + 1e-12)
    way = torch.fft.fftshift(torch.fft.irfft2(way, s=(height, width)), dim=(-2, -1))
    reach = min(_REACH, (min(height, width) - 1) // 2)
    way = way[:, height // 2 - reach :, width // 2 - reach :][:, : 2 * reach + 1, : 2 * reach + 1]
    way = (way - _FAINT * way.amax((-2, -1), keepdim=True)).clamp(min=0)
    way[:, reach, reach] += 1e-6  # it has a sum, whatever was found
    return way / way.sum((-2, -1), keepdim=True)


def show_surroundings(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """The brightness of `degraded` in the colours of `clean`, those around where it differs; arguments as above."""
    changed = mean_around((degraded - clean).abs().mean(1), 2)[:, None].div(_FULL).clamp(max=1)
    around = torch.stack([mean_around(image, _AROUND) for image in clean])
    colours = [image - image.mean(1, keepdim=True) for image in (clean, around)]
    return (degraded.mean(1, keepdim=True) + torch.lerp(*colours, changed)).clamp(0, 1)


RULES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {  # of haze none made a picture better
    "rain": lay_white,
    "snow": lay_white,
    "motion_blur": move_light,
    "raindrop": show_surroundings,
    "low_light": dim,
}


def at_size(name: str, photo: torch.Tensor, clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """The photograph, uint8 [3, H, W], as its small copy `clean` became `degraded` by a rule, both [3, h, w]."""
    if name == "motion_blur":
        (way,) = ways_of_light(clean[None], degraded[None])
        if (convolve(clean, way) - degraded).abs().mean() < 0.1 * (clean - degraded).abs().mean():
            side = 2 * round(way.shape[0] * photo.shape[2] / clean.shape[2] / 2) + 1
            large = resized(way[None], side, side)[0].clamp(min=0)
            return convolve(photo, large / large.sum())
    return transfer_detail(photo, clean, degraded)
