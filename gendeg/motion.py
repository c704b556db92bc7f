"""Along which path did the camera move while it took a generated image? And the photograph, moved along that path.

Motion blur adds up the light of a scene along a path, which is the same all over the image or shorter in some parts
of it. A small generator gets the path right and details wrong: crumbs and combs at strong edges. So the path is fitted
to the generated image, part by part, as a kernel of weights that are not negative and sum to one, and the photograph
itself is convolved with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from gendeg.borders import extended
from gendeg.intensity import Nearest, asked_intensity
from gendeg.light import to_display, to_linear

_REACH = 20  # pixels that light moves at most, to each side
_SIZE, _LAGS = 2 * _REACH + 1, 4 * _REACH + 1  # of a kernel, and of the differences between two places in it
_TILE = 128  # pixels; each has a kernel of its own, and half of it overlaps with the next
_ROUNDS, _ROUNDS_IN_TILES = 100, 60  # of the fit, for the whole image, and then for each tile
_COMMON = 0.2  # weight of the whole image in the fit of a tile: a sky tells nothing about a path
_LEFT_OPEN = 1e-3  # share of a tile's first kernel that may become a path other than the image's
_EXPONENT = 1.8  # of a round's correction, for speed
_THIN = 2  # power to which a path's weights are raised: paths are thin
_SHORTER = (0.8, 0.6, 0.4, 0.2)  # lengths at which a path is laid over itself: it has no gaps
_STRETCH = (0.3, 2.5)  # least and most by which a thin path is made longer, to be as strong as it should
_UNEVEN = 1.0  # highest exponent of how much longer paths become where the image is changed more
_TRIES, _STEP = 9, 1.2  # of the search for both


def move_light(
    clean: torch.Tensor,
    degraded: torch.Tensor,
    over: torch.Tensor | None = None,
    mu: Sequence[float | None] | None = None,
    sigma: Sequence[float | None] | None = None,
) -> torch.Tensor:
    """The photograph, its light moved along the path, in all parts of the image, that explains `degraded` best.

    Paths become thin lines without gaps, all as much longer or shorter as brings mu near to what it should be, and
    those of parts that are blurred much more so than others, or less, as sigma asks.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        over: whose light is moved, instead of that of `clean`, which has the codec's errors as `degraded` has.
        mu, sigma: what should be reached, one each; None: see `gendeg.intensity.asked_intensity`.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    over = clean if over is None else over
    asked_mu, asked_sigma = asked_intensity(clean, degraded, mu, sigma)
    nearest = Nearest(asked_mu, asked_sigma)
    tiles = _Tiles(over)
    strong = (tiles.cut(degraded, 0) - tiles.cut(clean, 0)).abs().mean((3, 4, 5)).clamp(min=1e-4)
    strong = (strong / strong.mean((1, 2), keepdim=True)).log()
    paths = _unbroken(_normalised(_kernels(tiles, clean, degraded) ** _THIN))
    light = torch.fft.rfft2(tiles.cut(over, _REACH))
    length, uneven = torch.zeros(2, len(over), 1, 1, device=over.device)  # logarithm of how much longer, and exponent
    bounds = [math.log(bound) for bound in _STRETCH]
    for _ in range(_TRIES):
        factor = (length + uneven * strong).clamp(*bounds).exp()
        moved = tiles.joined(_convolved(light, _normalised(_resized(paths, factor)), tiles.side(_REACH)))
        reached_mu, reached_sigma = nearest.offer(over, moved)
        length = (length + _STEP * (asked_mu / reached_mu).log()[:, None, None]).clamp(*bounds)
        spread = (asked_sigma / asked_mu * reached_mu / reached_sigma).log()[:, None, None]
        uneven = (uneven + _STEP * spread).clamp(-_UNEVEN, _UNEVEN)
    return nearest.images


class _Tiles:
    """Overlapping square tiles of images like `image`, and images made of them again; in linear light."""

    def __init__(self, image: torch.Tensor):
        self.height, self.width = image.shape[2:]
        step = _TILE // 2
        self.rows, self.columns = (math.ceil(side / step) + 1 for side in (self.height, self.width))
        self.size = ((self.rows + 1) * step, (self.columns + 1) * step)  # of the image with a margin
        window = torch.hann_window(_TILE, device=image.device)
        self.window = window[:, None] * window

    def side(self, margin: int) -> int:
        return _TILE + 2 * margin

    def cut(self, image: torch.Tensor, margin: int) -> torch.Tensor:
        """[B, 3, H, W] in [0, 1] to [B, rows, columns, 3, side, side]."""
        step = _TILE // 2
        before = step + margin
        image = extended(
            to_linear(image),
            (before, self.size[1] - self.width - step + margin),
            (before, self.size[0] - self.height - step + margin),
        )
        return image.unfold(2, self.side(margin), step).unfold(3, self.side(margin), step).permute(0, 2, 3, 1, 4, 5)

    def joined(self, tiles: torch.Tensor) -> torch.Tensor:
        """[B, rows, columns, 3, tile, tile] to [B, 3, H, W] in [0, 1]."""
        count, step = self.rows * self.columns, _TILE // 2
        parts = (tiles * self.window).permute(0, 3, 4, 5, 1, 2).reshape(len(tiles), -1, count)
        weights = self.window.reshape(1, -1, 1).expand(1, -1, count)
        image, weight = (F.fold(part, self.size, _TILE, stride=step) for part in (parts, weights))
        middle = (image / weight.clamp(min=1e-6))[..., step : step + self.height, step : step + self.width]
        return to_display(middle)


def _kernels(tiles: _Tiles, clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """Kernels [B, rows, columns, size, size] with which the tiles of `clean` are most like those of `degraded`.

    First one for the whole image is fitted, then those of the tiles, which begin with it. What it does not reach is
    nearly closed to them, as each round multiplies weights.
    """
    spectra = []
    for image in (clean, degraded):
        parts = tiles.cut(image, 0)
        mean = (parts * tiles.window).sum((-1, -2), keepdim=True) / tiles.window.sum()
        spectra.append(torch.fft.rfft2((parts - mean) * tiles.window.sqrt(), s=(tiles.side(_REACH),) * 2))
    auto, cross = (
        torch.fft.irfft2((spectra[0].conj() * other).sum(3), s=(tiles.side(_REACH),) * 2) for other in spectra
    )
    lags = torch.arange(-2 * _REACH, 2 * _REACH + 1, device=clean.device)
    auto = auto[..., lags[:, None], lags].roll((-2 * _REACH,) * 2, (-2, -1))  # no lag comes first
    near = lags[_REACH:-_REACH]
    cross = cross[..., near[:, None], near]
    common_auto, common_cross = (part.mean((1, 2), keepdim=True) for part in (auto, cross))
    kernel = _fitted(common_auto, common_cross, torch.full_like(common_cross, 1 / _SIZE**2), _ROUNDS)
    kernel = kernel * (1 - _LEFT_OPEN) + _LEFT_OPEN / _SIZE**2
    return _fitted(
        auto + _COMMON * common_auto, cross + _COMMON * common_cross, kernel.expand_as(cross), _ROUNDS_IN_TILES
    )


def _fitted(auto: torch.Tensor, cross: torch.Tensor, kernel: torch.Tensor, rounds: int) -> torch.Tensor:
    """Least squares by multiplied corrections, which keep weights positive (Daube-Witherspoon and Muehllehner, 1986).

    Args:
        auto: correlation of the clean tiles with themselves, [..., lags, lags].
        cross: with the degraded tiles, [..., size, size].
        kernel: to begin with, like `cross`.
        rounds: number of corrections.
    """
    energy = auto[..., :1, :1].clamp(min=1e-6)
    spectrum, cross = torch.fft.rfft2(auto / energy), cross / energy
    for _ in range(rounds):
        explained = torch.fft.irfft2(torch.fft.rfft2(kernel, s=(_LAGS,) * 2) * spectrum, s=(_LAGS,) * 2)
        explained = explained[..., :_SIZE, :_SIZE]
        # The same number on both sides makes them positive, and asks that weights sum to one.
        correction = (cross + 1).clamp(min=1e-6) / (explained + kernel.sum((-1, -2), keepdim=True)).clamp(min=1e-6)
        kernel = kernel * correction**_EXPONENT
    return _normalised(kernel)


def _unbroken(kernels: torch.Tensor) -> torch.Tensor:
    """Kernels whose weights nowhere rise from the centre outwards: who moved there was in between, too."""
    filled = kernels
    for length in _SHORTER:
        filled = torch.maximum(filled, _resized(kernels, kernels.new_full(kernels.shape[:3], length)))
    return _normalised(filled)


def _resized(kernels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Kernels [B, rows, columns, size, size] as many times as long as `factor` says, alike; not normalised."""
    matrix = kernels.new_zeros(factor.numel(), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / factor.flatten()
    grid = F.affine_grid(matrix, [len(matrix), 1, _SIZE, _SIZE], align_corners=True)
    return F.grid_sample(kernels.reshape(-1, 1, _SIZE, _SIZE), grid, align_corners=True).view_as(kernels)


def _normalised(kernels: torch.Tensor) -> torch.Tensor:
    return kernels / kernels.sum((-1, -2), keepdim=True)


def _convolved(light: torch.Tensor, kernels: torch.Tensor, side: int) -> torch.Tensor:
    """Spectra of tiles with a margin, [B, rows, columns, 3, ...], and kernels: tiles without the margin."""
    response = torch.fft.rfft2(kernels, s=(side, side))[:, :, :, None]
    return torch.fft.irfft2(light * response, s=(side, side))[..., 2 * _REACH :, 2 * _REACH :]
