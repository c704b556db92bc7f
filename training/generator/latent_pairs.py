"""What does the compact generator learn from? Pairs that the codec has encoded once, drawn as endless batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from gendeg.codec import PatchCodec
from gendeg.scheduler import BridgeScheduler, bridge_times
from training.codec import to_model_range
from training.loop import processes
from training.made_once import made_once
from training.pairs import BalancedSampler, ConditionDropout


class LatentPairs(Dataset):
    """Endless batches of encoded pairs; a batch depends on the seed and its first index.

    Args:
        latents: from `encode_pairs`; batches lie on their device.
        shares: how often each degradation is drawn, see `training.pairs.BalancedSampler`.
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
        self.latents, self.scheduler, self.seed = latents, scheduler, seed
        self.device = latents["clean"].device
        self.tokens, self.null_tokens = tokens.to(self.device), null_tokens.to(self.device)
        self.dropout = ConditionDropout(dropout)
        self.sampler = BalancedSampler(latents["degradation"].cpu().numpy(), shares)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Latents: clean, degraded and condition (what the network sees of clean), noise [B, C, h, w]; tokens [B, L];
        time, degradation, mu, sigma, and asked_mu and asked_sigma, which may be lost (NaN), [B].
        """
        rng, count = np.random.default_rng((self.seed, indices[0])), len(indices)
        chosen = torch.from_numpy(self.sampler.draw(count, rng)).to(self.device)
        batch = {name: values[chosen] for name, values in self.latents.items()}
        clean, degraded = batch["clean"].float(), batch["degraded"].float()
        caption = np.where(rng.random(count) < 0.3, rng.integers(len(self.tokens), size=count), 0)
        tokens = self.tokens[torch.from_numpy(caption).to(self.device), batch["phrase"]]
        lost = {name: torch.from_numpy(v).to(self.device) for name, v in self.dropout.draw(count, rng).items()}
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        return {
            "clean": clean,
            "degraded": degraded,
            "condition": clean.masked_fill(lost["image"][:, None, None, None], 0),
            "tokens": torch.where(lost["text"][:, None], self.null_tokens, tokens),
            "degradation": batch["degradation"],
            "mu": batch["mu"],
            "asked_mu": batch["mu"].masked_fill(lost["mu"], torch.nan),
            "sigma": batch["sigma"],
            "asked_sigma": batch["sigma"].masked_fill(lost["sigma"], torch.nan),
            "time": bridge_times(torch.from_numpy(rng.random(count, np.float32)).to(self.device)),
            "noise": self.scheduler.draw_noise(clean, generator),
        }


def encode_pairs(
    codec: PatchCodec, arrays: dict[str, np.ndarray], file: Path, recoloured_share: float = 0.0
) -> dict[str, torch.Tensor]:
    """Encode stored pairs, or read what an earlier run, or the first of several processes, encoded; to the device.

    Args:
        recoloured_share: share of the pairs whose colour channels change places, in both images alike: a flake stays
            white on water of any colour.

    Returns:
        clean, degraded: float16 [N, C, h, w]; mu, sigma: [N]; degradation, phrase: [N], indices into DEGRADATIONS and
        PHRASES.
    """
    encoded = made_once(file, lambda: _encode_pairs(codec, arrays, recoloured_share), "the pairs are encoded")
    return {name: values.to(processes().device) for name, values in encoded.items()}


@torch.no_grad()
def _encode_pairs(codec: PatchCodec, arrays: dict[str, np.ndarray], recoloured_share: float) -> dict[str, torch.Tensor]:
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
    codec.to("cpu")
    return encoded
