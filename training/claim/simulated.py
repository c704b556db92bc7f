"""What if not a generator but simulators had degraded the photographs? As many pairs, of the same ones, as strong.

python -m training.claim.simulated training/recipes/claim-compact.yaml --pairs GENERATED --output DIR
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.claim.sets import simulate_pairs
from training.command_line import PAIRS, command_line, read_recipe
from training.pair_folders import PairFolders


def in_place_of(generated: PairFolders, recipe: Mapping[str, Any], output: Path) -> None:
    """Write a set of pairs for each degradation of the recipe's `simulated`.

    Args:
        generated: as `training.create_dataset` makes them; `simulated_count` of them are followed, the ones of which a
            restorer learns whose recipe has this `generated_count`.
    """
    generated.keep(recipe["simulated_count"])
    for number, (degradation, simulator) in enumerate(recipe["simulated"].items()):
        rows = zip(generated.files, generated.rows, strict=True)
        members = [(clean, row) for (clean, _), row in rows if row["degradation"] == degradation]
        if members:
            asked = [(row["mu_asked"], row["sigma_asked"]) for _, row in members]
            row = {"degradation": degradation, "dataset": simulator}
            folder = output / f"{degradation}-{simulator}"
            simulate_pairs([clean for clean, _ in members], asked, simulator, folder, row, 10**6 * number)


@command_line
def main() -> None:
    recipe, args = read_recipe(__doc__, PAIRS)
    in_place_of(PairFolders(args.pairs), recipe, args.output)


if __name__ == "__main__":
    sys.exit(main())
