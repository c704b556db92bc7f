"""What is asked of the bridge's network? A scheduler fitted to the residuals, and the loss on what it predicts."""

from __future__ import annotations

import torch
from torch import nn

from gendeg.codec import PatchCodec
from gendeg.degradations import DEGRADATIONS
from gendeg.scheduler import BridgeScheduler

_LEAST_SIZE = 0.02  # of the degradation maps that residuals are divided by


def channel_energy(codec: PatchCodec, residual_std: torch.Tensor) -> torch.Tensor:
    """Energy, in pixels, of residuals with deviations `residual_std` [..., C] of the latent channels: [..., C]."""
    return (residual_std * codec.unproject.weight.detach().flatten(1).norm(dim=0)).square()


def fit_bridge(
    codec: PatchCodec, latents: dict[str, torch.Tensor], noise_scale: tuple[float, float], smooth_noise_scale: float
) -> BridgeScheduler:
    """A scheduler that knows the residual's size in every channel, for each degradation.

    The channels with the most energy in pixels (local means: haze, darkness) get the lower noise scale and the smooth
    noise, those at or below the median (patterns) the upper one and none.
    """
    some = slice(0, 4000)
    residual = latents["degraded"][some].float() - latents["clean"][some].float()
    size = (latents["mu"][some].square() + latents["sigma"][some].square()).sqrt().clamp(min=_LEAST_SIZE)
    energy_of_each = (residual / size[:, None, None, None]).square().mean((2, 3)).cpu()
    kinds = latents["degradation"][some].cpu()
    present = {name: kinds == i for i, name in enumerate(DEGRADATIONS) if (kinds == i).any()}
    of_all = energy_of_each.mean(0).sqrt()
    rho = {name: energy_of_each[present[name]].mean(0).sqrt() if name in present else of_all for name in DEGRADATIONS}
    energy = channel_energy(codec, of_all)
    low, high = noise_scale
    position = ((energy / energy.median()).log() / (energy.max() / energy.median()).log()).clamp(0, 1)
    return BridgeScheduler(
        residual_std={name: [round(v, 4) for v in values.tolist()] for name, values in rho.items()},
        noise_scale=[round(v, 3) for v in (high + (low - high) * position).tolist()],
        smooth_noise_scale=[round(v, 3) for v in (smooth_noise_scale * position).tolist()],
    )


class BridgeLoss:
    """Weighted squared error of the predicted residual, and error of the intensity that it means.

    Channels are weighed by the square root of their residual's energy in pixels: by the energy itself, patterns would
    be lost; evenly, the network would spend itself on what nobody sees.
    """

    def __init__(self, scheduler: BridgeScheduler, codec: PatchCodec, intensity_weight: float):
        self.scheduler, self.intensity_weight = scheduler, intensity_weight
        self.unproject = codec.unproject.weight.detach().flatten(1)  # latents to the pixels of a patch, [192, C]
        rho = torch.tensor([scheduler.config.residual_std[name] for name in DEGRADATIONS])
        weights = channel_energy(codec, rho).sqrt()
        self.weights = (weights / weights.mean(1, keepdim=True))[:, :, None, None]

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scheduler, device = self.scheduler, batch["clean"].device
        time = batch["time"] * scheduler.config.num_train_timesteps
        scale = scheduler.residual_scale(batch["degradation"], batch["mu"], batch["sigma"])
        noisy = scheduler.add_noise(batch["clean"], batch["degraded"], batch["noise"], time, scale)
        seen = scheduler.network_input(noisy, batch["clean"], time, scale)
        output = model(seen, time, batch["condition"], batch["tokens"], batch["asked_mu"], batch["asked_sigma"]).float()
        predicted = scheduler.predicted(output, noisy, batch["clean"], time, scale)
        # In units of what is left to predict: weak degradations count as much as strong ones, late times as early ones.
        error = ((predicted - batch["degraded"]) / scheduler.output_scale(time, noisy, scale)).square()
        error = (self.weights.to(device)[batch["degradation"]] * error).mean((1, 2, 3))
        reached, wanted = (self.intensity(end - batch["clean"]) for end in (predicted, batch["degraded"]))
        off = (reached - wanted).abs().sum(1) * batch["time"]
        loss = error.mean() + self.intensity_weight * off.mean()
        return loss, {"error": error.mean(), "intensity_error": off.mean()}

    def intensity(self, residual: torch.Tensor) -> torch.Tensor:
        """Mean and deviation [B, 2] of the degradation map that a residual in the latents means, but for clipping."""
        pixels = torch.einsum("pc,bchw->bphw", self.unproject.to(residual), residual).abs().flatten(1) / 2
        return torch.stack([pixels.mean(1), pixels.std(1)], dim=1)
