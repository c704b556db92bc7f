"""How do several degradations come onto one photograph? One after the other, in the order that physics has.

A scene is lit, air lies before it, rain or snow falls through that air, drops sit on the glass before the lens, and
the camera moves while all of it is recorded. So each degradation is asked of the picture that those before it left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput

from gendeg.call import GenDegOutput, several
from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.image_forms import ImageInput, Images, convert, resize, to_bytes
from gendeg.intensity import degradation_map, intensity_of_pair
from gendeg.pipeline import GenDegPipeline
from runtime.errors import UserError

PHYSICAL_ORDER = ("low_light", "haze", "rain", "snow", "raindrop", "motion_blur")
MAX_PARTS = 3


@dataclass
class MixtureOutput(BaseOutput):
    """What a mixture gives back; "images" are as in `gendeg.call.GenDegOutput`, and so are all sizes.

    Attributes:
        images: the photographs with all degradations.
        clean: the photographs themselves.
        degradation_maps: |clean - degraded| of all degradations together, of 8-bit images.
        mu, sigma: mean and standard deviation of each such map at the working size, to which both images are shrunk.
        delivered_mu, delivered_sigma: those of `degradation_maps`.
        degradations: names of the parts, in the order in which they were applied.
        parts: what the pipeline gave for each of these. Its `clean` is that part's own input, which the part before
            made; its map and its intensity are measured against that.
    """

    images: Images
    clean: Images
    degradation_maps: Images
    mu: list[float]
    sigma: list[float]
    delivered_mu: list[float]
    delivered_sigma: list[float]
    degradations: list[str]
    parts: list[GenDegOutput]


def degrade_mixture(
    pipeline: GenDegPipeline,
    image: ImageInput | Sequence[ImageInput],
    degradations: str | Sequence[str],
    mu: Sequence[Any] | None = None,
    sigma: Sequence[Any] | None = None,
    output_type: str = "pil",
    **options: Any,
) -> MixtureOutput:
    """Degrade one image or several by up to three degradations each.

    Each part is a call of the pipeline on the image that the part before gave back, at that image's size and 8 bits a
    colour. One generator serves all parts in turn, so their noises differ.

    Args:
        pipeline: the generator.
        image: as in `GenDegPipeline.__call__`.
        degradations: "rain+haze" or ["rain", "haze"], in any order: they are applied in `PHYSICAL_ORDER`.
        mu, sigma: asked intensity, one entry for each degradation in the order given here; an entry is what the
            pipeline takes: a number, None, or a list with one for each image. A part's intensity is that of its own
            map. None: all are left to the model.
        output_type: "pil", "np" or "pt".
        options: further arguments of `GenDegPipeline.__call__`, the same for every part.

    Raises:
        UserError: for degradations that are unknown, given twice or too many, for another number of intensities, and
            as the pipeline does; the message says why.
    """
    names = parts_of(degradations)
    values = (_one_each(value, len(names), what) for value, what in ((mu, "mu"), (sigma, "sigma")))
    asked = dict(zip(names, zip(*values, strict=True), strict=True))
    parts, images = [], image
    order = in_physical_order(names)
    for name in order:
        parts.append(pipeline(images, name, *asked[name], output_type=output_type, **options))
        images = parts[-1].images
    pairs = list(zip(to_bytes(parts[0].clean), to_bytes(images), strict=True))
    size = pipeline.working_size(*pairs[0][0].shape[1:], options.get("resolution"))
    working = [intensity_of_pair(*(resize(side, size) for side in pair)) for pair in pairs]
    delivered = [intensity_of_pair(*pair) for pair in pairs]
    (mu, sigma), (delivered_mu, delivered_sigma) = (map(list, zip(*v, strict=True)) for v in (working, delivered))
    return MixtureOutput(
        images=images,
        clean=parts[0].clean,
        degradation_maps=convert([degradation_map(*pair) for pair in pairs], output_type),
        mu=mu,
        sigma=sigma,
        delivered_mu=delivered_mu,
        delivered_sigma=delivered_sigma,
        degradations=order,
        parts=parts,
    )


def parts_of(degradations: str | Sequence[str]) -> list[str]:
    """Names of the parts of "rain+haze" or ["Rain", "haze"], in the order given; of one degradation, that alone.

    Raises:
        UserError: if one is unknown or given twice, or if there are more than three.
    """
    if not isinstance(degradations, (list, tuple)):
        degradations = degradations.split("+") if isinstance(degradations, str) else [degradations]
    names = [get_degradation(name).name for name in degradations]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{DEGRADATIONS[twice].label} is given twice. A mixture takes each degradation once.")
    if not 1 <= len(names) <= MAX_PARTS:
        raise UserError(f"A mixture has 1 to {MAX_PARTS} degradations, not {len(names)}.")
    return names


def in_physical_order(names: Sequence[str]) -> list[str]:
    """Names of degradations in the order in which they come onto a photograph."""
    return sorted(names, key=PHYSICAL_ORDER.index)


def mixture_name(degradations: str | Sequence[str]) -> str:
    """The one name of a mixture, its parts in physical order, "haze+rain"; of a single degradation, its own.

    Raises:
        UserError: as `parts_of`.
    """
    return "+".join(in_physical_order(parts_of(degradations)))


def in_listed_order(names: Iterable[str]) -> list[str]:
    """Names of degradations and mixtures as lists and tables have them: the six first, then pairs, then threes."""
    listed = list(DEGRADATIONS)
    return sorted(names, key=lambda name: (name.count("+"), [listed.index(part) for part in name.split("+")]))


def label(degradations: str | Sequence[str]) -> str:
    """What a person reads: "Haze", "Haze and rain", "Low light, haze and rain".

    Raises:
        UserError: as `parts_of`.
    """
    labels = [DEGRADATIONS[name].label for name in in_physical_order(parts_of(degradations))]
    labels = [labels[0], *(one.lower() for one in labels[1:])]
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)


def phrase(degradations: str | Sequence[str], dataset: str | None = None) -> str:
    """What a prompt says of all parts: "in hazy conditions, in rainy conditions"; see `Degradation.phrase_for`.

    Raises:
        UserError: as `parts_of`.
    """
    names = in_physical_order(parts_of(degradations))
    return ", ".join(DEGRADATIONS[name].phrase_for(dataset) for name in names)


def _one_each(value: Sequence[Any] | None, count: int, what: str) -> list[Any]:
    """Raises a UserError if there is not one for each part."""
    if value is None:
        return [None] * count
    if not several(value):
        raise UserError(f"{what} must be a list with a value for each of the {count} degradations, not {value!r}.")
    if len(value) != count:
        raise UserError(f"There are {count} degradations but {len(value)} values of {what}. Give one for each.")
    return list(value)
