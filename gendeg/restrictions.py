"""What a degradation can do to an image (`Degradation.restriction`), and generated images that keep to it.

Snow and rain lay white light over a scene and darken nothing; and rain falls straight, all of it one way. Haze lays
grey over it, which may be brighter or darker than what it covers, and paler, but of the same hue. Water is clear: a
drop shows the scene, upside down (`gendeg.drops`). Motion blur only moves light along a path (`gendeg.motion`), and low
light dims it smoothly. A small generator keeps to none of that: it makes bluish clumps, dark specks, confetti, pebbles,
streaks like hair, crumbs at edges and grids in the dark. Simulated pairs do (`python -m training.evaluate
restrictions`), but that streaks and paths are drawn thinner here, flakes (`gendeg.flakes`) and drops of other shape and
light, and no noise is left in the dark.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from gendeg.borders import around, mean_around
from gendeg.drops import drawn_as_drops
from gendeg.flakes import drawn_in_flakes
from gendeg.intensity import Nearest, asked_intensity
from gendeg.light import to_display, to_linear
from gendeg.motion import move_light

_REACH = 14  # pixels before and after one, over which a streak is as bright
_BESIDE = 4  # pixels to both sides of a streak that are darker
_APART, _WIDTH = 2, 1.3  # pixels from one streak to the next, at least; and within which a streak fades
_FAINT = 0.55  # share of a typical streak's height, below which there is none: crowds of them look like a comb
_STEEPEST, _STEP = 36, 3  # degrees from the vertical at which streaks are looked for, and between two directions
_CLEAR = 0.75  # least saturation of what is seen through water, as a share of the photograph's
_NEAR = 14  # pixels to each side within which darkness changes little
_DARKEST, _COUNTS = 0.002, 0.02  # light that is told from none, and weight of a place without any
_CONTRAST = 1e-3  # variance of brightness from which on darkness may change with it
_TRIES, _PACE = 12, 1.0  # of the search for mu and sigma
_STOPS, _STEEPER = 2.0, 1.5  # most that is lost or gained, in logarithms of light: everywhere, and from black to white
_GAUDY = 1.5  # how many times as strong a colour becomes at most where a drop is brighter than the photograph


def lay_white(clean: torch.Tensor, degraded: torch.Tensor, over: torch.Tensor | None = None) -> torch.Tensor:
    """The image nearest to `degraded` that is white of some opacity, its own at each pixel, over `clean`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        over: what the same white is laid over instead: `clean` without the codec's errors, which `degraded` has too.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    over = clean if over is None else over
    return over + _share(degraded - clean, 1 - clean) * (1 - over)


def lay_flakes(clean: torch.Tensor, degraded: torch.Tensor, over: torch.Tensor | None = None) -> torch.Tensor:
    """As `lay_white`, its opacity drawn flake by flake (`gendeg.flakes`), all in all as strong as before."""
    over = clean if over is None else over
    return over + drawn_in_flakes(_share(degraded - clean, 1 - clean)) * (1 - over)


def lay_streaks(clean: torch.Tensor, degraded: torch.Tensor, over: torch.Tensor | None = None) -> torch.Tensor:
    """As `lay_white`, its opacity drawn in thin lines of one direction, all in all as strong as before.

    The direction is that along which the opacity changes least, and lines are where it is highest across.
    """
    over = clean if over is None else over
    opacity = _share(degraded - clean, 1 - clean)
    padded, bands = around(opacity, _REACH), _bands(1, opacity)
    along = F.conv2d(padded, bands).flatten(2).std(2).argmax(1)  # of the means along each direction
    ours = torch.cat([bands[along], _bands(_BESIDE, opacity)[along], _bands(_WIDTH, opacity)[along]])
    mean_along, beside = _of_each(padded, ours[: 2 * len(along)]).chunk(2)
    higher = mean_along - beside
    ridge = (higher > 0) & (higher >= F.max_pool2d(higher, (1, 2 * _APART + 1), stride=1, padding=(0, _APART)))
    height = ridge * higher
    typical = height.square().sum((2, 3), keepdim=True) / height.sum((2, 3), keepdim=True).clamp(min=1e-4)
    ridge = height > _FAINT * typical
    lines = _of_each(around(ridge * mean_along, _REACH), ours[2 * len(along) :])
    mean, middle = (image.mean((2, 3), keepdim=True) for image in (opacity, lines))
    spread, left = (image.std((2, 3), keepdim=True) for image in (opacity, lines))
    opacity = (mean + (lines - middle) * spread / left.clamp(min=1e-4)).clamp(0, 1)
    return over + opacity * (1 - over)


def keep_hue(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """The image as bright as `degraded` that has the hue of `clean` at each pixel, as pale as is nearest to `degraded`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    grey, degraded_grey = (image.mean(1, keepdim=True) for image in (clean, degraded))
    colour = clean - grey
    return (degraded_grey + _share(degraded - degraded_grey, colour) * colour).clamp(0, 1)


def dim(
    clean: torch.Tensor,
    degraded: torch.Tensor,
    over: torch.Tensor | None = None,
    mu: Sequence[float | None] | None = None,
    sigma: Sequence[float | None] | None = None,
) -> torch.Tensor:
    """The photograph with less light, in each colour by a factor that changes smoothly with place and brightness.

    The logarithm of the factor is filtered, guided by the brightness of the photograph (He, Sun and Tang, "Guided image
    filtering", TPAMI 2013); bright places, which tell most about it, count most. Then all places lose more or less, and
    bright ones more or less than dark ones, as mu and sigma ask; brighter ones stay brighter.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        over: what is dimmed instead of `clean`, which has the codec's errors as `degraded` has.
        mu, sigma: what should be reached, one each; None: see `gendeg.intensity.asked_intensity`.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    over = clean if over is None else over
    light, over_light = (to_linear(image) + _DARKEST for image in (clean, over))
    factor = ((to_linear(degraded) + _DARKEST) / light).log()
    brightness, weight = clean.mean(1, keepdim=True), light.mean(1, keepdim=True) + _COUNTS
    total = mean_around(weight, _NEAR)

    def near(image: torch.Tensor) -> torch.Tensor:
        return mean_around(image * weight, _NEAR) / total

    middle, middle_factor = near(brightness), near(factor)
    variance = near(brightness.square()) - middle.square()
    slope = (near(brightness * factor) - middle * middle_factor) / (variance + _CONTRAST)
    factor = near(slope) * brightness + near(middle_factor - slope * middle)

    asked_mu, asked_sigma = asked_intensity(clean, degraded, mu, sigma)
    nearest = Nearest(asked_mu, asked_sigma)
    left, steeper = torch.zeros(2, len(over), 1, 1, 1, device=over.device)
    brightness = brightness - brightness.mean((2, 3), keepdim=True)
    for _ in range(_TRIES):
        dimmed = to_display(over_light * (factor + left - steeper * brightness).clamp(max=0).exp() - _DARKEST)
        reached_mu, reached_sigma = nearest.offer(over, dimmed)
        # Light goes roughly as the square of pixel values.
        missing = (asked_mu - reached_mu) / dimmed.mean((1, 2, 3)).clamp(min=0.02)
        left = (left - 2 * missing[:, None, None, None]).clamp(-_STOPS, _STOPS)
        steeper = steeper + _PACE * (asked_sigma / reached_sigma).log()[:, None, None, None]
        steeper = steeper.clamp(-_STEEPER, _STEEPER)
    return nearest.images


def lay_drops(
    clean: torch.Tensor,
    degraded: torch.Tensor,
    over: torch.Tensor | None = None,
    mu: Sequence[float | None] | None = None,
    sigma: Sequence[float | None] | None = None,
) -> torch.Tensor:
    """The drops on `degraded`, drawn one by one (`gendeg.drops`); what is seen of its light has the colours of `clean`.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].
        over: what the drops are drawn on instead.
        mu, sigma: what should be reached, one each; None: see `gendeg.intensity.asked_intensity`.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    return drawn_as_drops(clean, keep_colour(clean, degraded), clean if over is None else over, mu, sigma)


def keep_colour(clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
    """The image as bright as `degraded` with the colours of `clean` at each pixel, hardly paler.

    Args:
        clean, degraded: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    grey, degraded_grey = (image.mean(1, keepdim=True) for image in (clean, degraded))
    colour = (clean - grey) * (degraded_grey / grey.clamp(min=0.01)).clamp(max=_GAUDY)
    return (degraded_grey + _share(degraded - degraded_grey, colour).clamp(min=_CLEAR) * colour).clamp(0, 1)


def _share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """The a in [0, 1] of each pixel for which a * whole is nearest to part; both [B, 3, H, W], result [B, 1, H, W]."""
    along = (part * whole).sum(1, keepdim=True)
    return (along / whole.square().sum(1, keepdim=True).clamp(min=1e-4)).clamp(0, 1)


def _of_each(padded: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """Means over bands, one or several for each image: [B, 1, ...] and [k * B, 1, K, K] to [k * B, 1, H, W]."""
    images = padded.repeat(len(bands) // len(padded), 1, 1, 1).transpose(0, 1)
    return F.conv2d(images, bands, groups=len(bands)).transpose(0, 1)


def _bands(width: float, like: torch.Tensor) -> torch.Tensor:
    """Weights [directions, 1, K, K] of means over bands, which fade within `width` pixels and towards their ends."""
    angle = torch.deg2rad(torch.arange(-_STEEPEST, _STEEPEST + 1, _STEP).to(like))[:, None, None]
    offset = torch.arange(-_REACH, _REACH + 1).to(like)
    y, x = offset[:, None], offset
    along, across = y * angle.cos() + x * angle.sin(), x * angle.cos() - y * angle.sin()
    weights = (1 - along.abs() / (_REACH + 1)).clamp(min=0) * (1 - across.abs() / width).clamp(min=0)
    return (weights / weights.sum((1, 2), keepdim=True))[:, None]


# By what `Degradation.restriction` says.
RESTRICTIONS = {
    "flakes": lay_flakes,
    "streaks": lay_streaks,
    "paler": keep_hue,
    "drops": lay_drops,
    "moved": move_light,
    "dimmed": dim,
}
# What these lay over, or move, may be the photograph itself.
OVER_PHOTOGRAPH = ("flakes", "streaks", "drops", "moved", "dimmed")
# And these come near to the asked mu and sigma by themselves.
SEEK_INTENSITY = ("drops", "moved", "dimmed")
