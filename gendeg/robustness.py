"""How does something give way as a degradation grows? mu rises from none to what real data hold, sigma goes along.

Something: a detector, a classifier, any function of an image; or of a degraded image and the clean one, a restorer say.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import get_degradation
from gendeg.image_forms import ImageInput, convert, to_bytes
from gendeg.intensity import MU_MAX
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import PRIOR
from gendeg.request import Request, degrade
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.images import open_image

POINTS = 8

Values = Mapping[str, float | None]
Photograph = ImageInput | str | Path


@dataclass(frozen=True)
class Picture:
    """A photograph at one intensity.

    Attributes:
        clean, degraded: RGB, of one size, aligned.
        asked, reached, delivered: (mu, sigma), see `gendeg.call.GenDegOutput`; (0, 0) of the photograph itself.
    """

    clean: Image.Image
    degraded: Image.Image
    asked: tuple[float, float]
    reached: tuple[float, float]
    delivered: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """What was measured on one picture.

    Attributes:
        photograph: the name of its file; of an image without one its number, from 0.
        asked, reached, delivered: (mu, sigma) of the picture.
        values: what was measured, by name; None where it cannot be.
    """

    photograph: int | str
    asked: tuple[float, float]
    reached: tuple[float, float]
    delivered: tuple[float, float]
    values: Values

    def intensities(self) -> dict[str, float]:
        """By name: mu_asked, sigma_asked, mu_reached, ... to six digits."""
        pairs = {"asked": self.asked, "reached": self.reached, "delivered": self.delivered}
        return {
            f"{name}_{kind}": round(value, 6)
            for kind, pair in pairs.items()
            for name, value in zip(("mu", "sigma"), pair, strict=True)
        }


@dataclass(frozen=True)
class Robustness:
    """What was measured as mu rose, photograph by photograph."""

    degradation: str
    rows: tuple[Row, ...]

    def table(self) -> list[dict[str, Any]]:
        """The rows with a name for each number: the picture's intensities, and what was measured."""
        names = dict.fromkeys(name for row in self.rows for name in row.values)
        return [
            {"photograph": row.photograph, "degradation": self.degradation}
            | row.intensities()
            | {name: row.values.get(name) for name in names}
            for row in self.rows
        ]

    def means(self) -> dict[float, dict[str, float | None]]:
        """Asked mu -> means over the photographs: mu and sigma reached, and what was measured; None: of none."""
        table: dict[float, list[dict[str, Any]]] = {}
        for row in self.table():
            table.setdefault(row["mu_asked"], []).append(row)
        names = [name for name in next(iter(table.values()))[0] if name not in ("photograph", "degradation")]
        return {
            mu: {
                name: fmean(values) if (values := [row[name] for row in rows if row[name] is not None]) else None
                for name in names
            }
            for mu, rows in table.items()
        }

    def to_csv(self) -> str:
        """The table as CSV, with a line of names; empty where there is no value."""
        table, text = self.table(), io.StringIO()
        writer = csv.DictWriter(text, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
        return text.getvalue()

    def write_csv(self, path: str | Path) -> None:
        """Write it whole, or not at all.

        Raises:
            OSError: if it cannot be written.
        """
        write_whole(Path(path), self.to_csv().encode(errors="surrogateescape"))  # of names that are not UTF-8


def rising_mus(degradation: str) -> list[float]:
    """0, the photograph itself, and POINTS - 1 values, evenly spread over what real data sets hold.

    Raises:
        UserError: for an unknown degradation.
    """
    return [0.0, *(round(mu, 3) for mu in np.linspace(*get_degradation(degradation).mu_range, POINTS - 1).tolist())]


def pictures(
    pipeline: GenDegPipeline, request: Request, mus: Sequence[float], callback: Callable[..., Any] | None = None
) -> Iterator[Picture]:
    """A photograph at each mu, the lowest first, with one seed; each sigma is the typical one at its mu.

    Args:
        request: its own mu and sigma do not count.
        mus: 0 is the photograph itself; another must be among them.
        callback: called after every step, see `GenDegPipeline.__call__`.

    Raises:
        UserError: see `gendeg.request.degrade`.
    """
    itself = 0 in mus
    for mu in sorted({*mus} - {0}):
        sigma = round(PRIOR.typical_sigma(request.degradation, mu), 3)
        result = degrade(pipeline, [replace(request, mu=mu, sigma=sigma)], callback)[0]
        if itself:
            yield Picture(result.clean, result.clean, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
            itself = False
        delivered = (result.delivered_mu, result.delivered_sigma)
        yield Picture(result.clean, result.degraded, (mu, sigma), (result.mu, result.sigma), delivered)


def measured(picture: Picture, values: Values, photograph: int | str = 0) -> Row:
    """The row of a picture."""
    return Row(photograph, picture.asked, picture.reached, picture.delivered, values)


def robustness(
    evaluate: Callable[[Image.Image], float],
    photographs: Photograph | Sequence[Photograph],
    degradation: str,
    mus: Sequence[float] | None = None,
    pipeline: GenDegPipeline | None = None,
    seed: int = 0,
    output_size: int | str = "photo",
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Measure what a function makes of photographs as a degradation grows on them.

    Args:
        evaluate: an RGB image to a number: how many faces it finds, how sure it is of the right class. Named "value"
            in what comes back.
        photographs: one or several in a list: paths of image files, or images as `GenDegPipeline.__call__` takes them.
        mus: asked, in [0, MU_MAX]; 0 is the photograph itself. None: see `rising_mus`. Each asked sigma is the median
            of real data at that mu.
        pipeline: None: the bundled compact model.
        seed: of the first photograph; each next one has the next. All pictures of a photograph have one seed.
        output_size: of the pictures, see `GenDegPipeline.__call__`.
        progress: called with (pictures measured, pictures in all); what it raises ends the work.

    Raises:
        UserError: for arguments that cannot be worked with, and if `evaluate` gives no number; the message says why.
    """

    def of_pair(degraded: Image.Image, clean: Image.Image) -> Values:
        return {"value": evaluate(degraded)}

    return robustness_of_pairs(of_pair, photographs, degradation, mus, pipeline, seed, output_size, progress)


def robustness_of_pairs(
    evaluate: Callable[[Image.Image, Image.Image], Values],
    photographs: Photograph | Sequence[Photograph],
    degradation: str,
    mus: Sequence[float] | None = None,
    pipeline: GenDegPipeline | None = None,
    seed: int = 0,
    output_size: int | str = "photo",
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """The same for what is measured against the clean photograph, and for several measures at once.

    Args:
        evaluate: (degraded, clean) RGB images of one size to numbers by name; None for one that cannot be.
    """
    kind = get_degradation(degradation)
    mus = _checked(rising_mus(kind.name) if mus is None else mus)
    batch = isinstance(photographs, (list, tuple)) or getattr(photographs, "ndim", 3) == 4
    several = list(photographs) if batch else [photographs]
    if not several:
        raise UserError("There is no photograph to degrade.")
    pipeline, rows = pipeline or load_pipeline(), []
    for index, photograph in enumerate(several):
        name = Path(photograph).name if isinstance(photograph, (str, Path)) else index
        request = Request(_opened(photograph), kind.name, 0, 0, seed + index, output_size=output_size)
        for picture in pictures(pipeline, request, mus):
            found = evaluate(picture.degraded, picture.clean).items()
            values = {measure: _number(measure, value) for measure, value in found}
            rows.append(measured(picture, values, name))
            if progress:
                progress(len(rows), len(mus) * len(several))
    return Robustness(kind.name, tuple(rows))


def _checked(mus: Sequence[float]) -> list[float]:
    try:
        numbers = sorted({float(mu) for mu in mus})
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(0 <= mu <= MU_MAX for mu in numbers) or numbers == [0]:
        raise UserError(f"mus must be numbers from 0 to {MU_MAX:g}, at least one of them above 0.")
    return numbers


def _opened(photograph: Photograph) -> Image.Image:
    if isinstance(photograph, (str, Path)):
        return open_image(photograph)
    return convert(to_bytes(photograph), "pil")[0]


def _number(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"What is measured must be a number; {name} is a {type(value).__name__}.") from error
