"""The compact profile's process: a diffusion bridge that leads from the clean latent to the degraded one.

A stochastic interpolant (compare I2SB, arXiv 2302.05872, and BBDM, arXiv 2205.07680). With residual
r = z_degraded - z_clean, its standard deviation rho per channel, noise e and time t in [0, 1]:

    z_t = z_clean + t r + s sqrt(t (1 - t)) rho e

The network sees [z_t, z_clean], t and the context, and predicts r / rho. Sampling starts at the clean latent itself,
so the scene is never lost; the noise along the way decides where streaks, flakes and drops fall.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor


@dataclass
class BridgeSchedulerOutput(BaseOutput):
    """prev_sample: the latent at the next time; pred_original_sample: the degraded latent predicted from here."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class BridgeScheduler(SchedulerMixin, ConfigMixin):
    """Diffusion bridge from clean to degraded latents.

    Args:
        residual_std: rho, one number or one per latent channel.
        noise_scale: s, one number or one per latent channel. Patterns want noise, global changes want little.
        num_train_timesteps: the network is told t * num_train_timesteps.
        time_power: sampling times are (i / n) ** time_power. Early steps must be short: with long ones the network
            would meet less noise than its training promised for the residual it has found so far.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        residual_std: float | list[float] = 1.0,
        noise_scale: float | list[float] = 1.0,
        num_train_timesteps: int = 1000,
        time_power: float = 2.0,
    ):
        self.init_noise_sigma = 1.0
        self.set_timesteps(8)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Lay out the times of a sampling run; `timesteps` holds those at which the network is asked."""
        if num_inference_steps < 1:
            raise ValueError("The number of steps must be at least 1.")
        times = torch.linspace(0, 1, num_inference_steps + 1, dtype=torch.float64) ** self.config.time_power
        self.num_inference_steps = num_inference_steps
        self._times = times.tolist()
        self.timesteps = (times[:-1] * self.config.num_train_timesteps).float().to(device)
        self._noise: torch.Tensor | None = None
        self._index = 0

    def begin(self, clean_latents: torch.Tensor) -> torch.Tensor:
        """Where sampling starts: at the clean latents [B, C, h, w] themselves, which are remembered for `step`."""
        self._clean, self._noise, self._index = clean_latents, None, 0
        return clean_latents

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        return sample

    def per_channel(self, value: float | list[float], like: torch.Tensor) -> torch.Tensor:
        """A configured number, or list of one per channel, shaped to multiply [B, C, h, w]."""
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)

    def noise_std(self, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """s sqrt(t (1 - t)) rho for times t [B] in [0, 1]: [B, C, 1, 1]."""
        s_rho = self.per_channel(self.config.noise_scale, like) * self.per_channel(self.config.residual_std, like)
        return s_rho * (t * (1 - t)).clamp(min=0).sqrt().to(like).reshape(-1, 1, 1, 1)

    def target(self, clean: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        """What the network learns to predict: r / rho."""
        return (degraded - clean) / self.per_channel(self.config.residual_std, clean)

    def predicted(self, model_output: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The degraded latent that a prediction of r / rho means."""
        return clean + model_output * self.per_channel(self.config.residual_std, clean)

    def add_noise(
        self, clean: torch.Tensor, degraded: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """z_t for latents and noise [B, C, h, w] and timesteps [B] in [0, num_train_timesteps]."""
        t = timesteps.to(clean) / self.config.num_train_timesteps
        return clean + t.reshape(-1, 1, 1, 1) * (degraded - clean) + self.noise_std(t, clean) * noise

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> BridgeSchedulerOutput | tuple[torch.Tensor]:
        """Move `sample` from the current time to the next; call once per entry of `timesteps`, in order.

        The noise is drawn once, at the first step, and then carried along: what the prediction leaves unexplained of
        the sample is that noise.
        """
        now, then = self._times[self._index], self._times[self._index + 1]
        degraded = self.predicted(model_output, self._clean)
        time = torch.full((sample.shape[0],), now, dtype=torch.float64, device=sample.device)
        if self._index == 0:
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        else:
            unexplained = sample - self._clean - now * (degraded - self._clean)
            noise = unexplained / self.noise_std(time, sample)
        result = (
            self._clean + then * (degraded - self._clean) + self.noise_std(torch.full_like(time, then), sample) * noise
        )
        self._index += 1
        if not return_dict:
            return (result,)
        return BridgeSchedulerOutput(prev_sample=result, pred_original_sample=degraded)
