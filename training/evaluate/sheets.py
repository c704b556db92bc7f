"""How does it look? Sheets of labelled pictures: degradations, structure correction, restorers."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from gendeg.degradations import DEGRADATIONS
from gendeg.figures import difference_figure
from gendeg.photos import resize_short_side
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import PRIOR
from restorers.registry import Restorer
from runtime.images import open_image
from training.evaluate.inputs import SIZE


def contact_sheet(pipeline: GenDegPipeline, photos: torch.Tensor) -> Image.Image:
    """Rows: a photograph each, clean and with one degradation, light, moderate and heavy, and what was reached.

    One seed throughout, so that nothing but the intensity changes.
    """
    rows = []
    for row, (name, degradation) in enumerate(DEGRADATIONS.items()):
        mus, sigmas = zip(*PRIOR.strengths(name).values(), strict=True)
        photo = photos[row].expand(3, -1, -1, -1)
        generators = [torch.Generator().manual_seed(0) for _ in mus]
        output = pipeline(photo, name, mu=mus, sigma=sigmas, generator=generators, output_size="working")
        reached = zip(output.images, output.mu, output.sigma, strict=True)
        degraded = [(image, f"{degradation.label}: mu {mu:.3f}  sigma {sigma:.3f}") for image, mu, sigma in reached]
        rows.append([(output.clean[0], "clean"), *degraded])
    return tile(rows)


def structure_sheet(pipeline: GenDegPipeline, photos: torch.Tensor) -> Image.Image:
    """Rows: a photograph and degradation each: clean, without and with structure correction, and the change times 8."""
    rows = []
    for row, (name, degradation) in enumerate(DEGRADATIONS.items()):
        mu, sigma = degradation.typical
        generator = torch.Generator().manual_seed(0)
        settings = {"structure_correction": True, "match_intensity": False, "output_size": "working"}
        output = pipeline(photos[row], name, mu=mu, sigma=sigma, generator=generator, **settings)
        before, after = output.uncorrected[0], output.corrected[0]
        policy = "on" if name in pipeline.structure_correction.degradations else "off"
        cells = [(output.clean[0], "clean"), (before, f"{degradation.label}: off"), (after, f"on (policy: {policy})")]
        rows.append([*cells, (Image.fromarray(difference_figure(before, after)), "change x 8")])
    return tile(rows)


def restorers_sheet(restorers: list[Restorer], files: list[Path]) -> Image.Image:
    """Rows: a photograph each, as it is and restored by every restorer."""
    rows = []
    for file in files:
        photo = resize_short_side(open_image(file), SIZE).crop((0, 0, SIZE, SIZE))
        rows.append([(photo, "as it is"), *((restorer(photo), restorer.name) for restorer in restorers)])
    return tile(rows)


def tile(rows: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    """Labelled images of SIZE in rows and columns."""
    caption, gap = 20, 4
    font = ImageFont.load_default(13)
    sheet = Image.new("RGB", (len(rows[0]) * (SIZE + gap) - gap, len(rows) * (SIZE + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (image, label) in enumerate(row):
            sheet.paste(image, (x * (SIZE + gap), y * (SIZE + caption)))
            draw.text((x * (SIZE + gap) + 3, y * (SIZE + caption) + SIZE + 2), label, fill="black", font=font)
    return sheet
