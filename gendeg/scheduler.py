"""The compact profile's process: a diffusion bridge that leads from the clean latent to the degraded one.

A stochastic interpolant (compare I2SB, arXiv 2302.05872, and BBDM, arXiv 2205.07680). With residual
r = z_degraded - z_clean, its expected deviation rho per channel, noise e and time t in [0, 1]:

    z_t = z_clean + t r + sqrt(t (1 - t)) rho (s e + q b)

rho depends on the degradation and grows with its asked size, sqrt(mu^2 + sigma^2). Noise of one size for all would
drown light rain, a tenth of darkness in the latents, and the network would see its streaks in the last step alone.
The smooth noise b is there for what is smooth in the residual: where light falls, where haze is thick. White noise
averages out over such regions, and would leave the network neither in doubt of them nor free to choose them.
The network sees z_clean, the way from there to z_t, t and the context. It says how much of that way to trust, and what
is missing to its end, all brought to one size at all times, as in EDM (arXiv 2206.00364). Sampling starts at the clean
latent itself, so the scene is there from the first step; the noise along the way decides where streaks, flakes and
drops fall.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from gendeg.degradations import DEGRADATIONS

_SMOOTH_CELLS = (4, 16)  # lattice spacings of the smooth noise, in latent pixels
_NEGLIGIBLE = 0.01  # way from the clean latent, in rho, below which nothing has been decided yet
_UNKNOWN_SIZE, _LEAST_SIZE = 0.15, 0.01  # of a degradation map


def enlarged(lattice: torch.Tensor, factor: int) -> torch.Tensor:
    """[B, C, h, w] `factor` times as high and wide, bicubic: products of matrices, a tenth of `interpolate`'s time."""

    def weights(size: int) -> torch.Tensor:  # [size, factor * size]
        unit = torch.eye(size, dtype=lattice.dtype, device=lattice.device)[None, ..., None]
        return torch.nn.functional.interpolate(unit, scale_factor=(factor, 1), mode="bicubic")[0, ..., 0]

    height, width = lattice.shape[2:]
    wide = (lattice.flatten(0, 2) @ weights(width)).unflatten(0, (-1, height))
    return (weights(height).T @ wide).unflatten(0, lattice.shape[:2])


@dataclass
class BridgeSchedulerOutput(BaseOutput):
    """prev_sample: the latent at the next time; pred_original_sample: the degraded latent predicted from here."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


def bridge_times(position: torch.Tensor) -> torch.Tensor:
    """Position u in a sampling run, uniform in [0, 1], to time sin^2(pi / 2 u^2); training draws its times so too.

    Many first steps are tiny. What holds for the whole picture (which way it streaks, how large its drops are) can be
    read off all its pixels together at once, at a time of about one in their number: by then it must have been
    decided, and a longer first step leads to the average of all ways and sizes. The last steps are short as well,
    since what is still noise at the last one comes out blurred.
    """
    return torch.sin(position**2 * (torch.pi / 2)) ** 2


class BridgeScheduler(SchedulerMixin, ConfigMixin):
    """Diffusion bridge from clean to degraded latents; for networks with twice as many output channels as latents have.

    Args:
        residual_std: rho of a degradation map of size 1, one number or one per latent channel, for each degradation,
            {name: value}.
        noise_scale: s, one number or one per latent channel. Patterns want noise, global changes want little.
        smooth_noise_scale: q, one number or one per latent channel.
        num_train_timesteps: the network is told t * num_train_timesteps.
    """

    @register_to_config
    def __init__(
        self,
        residual_std: dict[str, float | list[float]] | None = None,
        noise_scale: float | list[float] = 1.0,
        smooth_noise_scale: float | list[float] = 0.0,
        num_train_timesteps: int = 1000,
    ):
        self.set_timesteps(8)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Lay out the times of a sampling run (`bridge_times`); `timesteps` holds those the network is asked at."""
        if num_inference_steps < 1:
            raise ValueError("The number of steps must be at least 1.")
        times = bridge_times(torch.linspace(0, 1, num_inference_steps + 1, dtype=torch.float64))
        self._times = times.tolist()
        self.timesteps = (times[:-1] * self.config.num_train_timesteps).float().to(device)
        self._index = 0

    def begin(
        self, clean_latents: torch.Tensor, scale: torch.Tensor, temperature: tuple[float, float] = (1.0, 1.0)
    ) -> torch.Tensor:
        """Where sampling starts: at the clean latents [B, C, h, w] themselves, which are remembered for `step`.

        Args:
            scale: rho, see `residual_scale`.
            temperature: of the noise along the way, see `draw_noise`.
        """
        self._clean, self._scale, self._temperature = clean_latents, scale, temperature
        self._previous, self._index = None, 0
        return clean_latents

    def residual_scale(self, degradation: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """rho, [B, C or 1, 1, 1].

        Args:
            degradation: [B], index into DEGRADATIONS.
            mu, sigma: asked, [B]; NaN: not given.
        """
        known = self.config.residual_std or dict.fromkeys(DEGRADATIONS, 1.0)
        table = torch.stack([torch.as_tensor(known[name]).reshape(-1) for name in DEGRADATIONS]).to(mu)
        size = (mu**2 + sigma**2).sqrt().nan_to_num(_UNKNOWN_SIZE).clamp(min=_LEAST_SIZE)
        return (size[:, None] * table[degradation])[:, :, None, None]

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the network sees of a sample [B, C, h, w] of the running sampling (`network_input`)."""
        return self.network_input(sample, self._clean, timestep, self._scale)

    def network_input(
        self, noisy: torch.Tensor, clean: torch.Tensor, timesteps: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """(z_t - z_clean) over its deviation, for latents [B, C, h, w] and timesteps, [B] or one.

        In the early steps, which decide where everything falls, z_t has come less than a hundredth of its size away
        from z_clean: a network shown z_t itself hardly sees it.
        """
        t, noise = self._time(timesteps, clean), self._noise_variance(clean)
        deviation = (t**2 + t * (1 - t) * noise + _NEGLIGIBLE**2).sqrt()
        return (noisy - clean) / (scale * deviation)

    def per_channel(self, value: float | list[float], like: torch.Tensor) -> torch.Tensor:
        """A configured number, or list of one per channel, shaped to multiply [B, C, h, w]."""
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)

    def draw_noise(
        self,
        like: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        temperature: tuple[float, float] = (1.0, 1.0),
    ) -> torch.Tensor:
        """s e + q b of the shape of `like` [B, C, h, w]; b is interpolated between lattice points.

        Args:
            temperature: factors on s in the channel of the smallest s, the coarsest, and in that of the largest, the
                finest; a geometric mean in the others. Smooth noise has the coarsest one's. Below 1, in sampling, less
                is left to noise that the network has not learned to undo: fine patterns follow from the coarse ones,
                or both from the photograph.
        """

        def draw(height: int, width: int) -> torch.Tensor:
            return randn_tensor((*like.shape[:2], height, width), generator, like.device, like.dtype)

        height, width = like.shape[2:]
        scale = self.per_channel(self.config.noise_scale, like)
        fineness = (scale - scale.min()) / (scale.max() - scale.min()).clamp(min=1e-6)
        coarse, fine = temperature
        noise = coarse ** (1 - fineness) * fine**fineness * scale * draw(height, width)
        for cell in _SMOOTH_CELLS:
            lattice = draw(height // cell + 2, width // cell + 2)
            smooth = enlarged(lattice, cell)[..., :height, :width]
            noise += coarse * self.per_channel(self.config.smooth_noise_scale, like) * smooth
        return noise

    def predicted(
        self,
        model_output: torch.Tensor,
        noisy: torch.Tensor,
        clean: torch.Tensor,
        timesteps: torch.Tensor,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        """The degraded latent that a network's output (F, log v), [B, 2 C, h, w], means.

            z_clean + a (z_t - z_clean) + b(t) rho F,    a = v / (t v + (1 - t) s^2)

        a is the Wiener filter's gain where the residual has variance v rho^2: nothing where the network sees that the
        photograph stays as it is, almost all within a drop, which the network could not copy through itself as finely.
        F is what is missing then, and b such that F has deviation 1 at all times if residuals are normal with v = 1.
        """
        extra, log_variance = model_output.chunk(2, dim=1)
        variance = log_variance.clamp(-8, 8).exp()
        t, noise = self._time(timesteps, clean), self._noise_variance(clean)
        way = variance / (t * variance + (1 - t) * noise) * (noisy - clean)
        return clean + way + self.output_scale(timesteps, clean, scale) * extra

    def output_scale(self, timesteps: torch.Tensor, like: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """b(t) rho: what an error of F is worth in the degraded latent, [B, C, 1, 1]."""
        t, noise = self._time(timesteps, like), self._noise_variance(like)
        b = ((1 - t) * noise / (t + (1 - t) * noise) + _NEGLIGIBLE**2).sqrt()
        return b * scale

    def _time(self, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return (timesteps.to(like) / self.config.num_train_timesteps).reshape(-1, 1, 1, 1)

    def _noise_variance(self, like: torch.Tensor) -> torch.Tensor:
        scales = (self.config.noise_scale, self.config.smooth_noise_scale)
        return sum(self.per_channel(scale, like) ** 2 for scale in scales)

    def add_noise(
        self,
        clean: torch.Tensor,
        degraded: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        """z_t for latents [B, C, h, w], noise from `draw_noise` and timesteps [B] in [0, num_train_timesteps]."""
        t = self._time(timesteps, clean)
        return clean + t * (degraded - clean) + (t * (1 - t)).clamp(min=0).sqrt() * scale * noise

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> BridgeSchedulerOutput:
        """Move `sample` from the current time t to the next, t'; call once per entry of `timesteps`, in order.

        Given where it is and where it is thought to end, a bridge's next position is normal (I2SB, Equation 4):
        mean z + (t' - t) / (1 - t) (z_degraded - z), deviation as the noise's times sqrt((t' - t) (1 - t') / (1 - t)).
        Where it is thought to end changes along the way, from vague to definite; that change is carried on from the
        step before to the middle of this one, the multistep method of DPM-Solver++ (arXiv 2211.01095).
        """
        now, then = self._times[self._index], self._times[self._index + 1]
        time = torch.tensor(now * self.config.num_train_timesteps)
        degraded = ahead = self.predicted(model_output, sample, self._clean, time, self._scale)
        if self._previous is not None:
            step_before = now - self._times[self._index - 1]
            ahead = degraded + min(1, (then - now) / step_before) / 2 * (degraded - self._previous)
        self._previous = degraded
        result = sample + (then - now) / (1 - now) * (ahead - sample)
        if then < 1:
            noise = self._scale * self.draw_noise(sample, generator, self._temperature)
            result = result + ((then - now) * (1 - then) / (1 - now)) ** 0.5 * noise
        self._index += 1
        return BridgeSchedulerOutput(prev_sample=result, pred_original_sample=degraded)
