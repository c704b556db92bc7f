"""What does a camera that moves during the exposure record? The scene, summed along its path over the sensor.

Light is summed, not pixel values. A camera in a hand shakes along an irregular path (Boracchi and Foi, "Modeling the
performance of image restoration from motion blur", TIP 2012); one that pans or rides moves steadily, and what it turns
or approaches moves more, the farther from the centre of that motion. Strength scales the path. Its time average lies
at the origin, so that the scene stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.fft import next_fast_len
from torch.nn import functional as F

from training.simulators.fields import column, uniform
from training.simulators.light import to_display, to_linear

Render = Callable[[torch.Tensor], torch.Tensor]

# Farthest that a path goes from its centre at strength 1, in pixels: kernels are up to 41 pixels wide.
_REACH = 20
_INSTANTS = 96
_TREBLINGS = 3
_ANGLES = 24  # told apart by `directions`
_DIRECTED = 0.75  # energy left along the blur, in relation to that across it, above which it has no direction


def steady_motion(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """The camera moves at constant speed: it is shifted, and turned and brought nearer a little.

    Args:
        clean: [B, 3, H, W] in [0, 1].
        generator: see the package.

    Returns:
        render(strength [B] in [0, 1]) -> [B, 3, H, W] in [0, 1].
    """
    batch, _, height, width = clean.shape
    angle = uniform(batch, 0.0, 2 * math.pi, generator)
    turn, nearer = 0.35 / 128 * torch.randn(2, batch, generator=generator)
    x, y = torch.arange(width) - (width - 1) / 2, (torch.arange(height) - (height - 1) / 2)[:, None]
    turn, nearer, across, up = (v[:, None, None] for v in (turn, nearer, angle.cos(), angle.sin()))
    # The way of each pixel at strength 1, in the units of `grid_sample`: half the image is 1.
    way = torch.stack([(across + nearer * x - turn * y) / width, (up + nearer * y + turn * x) / height], dim=3)
    way = (4 * _REACH * way).to(clean)
    place = torch.stack(torch.broadcast_tensors(2 * x / width, 2 * y / height), dim=2).to(clean)
    light = to_linear(clean)

    def render(strength: torch.Tensor) -> torch.Tensor:
        moved = light
        # The mean with a copy shifted to each side, of that again, ...: 3 ** _TREBLINGS instants, evenly along the way.
        for trebling in range(1, _TREBLINGS + 1):
            shift = way * column(strength, clean) / 3**trebling
            moved = (moved + _sample(moved, place - shift) + _sample(moved, place + shift)) / 3
        return torch.where(column(strength, clean) > 0, to_display(moved), clean)  # sampling rounds

    return render


def camera_shake(clean: torch.Tensor, generator: torch.Generator) -> Render:
    """The camera shakes in the hand: an irregular smooth path.

    Args and returns: as `steady_motion`.
    """
    path, convolve = _shaken_path(clean.shape[0], generator), _convolver(clean)
    return lambda strength: to_display(convolve(path, strength))


def directions(clean: torch.Tensor, blurred: torch.Tensor) -> list[float | None]:
    """The direction that each image has been blurred along: where its gradients have lost most of their energy.

    Args:
        clean, blurred: [B, 3, H, W].

    Returns:
        Degrees counter-clockwise from the horizontal, from 0 to 180, mostly right within 10; None if it is blurred in
        all directions alike.
    """
    angle = torch.arange(_ANGLES, device=clean.device) * (math.pi / _ANGLES)
    energies = []
    for images in (clean, blurred):
        grey = images.mean(1)
        across, up = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1]
        squares = torch.stack([across.square(), 2 * across * up, up.square()], dim=1).mean((2, 3))
        cosine, sine = angle.cos(), angle.sin()
        energies.append(squares @ torch.stack([cosine.square(), cosine * sine, sine.square()]))
    left = energies[1] / energies[0].clamp(min=1e-8)  # [B, angles]
    directed = (left.amin(1) <= _DIRECTED * left.amax(1)).tolist()
    return [i * 180 / _ANGLES if clear else None for i, clear in zip(left.argmin(1).tolist(), directed, strict=True)]


def _sample(image: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(image, place, padding_mode="reflection", align_corners=False)


def _shaken_path(batch: int, generator: torch.Generator) -> torch.Tensor:
    """[B, instants, 2]: a drift with a tremor, whose amplitudes fall with frequency."""
    time = torch.linspace(0, 1, _INSTANTS)
    drift = torch.randn(batch, 1, 2, generator=generator) * time[None, :, None]
    frequency = torch.arange(1, 6) / 2  # cycles per exposure
    phase = 2 * math.pi * torch.rand(batch, 1, 2, 5, generator=generator)
    waves = torch.sin(2 * math.pi * frequency * time[:, None, None] + phase)  # [B, instants, 2, 5]
    decay = uniform(batch, 1.0, 2.0, generator)[:, None, None, None]
    amplitude = torch.randn(batch, 1, 2, 5, generator=generator) * (2 * frequency) ** -decay
    path = drift + 0.6 * (amplitude * waves).sum(3)
    path = path - path.mean(1, keepdim=True)
    return _REACH * path / path.norm(dim=2, keepdim=True).amax(1, keepdim=True).clamp(min=1e-6)


def _convolver(clean: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """convolve(path [B, instants, 2], strength [B]): the light [B, 3, H, W] of the image moved along strength * path.

    The image is mirrored at its borders and transformed once; each call costs one transform of the kernel and one back.
    """
    height, width = clean.shape[-2:]
    light = F.pad(to_linear(clean), (_REACH,) * 4, mode="reflect")
    # Even lengths of small factors transform fastest; what is added wraps around but stays out of reach.
    size = [2 * next_fast_len(-(-n // 2), real=True) for n in light.shape[-2:]]
    spectrum = torch.fft.rfft2(light, s=size)
    offsets = torch.arange(-_REACH, _REACH + 1, device=clean.device)

    def convolve(path: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        position = path.to(clean) * strength.to(clean)[:, None, None]
        # Each instant lands on the four pixels around it, in proportion to nearness.
        weight = (1 - (position[..., None] - offsets).abs()).clamp(min=0)  # [B, instants, 2, K]
        kernel = weight[:, :, 0].transpose(1, 2) @ weight[:, :, 1] / _INSTANTS  # [B, K, K]
        response = torch.fft.rfft2(kernel[:, None], s=size)
        moved = torch.fft.irfft2(spectrum * response, s=size)
        # The kernel's centre lies at (reach, reach), which shifts the result by as much beyond the padding.
        return moved[..., 2 * _REACH : 2 * _REACH + height, 2 * _REACH : 2 * _REACH + width]

    return convolve


SIMULATORS = {"steady_motion": steady_motion, "camera_shake": camera_shake}
