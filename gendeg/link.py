"""How do settings travel? In a link that sets the page as it was, and in the files that are downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from gendeg.mixture import parts_of
from gendeg.request import MAX_SEED, Part, Request, read_part, whole
from runtime.errors import UserError

FILE_KEY = "gendeg"  # of the text in a PNG file


@dataclass(frozen=True)
class Linked:
    """What a link asks for.

    Attributes:
        parts: one to three degradations, with their intensities.
        seed: None: it says none.
    """

    parts: tuple[Part, ...]
    seed: int | None


def settings(request: Request) -> dict[str, Any]:
    """All that was asked for but the photograph, as JSON can hold it; what was left to the model is left out."""
    chosen = {
        name: getattr(request, name)
        for name in (
            "steps",
            "guidance_scale",
            "image_guidance_scale",
            "resolution",
            "output_size",
            "caption",
            "preset",
        )
    }
    return {
        "degradations": [{"name": p.degradation, "mu": p.mu, "sigma": p.sigma} for p in request.parts],
        "seed": request.seed,
        "structure_correction": request.structure_correction,
        "masked": request.mask is not None,
        **{name: value for name, value in chosen.items() if value not in (None, "")},
    }


def texts(request: Request) -> dict[str, str]:
    """The settings, as they are written into PNG files."""
    return {FILE_KEY: json.dumps(settings(request))}


def link(request: Request) -> str:
    """The query of the page's address that brings degradations, intensities and seed back: ?d=haze,0.1,0.06&seed=3"""
    parts = ";".join(f"{part.degradation},{part.mu:g},{part.sigma:g}" for part in request.parts)
    return "?" + urlencode({"d": parts, "seed": request.seed}, safe=",;")


def read_link(query: Mapping[str, str]) -> Linked | None:
    """What the query of a page's address asks for; None if that is nothing, or cannot be done."""
    try:
        parts = [read_part(*text.split(",")) for text in query["d"][:200].split(";")]
        parts_of([part.degradation for part in parts])
        seed = whole("The seed", query["seed"], 0, MAX_SEED) if "seed" in query else None
    except (UserError, KeyError, TypeError):
        return None
    return Linked(tuple(parts), seed)
