"""What is in a pair data set? The card, with counts and intensities against real ones, and a contact sheet."""

from __future__ import annotations

import io
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont, ImageOps

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import MU_MAX, NUM_BINS, SIGMA_MAX
from gendeg.mixture import in_listed_order, label, parts_of
from gendeg.prior import PRIOR, UNIFORM_EVERY
from runtime.files import write_whole
from training.dataset.samples import MAX_ATTEMPTS
from training.dataset.store import PAIRS_PER_SHARD, PairStore

SHEET, FIGURE = "contact-sheet.jpg", "intensities.png"
_REAL, _ASKED, _REACHED = "#c7dbf0", "#08306b", "#e4572e"
_QUANTILES = (0.1, 0.5, 0.9)

_COLUMNS = {
    "degradation": "one of the six",
    "prompt": "text the model was given",
    "mu_asked, sigma_asked": "drawn intensity: mean and standard deviation of \\|clean − degraded\\|, images in [0, 1]",
    "mu_reached, sigma_reached": "that of the stored pair",
    "source_dataset": "real data set in whose manner mu was drawn",
    "uniform_intensity": "whether mu and sigma were drawn uniformly over the real range instead",
    "structure_correction": "whether the structure correction module lined the degraded image up with the clean one",
    "model, seed": "with which generator, and with which seed of its noise",
    "attempts": "how many images were generated until this one was accepted",
    "source_file, copy": "the photograph, and which of its samples of this degradation",
}
_MAPS = "the degradation map \\|clean − degraded\\| of each colour, as an image in which 255 stands for 1"
_MIXTURE_COLUMNS = {
    "degradation": "one of the six, or a mixture of them, `haze+rain`",
    "prompt": "text the model was given; of a mixture, the phrases of all its parts",
    "mu_reached, sigma_reached": "that of the stored pair; of a mixture, of all together",
    "parts": "of each degradation, in the order in which they were applied, its own prompt, asked intensity and what "
    "it reached against the image that the part before had left; mu_asked and the like of a mixture are there alone",
}


def write_card(store: PairStore, command: str, layout: str = "imagefolder", maps: bool = False) -> None:
    """Write the contact sheet, the figure of intensities and, last, README.md.

    Args:
        store: of a data set whose metadata or shards are written, images still there.
        command: the command line that made it.
        layout, maps: how single files are handed on, see `training.dataset.pack`.
    """
    rows = store.rows()
    for name, image in ((SHEET, contact_sheet(rows, store.output / "train")), (FIGURE, intensity_figure(rows))):
        file = io.BytesIO()
        image.save(file, "JPEG" if name.endswith("jpg") else "PNG", quality=90)
        write_whole(store.output / name, file.getvalue())
    layout = "webdataset" if store.shards else layout
    text = card(rows, list(store.discarded.values()), layout, command, maps)
    write_whole(store.output / "README.md", text.encode())


def card(
    rows: list[dict[str, Any]],
    discarded: list[dict[str, Any]],
    layout: str,
    command: str,
    maps: bool = False,
) -> str:
    """The data set card, Markdown with a YAML header."""
    photographs = len({row["source_file"] for row in rows})
    header = {
        "pretty_name": "Degraded photographs with their intensity",
        "task_categories": ["image-to-image"],
        "tags": ["image-restoration", "synthetic", "gendeg", *(["webdataset"] if layout == "webdataset" else [])],
        "size_categories": [_size_category(len(rows))],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}],
    }
    if layout == "folders":
        del header["configs"]
        holds = (
            "`lq/` has the degraded images and `gt/`, under equal names, their ground truths, aligned pixel by pixel: "
            "what most code that trains restoration networks reads. `metadata.jsonl` has a row for every pair. "
            "`file_name` is the degraded image, `clean_file_name` its ground truth; the other columns:"
        )
    elif layout == "webdataset":
        holds = (
            f"`train/pairs-*.tar` are WebDataset shards of {PAIRS_PER_SHARD} pairs. Of every pair they hold "
            f"`degraded.png`, `clean.png` and `json`; the JSON's fields:"
        )
    else:
        holds = (
            "`train/metadata.jsonl` has a row for every pair. `file_name` is the degraded image, `clean_file_name` its "
            "ground truth, aligned pixel by pixel; `datasets` loads them as the columns `image` and `clean`. A ground "
            "truth that several pairs share is stored once. The other columns:"
        )
    columns = _COLUMNS | (_MIXTURE_COLUMNS if any("parts" in row for row in rows) else {})
    columns |= {"map_file_name": _MAPS} if maps else {}
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# Degraded photographs with their intensity

{len(rows):,} pairs for training restoration networks, made from {photographs:,} clean photographs. The degraded images
are generated by a diffusion model ([GenDeg](https://arxiv.org/abs/2411.17687)), at intensities that follow those of
real data sets. All images are PNG, without loss.

![Clean and degraded photographs](contact-sheet.jpg)

{"" if layout == "folders" else _loading(layout)}## What it holds

{holds}

| field | |
|---|---|
{chr(10).join(f"| {name} | {meaning} |" for name, meaning in columns.items())}

## How many

{_counts(rows, discarded)}

A generated image whose mean degradation lies outside its degradation's accepted range is discarded (a mixture: if that
of any of its parts does), and a new intensity and new noise are drawn; after {MAX_ATTEMPTS} discarded images the sample
is given up.

## Which intensities

{_intensities(rows)}

10th, 50th and 90th percentile. Real: the histograms that intensities are drawn from. Asked and reached: of the pairs
kept. One sample in {UNIFORM_EVERY}, by chance, is drawn uniformly over the real range.

![Histograms of asked and reached intensities against real ones](intensities.png)

## How it was made

```sh
{command}
```
"""


def _loading(kind: str) -> str:
    return f"""```python
from datasets import load_dataset

pairs = load_dataset("{kind}", data_dir="...", split="train")
```

"""


def _counts(rows: list[dict[str, Any]], discarded: list[dict[str, Any]]) -> str:
    lines = [
        "| | pairs | photographs | images generated | of them discarded | samples given up |",
        "|---|---|---|---|---|---|",
    ]
    for name in (*in_listed_order({entry["degradation"] for entry in (*rows, *discarded)}), "all"):
        kept = [row for row in rows if name in (row["degradation"], "all")]
        lost = [record for record in discarded if name in (record["degradation"], "all")]
        generated = sum(entry["attempts"] for entry in (*kept, *lost))
        share = (generated - len(kept)) / generated
        what = "**all**" if name == "all" else label(name)
        photographs = len({row["source_file"] for row in kept})
        lines.append(f"| {what} | {len(kept):,} | {photographs:,} | {generated:,} | {share:.1%} | {len(lost):,} |")
    return "\n".join(lines)


def _intensities(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of quantiles, real, asked and reached."""
    lines = ["| | | real | asked | reached |", "|---|---|---|---|---|"]
    for what, (name, group) in _by_part(rows).items():
        for measure, maximum, real in _real(name):
            edges = np.arange(NUM_BINS + 1) * (maximum / NUM_BINS)
            quantiles = [np.interp(_QUANTILES, np.append(0, real.cumsum()), edges)]
            quantiles += [np.quantile(_values(group, measure, what), _QUANTILES) for what in ("asked", "reached")]
            cells = (" / ".join(f"{value:.3f}" for value in values) for values in quantiles)
            lines.append(f"| {what} | {measure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def intensity_figure(rows: list[dict[str, Any]]) -> Image.Image:
    """Histograms of mu and sigma, a row for every degradation: real ones filled, asked and reached ones as lines."""
    groups = _by_part(rows)
    width, height, gap, top = 400, 130, 40, 44
    left = 240 if any("parts" in row for row in rows) else 110  # names of mixtures are long
    scale = 2  # drawn larger, for smooth lines
    figure = Image.new("RGB", (left + 2 * (width + gap), top + len(groups) * (height + gap)), "white")
    figure = figure.resize((figure.width * scale, figure.height * scale))
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(14 * scale)

    def text(x: float, y: float, words: str, anchor: str = "la") -> None:
        draw.text((x * scale, y * scale), words, "black", font, anchor)

    for index, (colour, words) in enumerate(((_REAL, "real"), (_ASKED, "asked"), (_REACHED, "reached"))):
        x = left + index * 100
        draw.rectangle([x * scale, 14 * scale, (x + 18) * scale, 26 * scale], fill=colour)
        text(x + 24, 20, words, "lm")
    for row, (what, (name, group)) in enumerate(groups.items()):
        bottom = top + row * (height + gap) + height
        for line, words in enumerate(what.split(" in ")):
            text(8, bottom - height / 2 + 18 * line, words, "lm")
        for column, (measure, maximum, real) in enumerate(_real(name)):
            x = left + column * (width + gap)
            values = [_values(group, measure, what) for what in ("asked", "reached")]
            bin_width = maximum / NUM_BINS
            bins = max(np.flatnonzero(real)[-1] + 1, ceil(max(v.max() for v in values) / bin_width))
            together = ceil(bins / 24)
            edges = np.arange(ceil(bins / together) + 1) * together * bin_width
            shares = [np.add.reduceat(np.pad(real, (0, together)), np.arange(len(edges) - 1) * together)]
            shares += [np.histogram(v, edges)[0] / len(v) for v in values]
            highest = max(share.max() for share in shares)
            step = width / (len(edges) - 1)
            for share, colour in zip(shares, (_REAL, _ASKED, _REACHED), strict=True):
                points = [
                    ((x + (i + side) * step) * scale, (bottom - value / highest * height) * scale)
                    for i, value in enumerate(share)
                    for side in (0, 1)
                ]
                if colour == _REAL:
                    draw.polygon([(x * scale, bottom * scale), *points, ((x + width) * scale, bottom * scale)], colour)
                else:
                    draw.line(points, colour, 2 * scale)
            draw.line([x * scale, bottom * scale, (x + width) * scale, bottom * scale], "black", scale)
            text(x, bottom + 4, "0")
            text(x + width / 2, bottom + 4, measure, "ma")
            text(x + width, bottom + 4, f"{edges[-1]:.2f}", "ra")
    return figure.resize((figure.width // scale, figure.height // scale), Image.Resampling.LANCZOS)


def contact_sheet(rows: list[dict[str, Any]], folder: Path) -> Image.Image:
    """Of every degradation a weak, a middling and a strong pair, clean beside degraded; files are below `folder`."""
    groups = _by_degradation(rows)
    tile, gap, space, caption, heading = 200, 3, 16, 42, 30
    title, font = ImageFont.load_default(17), ImageFont.load_default(13)
    pair_width, row_height = 2 * tile + gap + space, heading + tile + caption
    sheet = Image.new("RGB", (3 * pair_width + space, len(groups) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (name, group) in enumerate(groups.items()):
        top = line * row_height + heading
        draw.text((space, top - 24), label(name), "black", title)
        group = sorted(group, key=lambda row: row["mu_reached"])
        chosen = sorted({round(q * (len(group) - 1)) for q in _QUANTILES})
        for column, row in enumerate(group[i] for i in chosen):
            left = space + column * pair_width
            for x, file in ((left, row["clean_file_name"]), (left + tile + gap, row["file_name"])):
                with Image.open(folder / file) as image:
                    sheet.paste(ImageOps.fit(image, (tile, tile), Image.Resampling.LANCZOS), (x, top))
            for offset, what in ((4, "asked"), (21, "reached")):
                if row[f"mu_{what}"] is None:
                    continue  # nothing is asked of a mixture as a whole
                words = f"mu {row[f'mu_{what}']:.3f}  sigma {row[f'sigma_{what}']:.3f}"
                draw.text((left + tile + gap, top + tile + offset), f"{what} {words}", "black", font)
    return sheet


def _by_degradation(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each degradation, and of each mixture."""
    names = in_listed_order({row["degradation"] for row in rows})
    return {name: [row for row in rows if row["degradation"] == name] for name in names}


def _by_part(rows: list[dict[str, Any]]) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """What to call it -> (degradation, what was asked and reached): "Rain", or "Rain in haze+rain" for a part."""
    groups: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for mixture, group in _by_degradation(rows).items():
        for index, name in enumerate(parts_of(mixture)):
            what = DEGRADATIONS[name].label if name == mixture else f"{DEGRADATIONS[name].label} in {mixture}"
            groups[what] = name, group if name == mixture else [row["parts"][index] for row in group]
    return groups


def _values(rows: list[dict[str, Any]], measure: str, what: str) -> np.ndarray:
    return np.array([row[f"{measure}_{what}"] for row in rows])


def _real(degradation: str) -> tuple[tuple[str, float, np.ndarray], ...]:
    """(measure, upper end of the bins, probability of each bin as it is drawn) for mu and sigma."""
    mu = PRIOR.mu_histogram(degradation)
    return ("mu", MU_MAX, mu), ("sigma", SIGMA_MAX, mu @ PRIOR.sigma_given_mu(degradation))


def _size_category(count: int) -> str:
    bounds = [(1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M")]
    lower = ""
    for bound, name in bounds:
        if count < bound:
            return f"{lower}<n<{name}" if lower else f"n<{name}"
        lower = name
    return "n>10M"
