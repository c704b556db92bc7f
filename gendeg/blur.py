"""Which way did the light move in a blurred image? A camera that moves takes the light of the whole frame one way.

Small networks tear edges and leave sharp ghosts; the one kernel that comes nearest to what they made does not, and it
blurs the photograph at its own size as well.
"""

from __future__ import annotations

import torch
from skimage.measure import label
from torch.nn import functional as F

from gendeg.image_forms import resize

_REACH = 40  # pixels to each side that light may move
_NOISE = 1e-2  # of the spectrum's mean power: frequencies with less say little about the way of the light
_FAINT = 0.08  # of a way's brightest point: what is fainter is noise
_EXPLAINED = 0.9  # of an image's change may be missed by the way that is found for it


def move_light(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """`clean`, its light moved along one way, the one that comes nearest to `degraded`.

    Images that no one way explains stay as they are.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    ways = [way_of_light(*pair) for pair in zip(clean, degraded, strict=True)]
    images = zip(clean, degraded, ways, strict=True)
    return torch.stack([image if way is None else convolve(photo, way) for photo, image, way in images])


def way_of_light(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor | None:
    """How light has moved in the whole of an image [3, H, W]: a kernel [k, k] of sum 1; None: no way explains it.

    Wiener's quotient of the spectra; made longer or shorter until it changes as much as `degraded` is changed.
    """
    height, width = clean.shape[1:]
    fade = torch.outer(*(torch.hann_window(n, periodic=False, device=clean.device).sqrt() for n in (height, width)))
    x, y = (torch.fft.rfft2((image - image.mean((1, 2), keepdim=True)) * fade) for image in (clean, degraded))
    weight = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)).to(clean.device)
    power = weight * x.abs().square().sum(0)
    way = torch.fft.irfft2(weight * (x.conj() * y).sum(0) / (power + _NOISE * power.mean() + 1e-12), s=(height, width))
    reach = min(_REACH, (min(height, width) - 1) // 2)
    way = torch.fft.fftshift(way)[height // 2 - reach :, width // 2 - reach :][: 2 * reach + 1, : 2 * reach + 1]
    way = connected((way - _FAINT * way.max()).clamp(min=0))
    way[reach, reach] += 1e-6  # it has a sum, whatever was found
    way, change = way / way.sum(), (degraded - clean).abs().mean()
    if (degraded - convolve(clean, way)).abs().mean() > _EXPLAINED * change:
        return None
    for _ in range(4):
        moved = (convolve(clean, way) - clean).abs().mean()
        way = enlarged(way, float((change + 1e-6) / (moved + 1e-6)))
        beyond = max(0, way.shape[0] // 2 - reach)
        way = way[beyond : way.shape[0] - beyond, beyond : way.shape[0] - beyond]
        way = way / way.sum().clamp(min=1e-12)
    return way


def connected(way: torch.Tensor) -> torch.Tensor:
    """What of a kernel [k, k] touches its brightest point: light moves without leaps."""
    parts = torch.from_numpy(label((way > 0).cpu().numpy(), connectivity=2)).to(way.device)
    return way * (parts == parts.flatten()[way.argmax()])


def enlarged(way: torch.Tensor, factor: float) -> torch.Tensor:
    """A kernel, odd sides and of sum 1, at another size."""
    side = 2 * round(way.shape[0] * factor / 2 - 0.5) + 1
    way = resize(way[None], (side, side))[0].clamp(min=0)
    return way / way.sum()


def convolve(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """An image [3, H, W], float in [0, 1] or uint8, with a kernel [k, k] of odd side, over mirrored borders."""
    reach, result = kernel.shape[0] // 2, torch.empty_like(image)
    for channel, convolved in zip(image, result, strict=True):
        padded = F.pad(channel.float()[None, None], (reach,) * 4, mode="reflect")[0, 0]
        spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=padded.shape)
        values = torch.fft.irfft2(spectrum, s=padded.shape)[2 * reach :, 2 * reach :]
        convolved.copy_(values.clamp(0, 1) if image.is_floating_point() else values.round().clamp(0, 255))
    return result
