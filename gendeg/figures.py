"""How do intensities look? The plot of real ones, the coloured degradation map, tables, the figure of a sweep."""

from __future__ import annotations

import base64
import io
from functools import cache
from math import ceil, floor
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gendeg.degradations import get_degradation
from gendeg.prior import PRIOR
from gendeg.request import Request, Result

# Dark to light, of even perceived brightness: black, violet, red, orange, pale yellow.
_FIRE = np.array(
    [(0, 0, 4), (51, 10, 95), (120, 28, 109), (187, 55, 84), (237, 105, 37), (252, 181, 25), (252, 255, 164)]
)
_PALE, _DEEP = np.array([199, 219, 240]), np.array([8, 48, 107])  # rare and common real intensities

# Of the plot, in its own units: size, and where the axes lie.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 340, 232, 50, 334, 8, 192


def slider_range(degradation: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """((mu low, mu high), (sigma low, sigma high)) of real data, widened to multiples of 0.005."""
    return tuple(  # type: ignore[return-value]
        (floor(low / 0.005) * 5 / 1000, ceil(round(high / 0.005, 6)) * 5 / 1000)
        for low, high in PRIOR.range(degradation)
    )


def intensity_plot(degradation: str, mu: float, sigma: float) -> str:
    """SVG: where real intensities of a degradation lie (log density), with the chosen one marked.

    Its data attributes tell a script which (mu, sigma) lies under a point.
    """
    (mu_low, mu_high), (sigma_low, sigma_high) = slider_range(degradation)
    x, y = _scale(mu, mu_low, mu_high, _LEFT, _RIGHT), _scale(sigma, sigma_low, sigma_high, _BOTTOM, _TOP)
    label = get_degradation(degradation).label
    return f"""<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"
  aria-label="Real intensities of {label}, and the chosen one: mu {mu:.3f}, sigma {sigma:.3f}"
  data-left="{_LEFT}" data-right="{_RIGHT}" data-top="{_TOP}" data-bottom="{_BOTTOM}"
  data-mu-low="{mu_low}" data-mu-high="{mu_high}" data-sigma-low="{sigma_low}" data-sigma-high="{sigma_high}">
<rect class="ground" x="{_LEFT}" y="{_TOP}" width="{_RIGHT - _LEFT}" height="{_BOTTOM - _TOP}"/>
{_plot_base(degradation)}
<g class="chosen"><path d="M{x:.1f} {_TOP}V{_BOTTOM}M{_LEFT} {y:.1f}H{_RIGHT}"/>
<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/></g></svg>"""


@cache
def _plot_base(degradation: str) -> str:
    """The heat map, the axes and their labels."""
    (mu_low, mu_high), (sigma_low, sigma_high) = slider_range(degradation)
    mu_edges, sigma_edges, density = PRIOR.log_density(degradation)
    finite = np.isfinite(density)
    position = np.zeros_like(density)
    position[finite] = (density[finite] - density[finite].min()) / np.ptp(density[finite])
    pixels = np.concatenate([_PALE + (_DEEP - _PALE) * position[..., None], finite[..., None] * 255], axis=2)
    columns, rows = np.flatnonzero(finite.any(1)), np.flatnonzero(finite.any(0))
    pixels = pixels[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1].transpose(1, 0, 2)[::-1]
    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, "PNG")

    left, right = (_scale(mu_edges[i], mu_low, mu_high, _LEFT, _RIGHT) for i in (columns[0], columns[-1] + 1))
    bottom, top = (_scale(sigma_edges[i], sigma_low, sigma_high, _BOTTOM, _TOP) for i in (rows[0], rows[-1] + 1))
    parts = [
        f'<image x="{left:.2f}" y="{top:.2f}" width="{right - left:.2f}" height="{bottom - top:.2f}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"/>',
        f'<path class="axes" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>',
    ]
    for value in _ticks(mu_low, mu_high):
        x = _scale(value, mu_low, mu_high, _LEFT, _RIGHT)
        parts.append(f'<path class="axes" d="M{x:.1f} {_BOTTOM}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{value:.2f}</text>')
    for value in _ticks(sigma_low, sigma_high):
        y = _scale(value, sigma_low, sigma_high, _BOTTOM, _TOP)
        parts.append(f'<path class="axes" d="M{_LEFT} {y:.1f}h-4"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    middle_x, middle_y = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    parts.append(f'<text x="{middle_x}" y="{_HEIGHT - 5}" text-anchor="middle">μ, mean of the degradation map</text>')
    turned = f'transform="translate(11 {middle_y}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">σ, its standard deviation</text>')
    return "\n".join(parts)


def difference_figure(before: Image.Image, after: Image.Image) -> np.ndarray:
    """What structure correction changed, eight times enlarged around mid-grey: uint8 [H, W, 3]."""
    change = np.asarray(after, dtype=np.int16) - np.asarray(before)
    return (128 + 8 * change).clip(0, 255).astype(np.uint8)


def colour_degradation_map(degradation_map: np.ndarray) -> tuple[Image.Image, float]:
    """A degradation map [H, W] in false colours, and the value that the brightest colour stands for."""
    brightest = max(0.02, float(np.percentile(degradation_map, 99.5)))
    position = np.clip(degradation_map / brightest, 0, 1) * (len(_FIRE) - 1)
    colours = np.stack([np.interp(position, range(len(_FIRE)), _FIRE[:, c]) for c in range(3)], axis=2)
    return Image.fromarray(colours.round().astype(np.uint8)), brightest


def colour_key(brightest: float) -> str:
    """HTML: which value has which colour in `colour_degradation_map`."""
    colours = ", ".join(f"rgb({r} {g} {b})" for r, g, b in _FIRE)
    return (
        f'<div class="key"><span>0</span><i style="background:linear-gradient(to right, {colours})"></i>'
        f"<span>{brightest:.2f}</span></div>"
    )


def part_maps(result: Result) -> list[tuple[Image.Image, str]]:
    """Of a mixture the map of each part in false colours, with what its brightest colour stands for."""
    maps = []
    for asked, reached in zip(result.request.parts, result.parts, strict=False):
        image, brightest = colour_degradation_map(reached.degradation_map)
        maps.append((image, f"{get_degradation(asked.degradation).label}, to {brightest:.2f}"))
    return maps


def numbers(request: Request | None = None, result: Result | None = None) -> str:
    """HTML table of mu and sigma: asked, reached at the working size, and that of the pair at its own size.

    Of a mixture, of each part and of all together; with a mask, inside of it as well, where it was asked for; None:
    not yet.
    """
    masked = request and request.mask is not None
    rows = [("", None if not request or request.also or masked else request, result, result)]
    for index, part in enumerate(request.parts if request and request.also else ()):
        label, reached = get_degradation(part.degradation).label, result and result.parts[index]
        rows.insert(index, (label, part, reached, None))
    if masked:
        inside = result.inside if result else (None, None)
        within = SimpleNamespace(delivered_mu=inside[0], delivered_sigma=inside[1])
        rows.append(("In the mask", None if request.also else request, None, within))
    lines = ""
    for label, asked, reached, delivered in rows:
        for name, sign in (("mu", "μ"), ("sigma", "σ")):
            cells = ""
            values = (
                getattr(asked, name, None),
                getattr(reached, name, None),
                getattr(delivered, f"delivered_{name}", None),
            )
            for what, value in zip(("asked", "reached", "result"), values, strict=True):
                place = "" if label else f' id="{what}-{name}"'
                cells += f"<td{place}>{'–' if value is None else f'{value:.3f}'}</td>"
            head = f"{label or 'All'} {sign}" if len(rows) > 1 else sign
            lines += f'<tr><th scope="row">{head}</th>{cells}</tr>'
    heads = ("asked", "reached", "at full size")
    return f'<table class="numbers"><tr><td></td>{"".join(f"<th>{head}</th>" for head in heads)}</tr>{lines}</table>'


def sweep_figure(rows: list[list[Result]]) -> Image.Image:
    """The paper's figure: images in a grid, asked and reached intensity under each."""
    heading, text = ImageFont.load_default(22), ImageFont.load_default(17)
    first = rows[0][0]
    tile, gap, title, caption = 260, 12, 46, 56
    height = round(tile * first.degraded.height / first.degraded.width)
    row_height = title + height + caption
    sheet = Image.new("RGB", (gap + (tile + gap) * len(rows[0]), row_height * len(rows) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    label = get_degradation(first.request.degradation).label
    titles = (
        f"{label}: mu rises, sigma stays at {rows[0][0].request.sigma:.3f}",
        f"{label}: sigma rises, mu stays at {rows[1][0].request.mu:.3f}",
    )
    for index, (row, row_title) in enumerate(zip(rows, titles, strict=True)):
        top = index * row_height
        draw.text((gap, top + 12), row_title, "black", heading)
        for column, result in enumerate(row):
            left = gap + column * (tile + gap)
            image = result.degraded.resize((tile, height), Image.Resampling.LANCZOS)
            sheet.paste(image, (left, top + title))
            for line, (what, mu, sigma) in enumerate(
                (("asked", result.request.mu, result.request.sigma), ("reached", result.mu, result.sigma))
            ):
                y = top + title + height + 6 + line * 22
                draw.text((left, y), what, "#555", text)
                draw.text((left + 70, y), f"mu {mu:.3f}", "black", text)
                draw.text((left + 154, y), f"sigma {sigma:.3f}", "black", text)
    return sheet


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    """Where a value lies on an axis, kept inside it."""
    return start + (end - start) * min(1.0, max(0.0, (value - low) / (high - low)))


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 6)
    return [round(i * step, 2) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
