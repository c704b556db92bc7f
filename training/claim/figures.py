"""How does it look? Quality against the number of generated pairs, a map of degradations, rows of rising intensity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.manifold import TSNE

from gendeg.degradations import DEGRADATIONS
from gendeg.pipeline import GenDegPipeline
from training.claim.tables import MEASURES
from training.evaluate.sheets import tile

_COLOURS = dict(zip(DEGRADATIONS, matplotlib.colormaps["tab10"].colors, strict=False))
_MARKS = ("o", "x", "^")


def by_number(
    points: Mapping[int, Mapping[str, float]], simulated: Mapping[int, Mapping[str, float]], network: str, file: Path
) -> None:
    """Out-of-distribution quality against the number of generated pairs beside existing ones, a panel a measure.

    Args:
        points: number of pairs, rising -> means of the measures.
        simulated: the same with so many simulated pairs in place of generated ones.
    """
    numbers = list(points)
    shown = [measure for measure in MEASURES if measure in points[0]]
    figure = Figure(figsize=(3.4 * len(shown), 3), layout="constrained")
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for label, style, of_kind in (("generated", "o-", points), ("simulated", "kx", simulated)):
            axes.plot(list(of_kind), [means[measure] for means in of_kind.values()], style, label=label)
        axes.set_xscale("symlog", linthresh=numbers[1])
        axes.set_xticks(numbers, [f"{number:,}" for number in numbers], rotation=30)
        axes.minorticks_off()
        axes.set(title=f"{MEASURES[measure][0]}, out of distribution", xlabel=f"pairs beside existing ones, {network}")
    axes.legend()
    figure.savefig(file, dpi=120)


def embedding(features: Mapping[str, Mapping[str, Sequence[torch.Tensor]]], file: Path) -> None:
    """t-SNE of degraded images.

    Args:
        features: kind of pairs -> degradation -> of each image the features of its tiles, [tiles, F].
    """
    groups = [(kind, name, images) for kind, of_kind in features.items() for name, images in of_kind.items()]
    points = torch.stack([image.mean(0) for _, _, images in groups for image in images])
    perplexity = min(30, (len(points) - 1) / 3)
    places = torch.from_numpy(TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points.numpy()))
    places = places.split([len(images) for _, _, images in groups])
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    kinds = list(features)
    for (kind, name, _), place in zip(groups, places, strict=True):
        axes.scatter(*place.T, s=22, color=_COLOURS[name], marker=_MARKS[kinds.index(kind)], alpha=0.7, linewidths=1)
    for name in DEGRADATIONS:
        axes.scatter([], [], color=_COLOURS[name], marker="s", label=DEGRADATIONS[name].label)
    for kind, mark in zip(kinds, _MARKS, strict=False):
        axes.scatter([], [], color="grey", marker=mark, label=kind)
    axes.set(xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=120)


def rising(pipeline: GenDegPipeline, photo: np.ndarray) -> Image.Image:
    """Two rows a degradation: mu rises at its typical sigma, then sigma at its typical mu; one seed throughout.

    Args:
        photo: uint8 [256, 256, 3].
    """
    rows, count = [], 5
    for name, degradation in DEGRADATIONS.items():
        for number, low_high in enumerate((degradation.mu_range, degradation.sigma_range)):
            asked = np.full((2, count), np.array(degradation.typical)[:, None])
            asked[number] = np.linspace(*low_high, count)
            generators = [torch.Generator().manual_seed(3) for _ in range(count)]
            settings = {"generator": generators, "output_size": "working"}
            output = pipeline([photo] * count, name, mu=asked[0], sigma=asked[1], **settings)
            reached = [
                f"{degradation.label}: mu {m:.3f}  sigma {s:.3f}" for m, s in zip(output.mu, output.sigma, strict=True)
            ]
            rows.append([*zip(output.images, reached, strict=True)])
    return tile(rows)
