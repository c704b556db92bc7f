"""Which restorers are trained on what, by which recipes? Those of one network and seed differ in their data alone."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gendeg.degradations import DEGRADATIONS

EXISTING, GENERATED, BOTH, SIMULATED = "existing", "generated", "both", "simulated"


@dataclass(frozen=True)
class Training:
    """A restorer to train.

    Attributes:
        data: EXISTING pairs, GENERATED ones, BOTH, or existing and SIMULATED ones.
        count: of the pairs that are not existing ones; None: all that there are.
    """

    network: str
    data: str
    seed: int
    count: int | None = None

    @property
    def name(self) -> str:
        return "-".join(str(part) for part in (self.network, self.data, self.count, self.seed) if part is not None)


def trainings(recipe: Mapping[str, Any], generated: int) -> Iterator[Training]:
    """All of them: each network and seed on existing pairs, generated ones and both; the first network also on existing
    ones with fewer generated ones, and with simulated ones in their place.

    Args:
        recipe: see training/recipes/claim-compact.yaml.
        generated: how many generated pairs there are.
    """
    for network, seeds in recipe["seeds"].items():
        for seed in seeds:
            for data in (EXISTING, BOTH, GENERATED):
                yield Training(network, data, seed)
    network, seeds = next(iter(recipe["seeds"].items()))
    counts = [count for count in recipe["generated_counts"] if count < generated]
    for count in counts:
        yield Training(network, BOTH, seeds[0], count)
    if recipe["simulated_count"] in counts:  # for then there is what to compare with
        yield Training(network, SIMULATED, seeds[0], recipe["simulated_count"])


def derived_recipe(
    claim: Mapping[str, Any],
    base: Mapping[str, Any],
    existing: Collection[str],
    others: Collection[str] = (),
    training: Training | None = None,
    steps: Sequence[int] | None = None,
) -> dict[str, Any]:
    """A recipe that draws from folders of pairs alone: nothing is simulated on the way.

    Args:
        claim: see training/recipes/claim-compact.yaml.
        base: the recipe that it is made from.
        existing, others: the degradations that the existing pairs show, and the generated or simulated ones.
        training: of a restorer; None: codec, generator or structure correction.
        steps: of each stage; None: those of `base`.
    """
    recipe = copy.deepcopy(dict(base))
    generated = {name: claim["generated_share"] if name in existing else 1.0 for name in others}
    absent = {name: 0.0 for name in DEGRADATIONS if name not in existing and name not in others}
    recipe |= {
        "workers": claim["workers"],
        "published_shares": {name: 1 - generated.get(name, 0.0) for name in existing},
        "shares": recipe.get("shares", {}) | absent,
    }
    if training:
        recipe |= {"seed": training.seed, "generated_shares": generated}
        if training.count:
            recipe["generated_count"] = training.count
    if "pairs" in recipe:
        recipe["pairs"]["count"] = min(recipe["pairs"]["count"], claim["pairs"])
    if "stages" in recipe:
        recipe["stages"] = recipe["stages"][: claim["stages"]]
    for number, stage in enumerate(recipe.get("stages", [recipe])):
        if isinstance(stage.get("pairs"), int):
            stage["pairs"] = min(stage["pairs"], claim["pairs"])
        stage["loop"] |= claim["loop"] | ({"steps": steps[number]} if steps else {})
    return recipe
