"""How do flakes, drops and streaks become crisp? By a discriminator that sees what sampling really arrives at.

Trained on bridges between true pairs, the network has never seen its own soft flakes on the way, leaves them soft, and
where it is in doubt draws the average of what is possible. So a last stage samples as in use, and a discriminator
between true and sampled degraded latents pulls on the predictions of the late steps, beside the bridge's own loss
(compare "Adversarial Diffusion Distillation", arXiv 2311.17042, and DMD2, arXiv 2405.14867, which also train on what
the generator itself arrives at). In latents a convolution over three cells sees 24 pixels: a discriminator that
judges flakes and drops is small.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import leaky_relu, relu

from gendeg.degradations import DEGRADATIONS
from gendeg.scheduler import BridgeScheduler

if TYPE_CHECKING:
    from training.generator import BridgeLoss

_NEARBY = 0.05  # step, in units of the bridge's noise, for the discriminator's slope
_SLOPE_WEIGHT = 0.01
_HISTORY, _PAST = 50, 2  # batches that are remembered, and drawn from these in each step


class Discriminator(nn.Module):
    """Tells true degraded latents from generated ones, place by place, at two scales.

    Args:
        channels: of the latents.
        phrases: number of prompt phrases, which the discriminator knows by index.
        width: channels of its layers.
    """

    def __init__(self, channels: int, phrases: int, width: int = 96):
        super().__init__()

        def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
            return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)

        self.stem = conv(2 * channels, width, 1)
        self.fine = nn.ModuleList([conv(width, width, 3), conv(width, width, 3)])
        self.coarse = nn.ModuleList([conv(width, width, 3, stride=2), conv(width, width, 3)])
        self.heads = nn.ModuleList([conv(width, 1, 1), conv(width, 1, 1)])
        self.phrase = nn.Embedding(phrases, 2 * width)
        self.intensity = nn.Linear(2, 2 * width)

    def forward(
        self, way: torch.Tensor, clean: torch.Tensor, phrase: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Way from the clean latents and these, [B, C, h, w], phrase index, mu and sigma [B]: logits [B, places]."""
        asked = self.phrase(phrase) + self.intensity(torch.stack([mu, sigma], dim=1) * 10)
        x = leaky_relu(self.stem(torch.cat([way, clean], dim=1)), 0.2)
        logits = []
        for layers, head, direction in zip((self.fine, self.coarse), self.heads, asked.chunk(2, dim=1), strict=True):
            for layer in layers:
                x = leaky_relu(layer(x), 0.2)
            fits = torch.einsum("bchw,bc->bhw", x, direction) / direction.shape[1]  # projection discriminator
            logits.append((head(x)[:, 0] + fits).flatten(1))
        return torch.cat(logits, dim=1).float()


class AdversarialPair(nn.Module):
    """Generator and discriminator as the one module that the training loop knows."""

    def __init__(self, generator: nn.Module, discriminator: Discriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def forward(self, losses: Callable[..., Any], batch: dict[str, torch.Tensor]) -> Any:
        """`losses` of this pair and a batch: what several processes average must come through here."""
        return losses(self, batch)

    def parameter_groups(self, discriminator_scale: float) -> list[dict[str, object]]:
        """For `training.loop.train`: the discriminator learns `discriminator_scale` times as fast."""
        betas = (0.5, 0.99)
        return [
            {"params": list(self.generator.parameters()), "betas": betas},
            {"params": list(self.discriminator.parameters()), "scale": discriminator_scale, "betas": betas},
        ]


class AdversarialLoss:
    """The bridge's loss, the discriminator's opinion of late predictions of a sampling run, and its own hinge loss.

    Args:
        bridge: the `BridgeLoss` of the stages before.
        steps: of a sampling run, as in use.
        temperature: {name of a degradation: [coarse, fine]}, as in use; [1, 1] for those not named.
        weight: of the discriminator's opinion beside the bridge's loss.
        first_step: the discriminator judges the predictions of one step from this one on. Before, nothing is decided
            yet, and the average of all that is possible is the right prediction.
        intensity_weight: of the error of mu and sigma of what is sampled.
        judged: the degradations that are patterns. In the others the discriminator would ask for the very noise of low
            light, which comes out as blocks.
    """

    def __init__(
        self,
        bridge: BridgeLoss,
        steps: int,
        temperature: dict[str, list[float]],
        weight: float,
        first_step: int,
        intensity_weight: float,
        judged: Sequence[str],
    ):
        self.bridge, self.steps, self.weight, self.first_step = bridge, steps, weight, first_step
        self.intensity_weight = intensity_weight
        self.history: deque[tuple[torch.Tensor, ...]] = deque(maxlen=_HISTORY)
        self.judged = torch.tensor([name in judged for name in DEGRADATIONS]).float()
        self.temperature = torch.tensor([temperature.get(name, [1.0, 1.0]) for name in DEGRADATIONS])

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return model(self._losses, batch)

    def _losses(
        self, model: AdversarialPair, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, numbers = self.bridge(model.generator, batch)
        generated = self._sample(model.generator, batch)
        told = batch["clean"], batch["phrase"], batch["mu"], batch["sigma"]
        judged = self.judged.to(batch["clean"].device)[batch["degradation"]][:, None]
        discriminator = model.discriminator
        discriminator.requires_grad_(False)
        opinion = -judged * self._judge(discriminator, generated, *told)
        discriminator.requires_grad_(True)
        # It also sees what was generated lately (arXiv 1612.07828): sampling is dear, a second look is not.
        recent = (batch["degraded"], generated.detach(), *told, judged)
        past = [self.history[int(i)] for i in torch.randint(len(self.history), (_PAST,))] if self.history else []
        true, made, *about, counts = map(torch.cat, zip(recent, *past, strict=True))
        self.history.append(recent)
        on_true, on_generated = self._judge(discriminator, true, *about), self._judge(discriminator, made, *about)
        hinge = (counts * (relu(1 - on_true) + relu(1 + on_generated))).mean()
        # Its slope at true latents is kept low, along a random direction of each sample (arXiv 2501.08316).
        nearby = batch["degraded"] + _NEARBY * batch["noise"]
        change = self._judge(discriminator, nearby, *told) - on_true[: len(nearby)]
        slope = (change / _NEARBY).square().mean()
        reached, wanted = (self.bridge.intensity(end - batch["clean"]) for end in (generated, batch["degraded"]))
        off = (reached - wanted).abs().sum(1).mean()
        loss = loss + self.weight * opinion.mean() + self.intensity_weight * off + hinge + _SLOPE_WEIGHT * slope
        numbers |= {"on_true": on_true.mean(), "on_generated": on_generated.mean(), "sampled_intensity_error": off}
        return loss, numbers

    def _judge(
        self, discriminator: Discriminator, latents: torch.Tensor, clean: torch.Tensor, *told: torch.Tensor
    ) -> torch.Tensor:
        # As large as they are to the eye, by the root: fine channels must count, but not as much as coarse ones.
        rho = self.bridge.scheduler.per_channel(self.bridge.scheduler.config.residual_std, clean)
        return discriminator((latents - clean) / rho * self.bridge.weights.to(clean).sqrt(), clean, *told)

    def _sample(self, generator: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sample as in use, up to a random late step; its prediction [B, C, h, w], with gradients of that step."""
        scheduler = BridgeScheduler.from_config(self.bridge.scheduler.config)
        scheduler.set_timesteps(self.steps)
        clean = batch["clean"]
        temperature = self.temperature[batch["degradation"].cpu()].to(clean)[..., None, None, None].unbind(1)
        latents = scheduler.begin(clean, temperature)
        noise = [torch.Generator().manual_seed(seed) for seed in batch["noise_seed"].tolist()]
        last = int(torch.randint(self.first_step, self.steps, ()))  # the same in all processes
        for index, timestep in enumerate(scheduler.timesteps[: last + 1].to(clean)):
            with torch.set_grad_enabled(index == last):
                seen = scheduler.scale_model_input(latents, timestep)
                asked = batch["prompt"], batch["mu"], batch["sigma"]
                output = generator(seen, timestep.expand(len(clean)), clean, *asked).float()
                result = scheduler.step(output, timestep, latents, noise)
            latents = result.prev_sample
        return latents if last == self.steps - 1 else result.pred_original_sample
