"""Paired data: a clean image, its degraded version, and what is known of the pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gendeg.degradations import DEGRADATIONS
from gendeg.prior import IntensityPrior
from training.photos import Photos
from training.simulators.matching import simulate

PHRASES = sorted({phrase for d in DEGRADATIONS.values() for phrase in (d.phrase, *dict(d.mixed_phrases).values())})
# One pair in so many takes mu and sigma uniformly from the whole real range, for intensities that data rarely hold.
_UNIFORM_EVERY = 4


class SimulatedPairs(Dataset):
    """Endless pairs of the six degradations; pair i depends on (seed, i) alone.

    Items: clean, degraded (uint8 tensors [3, size, size]), degradation (index into DEGRADATIONS), phrase (index into
    PHRASES), mu, sigma (of the pair).
    """

    def __init__(self, photos: Photos, size: int, seed: int = 0):
        self.photos, self.size, self.seed = photos, size, seed
        self.prior = IntensityPrior()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        clean = torch.from_numpy(self.photos.random_crop(self.size, rng).copy()).permute(2, 0, 1)
        name = list(DEGRADATIONS)[index % len(DEGRADATIONS)]
        uniform = rng.integers(_UNIFORM_EVERY) == 0
        mu, sigma = self.prior.sample(name, rng, uniform=uniform)[:2]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pair = simulate(clean.float() / 255, name, mu, sigma, generator)
        return {
            "clean": clean,
            "degraded": (pair.degraded * 255).round().to(torch.uint8),
            "degradation": torch.tensor(index % len(DEGRADATIONS), dtype=torch.uint8),
            "phrase": torch.tensor(PHRASES.index(pair.phrase), dtype=torch.uint8),
            "mu": torch.tensor(pair.mu),
            "sigma": torch.tensor(pair.sigma),
        }


def stored_pairs(pairs: Dataset, count: int, folder: str | Path, workers: int) -> dict[str, np.ndarray]:
    """The first `count` pairs, simulated once and kept in `folder`; an interrupted run goes on where it stopped.

    Returns:
        The items' fields stacked, as arrays read from disk when touched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.json"
    done = json.loads(state.read_text())["done"] if state.exists() else 0
    arrays = {}
    for name, value in pairs[0].items():
        shape, dtype = (count, *value.shape), value.numpy().dtype
        file = folder / f"{name}.npy"
        if file.exists():
            arrays[name] = np.lib.format.open_memmap(file, mode="r+")
            if arrays[name].shape != shape:
                raise ValueError(f"{folder} holds pairs of another recipe. Remove it or choose another output folder.")
        else:
            arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    chunk = 32
    loader = DataLoader(pairs, batch_size=chunk, sampler=range(done, count), num_workers=workers)
    with tqdm(total=count, initial=done, desc="simulating pairs", unit="pair") as bar:
        for batch in loader:
            size = len(batch["mu"])
            for name, value in batch.items():
                arrays[name][done : done + size] = value.numpy()
            done += size
            bar.update(size)
            if done % (chunk * 16) == 0 or done == count:
                for array in arrays.values():
                    array.flush()
                state.write_text(json.dumps({"done": done}))
    return arrays
