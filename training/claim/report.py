"""Tables and figures of what the claim's trainings reached, as `claim.md`, which reads as it is.

python -m training.claim.report training/recipes/claim-compact.yaml --output results
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendeg.checkpoints import load_pipeline
from gendeg.degradations import DEGRADATIONS
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.images import open_image, write_image
from training.claim import figures
from training.claim.tables import MEASURES, Quality, gains, markdown, means, of_means, of_sets, verdict
from training.claim.trainings import BOTH, EXISTING, GENERATED, SIMULATED, Training, trainings
from training.command_line import command_line, read_recipe
from training.evaluate.frechet import features, frechet
from training.evaluate.inputs import SIZE
from training.evaluate.published import spread
from training.pair_folders import PairFolders
from training.photos import centre_square

PAPER = Path(__file__).with_name("paper.md")
_MOST = 40  # images of a kind and degradation, on the map and in the distances
_LABELS = {EXISTING: "existing", GENERATED: "generated", BOTH: "both"}


def report(recipe: Mapping[str, Any], output: Path) -> str:
    """Write the figures into OUTPUT/report; returns the text that shows them and the tables.

    Args:
        recipe: see training/recipes/claim-compact.yaml.
        output: of `training.evaluate claim`.

    Raises:
        UserError: if a restorer has not been measured yet.
    """
    folder, generated = output / "report", len(PairFolders([output / "generated" / "pairs"]).files)
    folder.mkdir(exist_ok=True)
    done = {training: _quality(output, training.name) for training in trainings(recipe, generated)}
    first, *_ = recipe["seeds"]
    runs = {"as it is": [_quality(output, next(iter(done)).name, restored=False)]}
    text = ["# Existing, generated, or both", _setting(output, generated)]
    said = []
    for network, seeds in recipe["seeds"].items():
        of_kind = {kind: [done[Training(network, kind, seed)] for seed in seeds] for kind in _LABELS}
        runs |= {f"{network}, {_LABELS[kind]}": qualities for kind, qualities in of_kind.items()}
        said.append(verdict(network, gains(of_kind[BOTH], of_kind[EXISTING])))
    shown = [label for measure, (label, _) in MEASURES.items() if measure in means(runs["as it is"][0], "out")]
    text += ["Both against existing pairs, mean PSNR over all degradations:", "\n".join(said)]
    text += [f"Cells: {' / '.join(shown)}; of several seeds means, of PSNR ± standard deviation."]
    if "LPIPS" not in shown:
        text += ["LPIPS: not available; it needs torchmetrics, torchvision and the weights that they download."]
    text += [
        "## Table 1: out of distribution",
        of_sets(runs, "out"),
        "## Table 2: in distribution",
        of_sets(runs, "in"),
    ]
    text += ["## Table 3: means over all degradations", of_means(runs)]

    seed = recipe["seeds"][first][0]
    curve = {0: done[Training(first, EXISTING, seed)]}
    curve |= {t.count: quality for t, quality in done.items() if t.data == BOTH and t.count}
    curve[generated] = done[Training(first, BOTH, seed)]
    simulated = {t.count: quality for t, quality in done.items() if t.data == SIMULATED}
    points, crosses = ({n: means(quality, "out") for n, quality in some.items()} for some in (curve, simulated))
    figures.by_number(points, crosses, first, folder / "number.png")
    text += ["## The number of generated pairs", f"![Quality against the number](number.png)\n\n{first}, one seed."]

    places = {"existing": ["data/existing"], "generated": ["generated/pairs"], "out of distribution": ["data/out"]}
    seen = {kind: _degraded(output, folders) for kind, folders in places.items()}
    figures.embedding(seen, folder / "map.png")
    for number, quality in simulated.items():
        compared = {"existing": curve[0], "generated": curve[number], "simulated": quality}
        seen["simulated"] = _degraded(output, ["simulated/pairs"])
        text += ["## Generated or simulated, and how near to the tests", _in_place(number, compared, seen)]
    text += ["## Where degradations lie", "![t-SNE of degraded images](map.png)"]
    photo = centre_square(PairFolders([output / "data" / "in"]).files[0][0], SIZE)
    pipeline = load_pipeline(str(output / "structure" / "pipeline"))
    write_image(figures.rising(pipeline, photo), folder / "rising.png")
    text += ["## Intensity under control", "![Rows of rising mu and of rising sigma](rising.png)"]
    return "\n\n".join([*text, PAPER.read_text(encoding="utf-8")])


def _quality(output: Path, training: str, restored: bool = True) -> Quality:
    """What `training.evaluate published` measured of a training's restorer, or of the degraded images as they are."""
    file = output / training / "quality.json"
    if not file.exists():
        raise UserError(f"{training} has not been measured: there is no {file}.")
    tables = json.loads(file.read_bytes())
    return {name: list(table.values())[-1 if restored else 0] for name, table in tables.items()}


def _setting(output: Path, generated: int) -> str:
    """What there is of each kind, in a paragraph."""
    facts = json.loads((output / "data" / "setting.json").read_bytes())
    kinds = {"existing": "Existing pairs", "in": "Tests in distribution", "out": "Tests out of distribution"}
    said = []
    for kind, label in kinds.items():
        sets = [
            f"{name.split('/')[1]} {count:,}" for name, count in facts["sets"].items() if name.startswith(f"{kind}/")
        ]
        said.append(f"{label}: {', '.join(sets)}.")
    said.append(f"Generated pairs: {generated:,}, of {facts['photographs']:,} photographs.")
    if facts["missing"]:
        said.append(f"Not there to test on: {', '.join(facts['missing'])}.")
    said.append(f"Images left out because they show a scene of a test: {facts['left_out']}.")
    return " ".join(said)


def _degraded(output: Path, folders: Sequence[str]) -> dict[str, list[torch.Tensor]]:
    """Degradation -> features of the tiles of some degraded images, evenly spread, each [tiles, F]."""
    pairs, files = PairFolders([output / folder for folder in folders]), {name: [] for name in DEGRADATIONS}
    for pair, row in zip(pairs.files, pairs.rows, strict=True):
        files[row["degradation"]].append(pair)
    return {
        name: [features(torch.from_numpy(np.array(open_image(file))).permute(2, 0, 1)[None]) for _, file in chosen]
        for name, found in files.items()
        if (chosen := spread(found, _MOST))
    }


def _in_place(
    number: int, runs: Mapping[str, Quality], seen: Mapping[str, Mapping[str, Sequence[torch.Tensor]]]
) -> str:
    """Of each degradation PSNR out of distribution of each kind of pairs, and how far these are from the tests."""
    kinds = ("existing", "generated", "simulated")
    rows = []
    for name, degradation in DEGRADATIONS.items():
        reached = [means(quality, "out", name).get("psnr") for quality in runs.values()]
        tests = seen["out of distribution"].get(name)
        far = [
            frechet(torch.cat([*seen[kind][name]]), torch.cat([*tests])) if tests and name in seen[kind] else None
            for kind in kinds
        ]
        numbers = [*(f"{value:.2f}" if value is not None else "–" for value in reached)]
        rows.append([degradation.label, *numbers, *(f"{value:.1f}" if value is not None else "–" for value in far)])
    header = ["", *(f"{kind}, PSNR" for kind in runs), *(f"{kind}, distance" for kind in kinds)]
    note = (
        f"{number:,} pairs of either kind, one seed. Distance: Fréchet distance of the degraded images to those of the "
        f"tests, of up to {_MOST} images; it also tells what the photographs show."
    )
    return f"{markdown(header, rows)}\n\n{note}"


@command_line
def main() -> None:
    recipe, args = read_recipe(__doc__)
    text = report(recipe, args.output)
    write_whole(args.output / "report" / "claim.md", text.encode())


if __name__ == "__main__":
    sys.exit(main())
