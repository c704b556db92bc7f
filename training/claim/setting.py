"""Which pairs are existing ones, which photographs are to be degraded, and which pairs are tests that no training sees?

    python -m training.claim.setting training/recipes/claim-compact.yaml --photos DIR --pairs DIR --output DIR

writes sets of pairs, as GenDeg (arXiv 2411.17687, Section 5) has them, at compact size:

    existing/<degradation>-<source>   of one source a degradation: a published data set, or one kind of simulator
    in/<degradation>-<source>         tests: held-back scenes of the same sources
    out/<degradation>-<source>        tests: of sources that no training learns from
    photographs                       clean ones, others again, for the generator to degrade
    setting.json                      how many there are of each, written last

What shows a scene of a test, whatever its file is called, is left out of all that is learned from.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import UserError
from runtime.files import write_whole
from runtime.images import image_files
from training.claim.sets import Files, copy_pairs, fingerprints, show_one_of, simulate_pairs
from training.command_line import PAIRS, command_line, read_recipe
from training.evaluate.inputs import real_intensities
from training.evaluate.published import spread
from training.pair_folders import PairFolders, degradations_of, is_held_back
from training.photos import Photos
from training.scenes import draw_scenes
from training.simulators.matching import SIMULATORS


@dataclass(frozen=True)
class Chosen:
    """A set of pairs that is to be written.

    Attributes:
        source: a published data set, or a kind of simulator.
        pairs: of the data set, to be copied.
        photos: for the simulator to degrade.
    """

    degradation: str
    source: str
    pairs: Sequence[Files] = ()
    photos: Sequence[Path] = ()

    @property
    def clean(self) -> list[Path]:
        return [*self.photos, *(clean for clean, _ in self.pairs)]


def prepare(recipe: Mapping[str, Any], photos: Sequence[Path], pairs: Sequence[Path], output: Path) -> dict[str, Any]:
    """Choose and write all that stands above; what an earlier run wrote stays.

    Args:
        recipe: see training/recipes/claim-compact.yaml.
        photos: folders of clean photographs; none: scenes are drawn.
        pairs: folders of published pairs, see `PairFolders`.

    Returns:
        What setting.json says: "sets", of each the number of pairs; "photographs"; "missing", data sets of tests that
        `pairs` do not hold; "left_out", the number of images that show a scene of a test.

    Raises:
        UserError: if a data set lacks whose pairs are to be existing ones, or its pairs, photographs are too few, or
            `output` holds others.
    """
    wanted = recipe["photographs"]
    files = Photos([*photos] or draw_scenes(output / "scenes", sum(wanted.values()), recipe["size"])).files
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
    tests, others = files[: wanted["test"]], files[wanted["test"] :]
    published = _by_data_set(pairs)
    sets, missing = _tests(recipe, tests, published)
    seen = fingerprints([*tests, *dict.fromkeys(clean for chosen in sets.values() for clean in chosen.clean)])
    shown = show_one_of(others, seen)
    left_out, others = int(shown.sum()), [file for file, taken in zip(others, ~shown, strict=True) if taken]
    to_simulate, to_generate = others[: wanted["existing"]], others[wanted["existing"] :][: wanted["generated"]]
    if not to_generate:
        raise UserError(
            f"The recipe tests on {wanted['test']} photographs, makes existing pairs of {wanted['existing']} others "
            f"and has the generator degrade still others; there are {len(files)}. Name more with --photos."
        )
    for degradation, source in _sources(recipe["existing"]):
        name = f"existing/{degradation}-{source}"
        if source in SIMULATORS[degradation]:
            sets[name] = Chosen(degradation, source, photos=[p for p in to_simulate for _ in range(recipe["copies"])])
            continue
        members = _members(published, degradation, source, held_back=False)
        scenes = sorted({scene for _, scene in members})[: recipe["scenes"].get(degradation)]
        members = [files for files, scene in members if scene in scenes]
        shown = show_one_of([clean for clean, _ in members], seen)
        left_out += int(shown.sum())
        members = [pair for pair, taken in zip(members, ~shown, strict=True) if taken]
        if not members:
            label = degradation.replace("_", " ")
            raise UserError(f"No pair of {label} is left to learn from in {source}: all its scenes are those of tests.")
        sets[name] = Chosen(degradation, source, members)
    _write(sets, to_generate, recipe["size"], output)
    if overlap := seen_in_training(output):
        raise UserError(
            f"{overlap[0]} shows a scene of a test: {output} is of an earlier run with other photographs or pairs. "
            f"Delete it, or choose another --output."
        )
    counts = {name: len(PairFolders([output / name]).files) for name in sets}  # an earlier run's stay
    facts = {"sets": counts, "photographs": len(to_generate), "missing": missing, "left_out": left_out}
    write_whole(output / "setting.json", (json.dumps(facts, indent=1) + "\n").encode())
    return facts


def seen_in_training(output: Path) -> list[Path]:
    """The images in what `prepare` wrote that are learned from, and yet show a scene of a test."""
    tests = [clean for place in ("in", "out") for clean, _ in PairFolders([output / place]).files]
    learned = [clean for clean, _ in PairFolders([output / "existing"]).files] + image_files(output / "photographs")
    known = fingerprints(tests)
    shown = show_one_of(learned, known) | show_one_of(learned, known, centre=True)
    return [file for file, found in zip(learned, shown, strict=True) if found]


def _tests(
    recipe: Mapping[str, Any], photos: Sequence[Path], published: Mapping[str, PairFolders]
) -> tuple[dict[str, Chosen], list[str]]:
    """(the sets to measure on, those of `out_of_distribution` that are not there)."""
    sets, missing = {}, []
    for place, sources in (("in", recipe["existing"]), ("out", recipe["out_of_distribution"])):
        for degradation, source in _sources(sources):
            if source in SIMULATORS[degradation]:
                sets[f"{place}/{degradation}-{source}"] = Chosen(degradation, source, photos=photos)
            elif source in published:
                members = _members(published, degradation, source, held_back=True if place == "in" else None)
                if members:  # of a few scenes all may be there to learn from
                    chosen = spread([files for files, _ in members], len(photos))
                    sets[f"{place}/{degradation}-{source}"] = Chosen(degradation, source, chosen)
            elif place == "out":
                missing.append(source)
            else:
                label = degradation.replace("_", " ")
                raise UserError(
                    f"The recipe takes existing pairs of {label} from the data set {source}, which is in none of "
                    f"--pairs; docs/claim.md says what it takes from where."
                )
    return sets, missing


def _write(sets: Mapping[str, Chosen], photographs: Sequence[Path], size: int, output: Path) -> None:
    for number, (name, chosen) in enumerate(sets.items()):
        row = {"degradation": chosen.degradation, "dataset": name}
        if chosen.photos:
            # By all kinds of a degradation at the same intensities.
            asked = real_intensities(chosen.degradation, len(chosen.photos)).tolist()
            simulate_pairs(chosen.photos, asked, chosen.source, output / name, row, 10**6 * number, size)
        else:
            copy_pairs(chosen.pairs, output / name, row)
    shutil.rmtree(output / "photographs", ignore_errors=True)
    (output / "photographs").mkdir()
    for number, file in enumerate(photographs):
        shutil.copyfile(file, output / "photographs" / f"{number:05}-{file.name}")


def _sources(of_degradations: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(degradation, source) for degradation, names in of_degradations.items() for source in names]


def _by_data_set(folders: Sequence[Path]) -> dict[str, PairFolders]:
    """Published pairs by the folder's name, which is that of the data set."""
    return {folder.resolve().name: PairFolders([folder]) for folder in folders}


def _members(
    published: Mapping[str, PairFolders], degradation: str, source: str, held_back: bool | None
) -> list[tuple[Files, str]]:
    """(files, scene) of a data set's pairs of scenes that are held back, of the others, or (None) of all."""
    found = published[source]
    return [
        (files, str(row.get("scene", files[0].name)))
        for files, row in zip(found.files, found.rows, strict=True)
        if degradations_of(row) in ([], [degradation]) and held_back in (None, is_held_back(row))
    ]


@command_line
def main() -> None:
    recipe, args = read_recipe(__doc__, PAIRS)
    prepare(recipe, args.photos or [], args.pairs, args.output)


if __name__ == "__main__":
    sys.exit(main())
