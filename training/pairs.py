"""Paired data: a clean image, its degraded version, and what is known of the pair."""

from __future__ import annotations

import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.intensity import intensity
from gendeg.prior import PRIOR
from runtime.errors import UserError
from runtime.files import reserve, whole_file, write_whole
from training.loop import processes
from training.pair_folders import PairFolders, degradations_of
from training.photos import Photos, random_crop_of_pair, smooth_field, with_grain
from training.simulators.matching import phrases, simulate_batch

PHRASES = sorted(
    {phrase for d in DEGRADATIONS.values() for phrase in (d.phrase, *dict(d.mixed_phrases).values(), *d.variants)}
)
# One pair in so many takes mu and sigma uniformly from the whole real range, for intensities that data rarely hold.
_UNIFORM_EVERY = 4


class TrainingPairs(Dataset):
    """Endless pairs of the six degradations in turn, or of some: simulated, or crops of published pairs.

    Items: clean, degraded (uint8 tensors [3, size, size]), degradation (index into DEGRADATIONS), phrase (index into
    PHRASES), mu, sigma (of the pair). Pair i depends on (seed, i) alone.

    Args:
        photos: what is degraded by simulation.
        size: side in pixels.
        degradations: the only ones; None: all six.
        sources: pairs of image files, each with degradation -> share of its pairs that come from there; rows say
            which pairs show it.
        unnamed: whether pairs whose rows name no degradation serve as any, and mixtures as each of their parts; not
            for a network that is told what it is, to which they are of no use.

    Raises:
        UserError: for shares of what is no degradation, or of more than all, and for pairs none of which serves.
    """

    def __init__(
        self,
        photos: Photos,
        size: int,
        seed: int = 0,
        degradations: Sequence[str] | None = None,
        sources: Sequence[tuple[PairFolders, Mapping[str, float]]] = (),
        unnamed: bool = False,
    ):
        self.photos, self.size, self.seed = photos, size, seed
        names = list(DEGRADATIONS)
        asked = names if degradations is None else [get_degradation(name).name for name in degradations]
        self.turns = [number for number, name in enumerate(names) if name in asked]
        self.degradations = None if len(self.turns) == len(names) else "+".join(names[i] for i in self.turns)
        self.files: dict[int, list[tuple[float, list[tuple[Path, Path]]]]] = {}
        for folders, shares in sources:
            check_shares(shares)
            shown = [degradations_of(row) for row in folders.rows]
            found = False
            for name, share in shares.items():
                pairs = zip(folders.files, shown, strict=True)
                files = [pair for pair, known in pairs if known == [name] or (unnamed and (not known or name in known))]
                if files and share:
                    self.files.setdefault(names.index(name), []).append((share, files))
                    found = True
            if not found:
                kind = "a" if unnamed else "only a"  # of a mixture, a generator could not tell what is whose
                raise UserError(f"None of the pairs shows {kind} degradation that the recipe draws from such folders.")
        for number, parts in self.files.items():
            if sum(share for share, _ in parts) > 1 + 1e-6:
                raise UserError(f"The shares of {names[number]} add up to more than 1.")

    def name(self, count: int) -> str:
        """Tells `count` of these pairs from those of other sizes, degradations or images; for a folder's name.

        Not from those of another seed: they serve as well, and are shared among recipes.
        """
        parts = [self.size, count, self.degradations, self.photos.name]
        if self.files:
            files = [
                (n, share, [_identity(file) for pair in files for file in pair])
                for n in self.files
                for share, files in self.files[n]
            ]
            parts.append(hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8])
        return "-".join(str(part) for part in [*parts, _simulators_version()] if part)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in _made(default_collate([self.wanted(index)])).items()}

    def wanted(self, index: int) -> dict[str, Any]:
        """What pair i is made of: clean, degradation, the wanted mu and sigma, the seed of all other randomness,
        `degraded`, and whether it is `found`: that of a pair of image files, which needs no simulation.
        """
        rng = np.random.default_rng((self.seed, index))
        number = self.turns[index % len(self.turns)]
        images, place = None, rng.random()
        for share, files in self.files.get(number, []):
            if 0 <= place < share:
                images = random_crop_of_pair(files[rng.integers(len(files))], self.size, rng)
            place -= share
        found = images is not None
        images = images or (self.photos.random_crop(self.size, rng),) * 2
        clean, degraded = (torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images)
        uniform = rng.integers(_UNIFORM_EVERY) == 0
        mu, sigma = PRIOR.sample(list(DEGRADATIONS)[number], rng, uniform=uniform)[:2]
        return {
            "clean": clean,
            "degraded": degraded,
            "found": found,
            "degradation": number,
            "mu": float(mu),
            "sigma": float(sigma),
            "seed": int(rng.integers(2**62)),
        }


def _identity(file: str | Path) -> tuple[str, int, int]:
    """Tells an image file from one that took its place."""
    facts = Path(file).stat()
    return str(file), facts.st_size, facts.st_mtime_ns


@cache
def _simulators_version() -> str:
    """Changes with the code of the simulators."""
    files = sorted((Path(__file__).parent / "simulators").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def training_pairs(
    recipe: dict[str, Any], args: Namespace, size: int, defocused_share: float = 0.0, unnamed: bool = False
) -> TrainingPairs:
    """What a recipe and a training's command line mean by pairs: simulated ones, those of `--pairs` by the recipe's
    `published_shares`, and those of `--generated` by its `generated_shares`; `published_count` and `generated_count`
    say how many of them there are to be, where not all are.

    Left out are scenes held back for evaluation (`pair_folders.is_held_back`), and degradations with a share of 0.
    """
    shares = recipe.get("shares") or {}
    check_shares(shares)
    asked = [name for name in DEGRADATIONS if shares.get(name, 1.0)]
    if not asked:
        raise UserError("shares: all are 0, so there is nothing to learn from.")
    of_kind = {kind: recipe.get(f"{kind}_shares") or {} for kind in ("published", "generated")}
    for shares in of_kind.values():
        check_shares(shares)
    sources = []
    for kind, folders in (("published", args.pairs), ("generated", getattr(args, "generated", []))):
        if folders:
            found = PairFolders(folders, scenes="training")
            if f"{kind}_count" in recipe:
                found.keep(recipe[f"{kind}_count"])
            sources.append((found, {n: share for n, share in of_kind[kind].items() if n in asked}))
    return TrainingPairs(Photos(args.photos, defocused_share), size, recipe["seed"], asked, sources, unnamed)


def _made(wanted: dict[str, torch.Tensor], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Items of `TrainingPairs`, stacked, of what was `wanted`, stacked; those of a degradation made at once."""
    clean, degraded = wanted["clean"], wanted["degraded"].clone()
    phrase, (mu, sigma) = torch.empty(len(clean), dtype=torch.uint8), torch.empty(2, len(clean))
    for number, name in enumerate(DEGRADATIONS):
        places = ((wanted["degradation"] == number) & ~wanted["found"]).nonzero()[:, 0]
        if len(places):
            generator = torch.Generator(device).manual_seed(int(wanted["seed"][places[0]]))
            images = clean[places].to(device).float() / 255
            made = simulate_batch(images, name, wanted["mu"][places], wanted["sigma"][places], generator)
            degraded[places] = (torch.stack([pair.degraded for pair in made]) * 255).round().to("cpu", torch.uint8)
            phrase[places] = torch.tensor([PHRASES.index(pair.phrase) for pair in made], dtype=torch.uint8)
            mu[places], sigma[places] = torch.tensor([(pair.mu, pair.sigma) for pair in made]).T
        places = ((wanted["degradation"] == number) & wanted["found"]).nonzero()[:, 0]
        if len(places):
            pair = [images[places].float() / 255 for images in (clean, degraded)]
            mu[places], sigma[places] = intensity(*pair)
            phrase[places] = torch.tensor([PHRASES.index(p) for p in phrases(name, *pair)], dtype=torch.uint8)
    return {
        "clean": clean,
        "degraded": degraded,
        "degradation": wanted["degradation"].to(torch.uint8),
        "phrase": phrase,
        "mu": mu,
        "sigma": sigma,
    }


class _Wanted(Dataset):
    """What `pairs` are made of, as a data set of its own."""

    def __init__(self, pairs: TrainingPairs):
        self.pairs = pairs

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pairs.wanted(index)


def stored_pairs(pairs: TrainingPairs, count: int, parent: str | Path, workers: int) -> dict[str, np.ndarray]:
    """The first `count` pairs, made once and kept in a folder below `parent`, which is named like them.

    An interrupted run goes on where it stopped.

    Of several processes the first one makes them, the others find its pairs. On a GPU, `workers` only cut photographs
    into crops, and pairs are simulated many at a time: then pair i depends on those beside it as well.

    Returns:
        The items' fields stacked, as arrays read from disk when touched.
    """
    with processes().main_process_first():
        return _stored_pairs(pairs, count, Path(parent) / f"pairs-{pairs.name(count)}", workers)


def _stored_pairs(pairs: TrainingPairs, count: int, folder: Path, workers: int) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.json"
    fields = {name: (value.numpy().dtype, (count, *value.shape)) for name, value in pairs[0].items()}
    done = _pairs_done(state, count)
    if not done or not all(_is_array(folder / f"{name}.npy", *field) for name, field in fields.items()):
        if state.exists():
            print(f"{folder} holds a damaged file: its pairs are made anew.")
            state.unlink()
        done = 0
    arrays = {name: _open_array(folder / f"{name}.npy", *field) for name, field in fields.items()}
    device = processes().device
    on_cpu = device.type == "cpu"
    chunk = 32 if on_cpu else 32 * len(DEGRADATIONS)
    loader = DataLoader(pairs if on_cpu else _Wanted(pairs), chunk, sampler=range(done, count), num_workers=workers)
    with tqdm(total=count, initial=done, desc="making pairs", unit="pair") as bar:
        for batch in loader:
            batch = batch if on_cpu else _made(batch, device)
            size = len(batch["mu"])
            for name, value in batch.items():
                arrays[name][done : done + size] = value.numpy()
            done += size
            bar.update(size)
            if done % (chunk * 16) == 0 or done == count:
                for array in arrays.values():
                    array.flush()
                write_whole(state, json.dumps({"done": done}).encode())
    return arrays


def _pairs_done(state: Path, count: int) -> int:
    """How many of `count` pairs an earlier run wrote; 0 if its note is missing or damaged."""
    try:
        done = json.loads(state.read_bytes())["done"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0
    return done if isinstance(done, int) and 0 < done <= count else 0


def _is_array(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether a .npy file is whole and holds such an array."""
    try:
        array = np.load(file, mmap_mode="r")  # "r+" would make a file that was cut as long as it should be
    except (FileNotFoundError, ValueError, EOFError):
        return False
    return (array.dtype, array.shape) == (dtype, shape)


def _open_array(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A .npy file as an array to write to; there is room on the disk for all of it."""
    if not _is_array(file, dtype, shape):
        with whole_file(file) as part:
            with part.open("wb") as header:
                facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(header, facts)
                size = header.tell() + dtype.itemsize * math.prod(shape)
            reserve(part, size)
    reserve(file, file.stat().st_size)  # an earlier run may not have
    return np.lib.format.open_memmap(file, mode="r+")


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises: UserError if `shares` names something that is no degradation."""
    unknown = set(shares) - set(DEGRADATIONS)
    if unknown:
        raise UserError(f"shares: {', '.join(sorted(unknown))}: no degradation; there are {', '.join(DEGRADATIONS)}.")


class BalancedSampler:
    """Draws pairs, some degradations more often than others, whichever number there are of each.

    Args:
        degradation: of each pair, index into DEGRADATIONS, [N].
        shares: degradation -> how often it is drawn, in relation to the others; those not named: 1.

    Raises:
        UserError: if `shares` names something else.
    """

    def __init__(self, degradation: np.ndarray, shares: Mapping[str, float]):
        check_shares(shares)
        degradation = np.asarray(degradation)
        members = {name: np.flatnonzero(degradation == i) for i, name in enumerate(DEGRADATIONS)}
        self.members = [m for m in members.values() if len(m)]
        weights = np.array([shares.get(name, 1.0) for name, m in members.items() if len(m)])
        self.weights = weights / weights.sum()

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of pairs, [count]."""
        kinds = rng.choice(len(self.members), size=count, p=self.weights)
        chosen = np.empty(count, np.int64)
        for kind, members in enumerate(self.members):
            here = kinds == kind
            chosen[here] = members[rng.integers(len(members), size=here.sum())]
        return chosen


class ConditionDropout:
    """Which conditions a sample loses, so that the model learns to do without them (GenDeg, arXiv 2411.17687).

    Args:
        shares: kind of loss -> share of the samples; kinds: text_and_intensity, image, all, mu, sigma.
    """

    _LOST_IN = {
        "text": ("text_and_intensity", "all"),
        "mu": ("text_and_intensity", "all", "mu"),
        "sigma": ("text_and_intensity", "all", "sigma"),
        "image": ("image", "all"),
    }

    def __init__(self, shares: dict[str, float]):
        self.kinds, self.thresholds = list(shares), np.cumsum(list(shares.values()))

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Which samples lose their text, mu, sigma or image: name -> [count] of bool."""
        kind = np.searchsorted(self.thresholds, rng.random(count), side="right")
        return {
            name: np.isin(kind, [i for i, k in enumerate(self.kinds) if k in kinds])
            for name, kinds in self._LOST_IN.items()
        }


class Crops(Dataset):
    """Endless batches for a restorer; a batch depends on the seed and its first index.

    Args:
        arrays: as `stored_pairs` gives them: clean, degraded, uint8 [N, 3, size, size]; degradation.
        crop: side in pixels, at most `size`.
        shares: see `BalancedSampler`.
        clean_share: share of samples whose degraded image is the clean one: what is fine must stay. Half of them have
            grain, as photographs on film do, which must not be taken for the noise of low light; half of these are
            nothing but a sky or a wall (`smooth_field`), dark or bright, which is neither fog nor low light.
        exposure_share: share of samples that are made darker or brighter, both images alike, by a gamma between a
            half and two: few photographs are dark or pale, and those must not be taken for low light or haze. Contrast
            is left alone: a duller copy with lifted shadows is what haze makes, and who learns to keep it keeps haze.

    Raises:
        UserError: for crops larger than the pairs.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        crop: int,
        shares: Mapping[str, float],
        clean_share: float,
        exposure_share: float,
        seed: int,
    ):
        if crop > arrays["clean"].shape[-1]:
            raise UserError(f"crop: {crop} pixels, but the pairs have {arrays['clean'].shape[-1]} (size).")
        self.arrays, self.crop, self.seed = arrays, crop, seed
        self.sampler = BalancedSampler(arrays["degradation"], shares)
        self.clean_share, self.exposure_share = clean_share, exposure_share

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """degraded, clean: float [B, 3, crop, crop] in [0, 1], one random crop of both, half of them mirrored."""
        rng, count = np.random.default_rng((self.seed, indices[0])), len(indices)
        chosen, size = self.sampler.draw(count, rng), self.arrays["clean"].shape[-1]
        rows, columns = rng.integers(size - self.crop + 1, size=(2, count))[..., None] + np.arange(self.crop)
        columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
        rows, columns = rows[:, None, :, None], columns[:, None, None]
        places = (chosen[:, None, None, None], np.arange(3)[:, None, None], rows, columns)
        clean, degraded = (torch.from_numpy(self.arrays[n][places]).float() / 255 for n in ("clean", "degraded"))
        gamma = np.where(rng.random(count) < self.exposure_share, 2 ** rng.uniform(-1, 1, count), 1)
        gamma = torch.from_numpy(gamma).float()[:, None, None, None]
        clean, degraded = clean**gamma, degraded**gamma
        for i in np.flatnonzero(rng.random(count) < self.clean_share):
            if rng.random() < 0.5:
                clean[i] = with_grain(clean[i] if rng.random() < 0.5 else smooth_field(self.crop, rng), rng)
            degraded[i] = clean[i]
        return {"degraded": degraded, "clean": clean}
