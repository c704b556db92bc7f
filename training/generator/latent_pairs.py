"""What does the compact generator learn from? Pairs that the codec has encoded once, drawn as endless samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from gendeg.codec import PatchCodec
from gendeg.scheduler import BridgeScheduler, bridge_times
from runtime.files import whole_file
from training.codec import to_model_range
from training.loop import processes
from training.pairs import ConditionDropout, Lottery


class LatentPairs(Dataset):
    """Endless training samples of encoded pairs, but for the latents; sample i depends on (seed, i) alone.

    Args:
        latents: from `encode_pairs`.
        shares: how often each degradation is drawn, see `training.pairs.Lottery`.
        dropout: shares of samples that lose conditions, see `ConditionDropout`.
        tokens: token ids [captions + 1, phrases, L]; the first caption is none.
        null_tokens: token ids [L] of the empty prompt.
    """

    def __init__(
        self,
        latents: dict[str, torch.Tensor],
        shares: dict[str, float],
        dropout: dict[str, float],
        tokens: torch.Tensor,
        null_tokens: torch.Tensor,
        scheduler: BridgeScheduler,
        seed: int,
    ):
        self.like = torch.empty(1, *latents["clean"].shape[1:])
        self.scheduler = scheduler
        self.known = {name: latents[name] for name in ("phrase", "degradation", "mu", "sigma")}
        self.tokens, self.null_tokens, self.seed = tokens, null_tokens, seed
        self.dropout = ConditionDropout(dropout)
        self.lottery = Lottery(latents["degradation"].numpy(), shares)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        i = self.lottery.draw(rng)
        known = {name: values[i] for name, values in self.known.items()}
        caption = int(rng.integers(len(self.tokens))) if rng.random() < 0.3 else 0
        tokens = self.tokens[caption, known["phrase"]]
        lost = self.dropout.draw(rng)
        missing = torch.tensor(float("nan"))
        return {
            **known,
            "pair": torch.tensor(i),
            "tokens": self.null_tokens if "text" in lost else tokens,
            "prompt": tokens,
            "asked_mu": missing if "mu" in lost else known["mu"],
            "asked_sigma": missing if "sigma" in lost else known["sigma"],
            "has_image": torch.tensor("image" not in lost),
            "time": bridge_times(torch.tensor(rng.random(), dtype=torch.float32)),
            "noise": self.scheduler.draw_noise(self.like, torch.Generator().manual_seed(int(rng.integers(2**62))))[0],
            "noise_seed": torch.tensor(int(rng.integers(2**62))),
        }


class WithLatents:
    """A loss whose batches of `LatentPairs` get their latents only here, on the device that computes it.

    Args:
        loss: of (model, batch); batch: the samples' fields, and clean, degraded and condition (what the network sees
            of clean), [B, C, h, w].
        latents: from `encode_pairs`; kept on the GPU, where there is one.
    """

    def __init__(self, loss: Callable[..., Any], latents: dict[str, torch.Tensor]):
        device = processes().device
        self.loss = loss
        self.latents = {name: latents[name].to(device) for name in ("clean", "degraded")}

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clean, degraded = (self.latents[name][batch["pair"]].float() for name in ("clean", "degraded"))
        condition = clean * batch["has_image"][:, None, None, None]
        return self.loss(model, batch | {"clean": clean, "degraded": degraded, "condition": condition})


def encode_pairs(
    codec: PatchCodec, arrays: dict[str, np.ndarray], file: Path, recoloured_share: float = 0.0
) -> dict[str, torch.Tensor]:
    """Encode stored pairs, or read what an earlier run, or the first of several processes, encoded.

    Args:
        recoloured_share: share of the pairs whose colour channels change places, in both images alike: a flake stays
            white on water of any colour.

    Returns:
        clean, degraded: float16 [N, C, h, w]; mu, sigma: [N]; degradation, phrase: [N], indices into DEGRADATIONS and
        PHRASES.
    """
    with processes().main_process_first():
        if not _is_whole(file):
            _encode_pairs(codec, arrays, file, recoloured_share)
    return torch.load(file, weights_only=True, mmap=True)


def _is_whole(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        torch.load(file, weights_only=True, mmap=True)
    except Exception:  # torch raises almost anything on damaged files
        print(f"{file} is damaged: the pairs are encoded anew.")
        return False
    return True


@torch.no_grad()
def _encode_pairs(codec: PatchCodec, arrays: dict[str, np.ndarray], file: Path, recoloured_share: float) -> None:
    device = processes().device
    codec = codec.to(device)
    encoded = {}
    chunk = 64
    rng = np.random.default_rng(0)
    order = np.tile(np.arange(3), (len(arrays["mu"]), 1))
    order = np.where(rng.random((len(order), 1)) < recoloured_share, rng.permuted(order, axis=1), order)
    order = torch.from_numpy(order).to(device)
    for name in ("clean", "degraded"):
        parts = []
        for start in tqdm(range(0, len(arrays["mu"]), chunk), desc=f"encoding {name} images"):
            some = slice(start, start + chunk)
            images = torch.from_numpy(np.array(arrays[name][some])).to(device)
            images = images.gather(1, order[some, :, None, None].expand_as(images))
            parts.append(codec.encode(to_model_range(images)).latents.half().cpu())
        encoded[name] = torch.cat(parts)
    encoded |= {name: torch.from_numpy(np.array(arrays[name])) for name in ("mu", "sigma")}
    encoded |= {name: torch.from_numpy(np.array(arrays[name])).long() for name in ("degradation", "phrase")}
    with whole_file(file) as part:
        torch.save(encoded, part)
    codec.to("cpu")
