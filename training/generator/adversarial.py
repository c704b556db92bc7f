"""How do flakes, drops and streaks become crisp? By a discriminator that sees what sampling really arrives at.

Trained on bridges between true pairs, the network has never seen its own soft flakes on the way, leaves them soft, and
where it is in doubt draws the average of what is possible. So a last stage samples as in use, and a discriminator
between true and sampled degraded images pulls on the predictions of the late steps, beside the bridge's own loss
(compare "Adversarial Diffusion Distillation", arXiv 2311.17042, and DMD2, arXiv 2405.14867, which also train on what
the generator itself arrives at). It judges decoded images: that the codec's patches must not show is plain in pixels
and hidden in latents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, leaky_relu, pixel_unshuffle, relu

from gendeg.codec import PATCH, PatchCodec
from gendeg.degradations import DEGRADATIONS
from gendeg.scheduler import BridgeScheduler
from training.generator.bridge_loss import BridgeLoss

_NEARBY = 0.02  # step, in pixels' values, for the discriminator's slope
_SLOPE_WEIGHT = 0.01
_HISTORY, _PAST = 50, 1  # batches that are remembered, and drawn from these in each step


class Discriminator(nn.Module):
    """Tells true degraded images from generated ones, place by place, at two scales.

    Its coarse scale has one place for each patch of the codec and knows where the borders of patches are.

    Args:
        phrases: number of prompt phrases, which the discriminator knows by index.
        width: channels of its first layer.
    """

    def __init__(self, phrases: int, width: int = 32):
        super().__init__()

        def down(inputs: int, outputs: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)

        def same(inputs: int, outputs: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        self.fine = nn.ModuleList([down(6, width), down(width, 2 * width), same(2 * width, 2 * width)])
        self.coarse = nn.ModuleList([down(2 * width, 4 * width), same(4 * width, 4 * width)])
        # Without normalisation it hardly learns more than how strong a change is.
        self.norms = nn.ModuleList(nn.GroupNorm(8, layer.out_channels) for layer in (*self.fine[1:], *self.coarse))
        self.heads = nn.ModuleList([nn.Conv2d(2 * width, 1, 1), nn.Conv2d(4 * width, 1, 1)])
        self.phrase = nn.Embedding(phrases, 6 * width)
        self.intensity = nn.Linear(2, 6 * width)
        self.widths = [2 * width, 4 * width]
        for layer in (*self.fine, *self.coarse):
            nn.init.kaiming_normal_(layer.weight, 0.2)

    def forward(
        self, degraded: torch.Tensor, clean: torch.Tensor, phrase: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Images [B, 3, H, W] in [-1, 1], phrase index, mu and sigma [B]: logits [B, places]."""
        # What was changed, at one size whether it is weak or strong.
        change = (degraded - clean) / (2 * (mu + sigma) + 0.02)[:, None, None, None]
        x = torch.cat([change, clean], dim=1)
        asked = self.phrase(phrase) + self.intensity(torch.stack([mu, sigma], dim=1) * 10)
        logits = []
        norms = iter((nn.Identity(), *self.norms))
        for layers, head, direction in zip(
            (self.fine, self.coarse), self.heads, asked.split(self.widths, dim=1), strict=True
        ):
            for layer in layers:
                x = leaky_relu(next(norms)(layer(x)), 0.2)
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
        codec: decodes what is judged; is not trained.
        steps: of a sampling run; as in use, or fewer, since every one costs time.
        temperature: {name of a degradation: [coarse, fine]}, as in use; [1, 1] for those not named.
        weight: of the discriminator's opinion beside the bridge's loss.
        first_step: the discriminator judges the predictions of one step from this one on. Before, nothing is decided
            yet, and the average of all that is possible is the right prediction.
        intensity_weight: of the error of mu and sigma of what is sampled, and of its `amounts`.
        lattice_weight: of the `lattice` in what is sampled.
        judged: the degradations that are patterns. In the others the discriminator would ask for the very noise of low
            light, of which the codec keeps blocks.
    """

    def __init__(
        self,
        bridge: BridgeLoss,
        codec: PatchCodec,
        steps: int,
        temperature: dict[str, list[float]],
        weight: float,
        first_step: int,
        intensity_weight: float,
        lattice_weight: float,
        judged: Sequence[str],
    ):
        self.bridge, self.steps, self.weight, self.first_step = bridge, steps, weight, first_step
        self.codec = codec.requires_grad_(False)
        self.intensity_weight, self.lattice_weight = intensity_weight, lattice_weight
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
        latents = self._sample(model.generator, batch)
        with torch.no_grad():
            clean = self._decode(batch["clean"])
            true = self._decode(batch["degraded"])
        generated = self._decode(latents)
        told = clean, batch["phrase"], batch["mu"], batch["sigma"]
        judged = self.judged.to(clean.device)[batch["degradation"]][:, None]
        discriminator = model.discriminator
        discriminator.requires_grad_(False)
        opinion = -judged * discriminator(generated, *told)
        discriminator.requires_grad_(True)
        # It also sees what was generated lately (arXiv 1612.07828): sampling is dear, a second look is not.
        recent = (true, generated.detach(), *told, judged)
        past = [self.history[int(i)] for i in torch.randint(len(self.history), (_PAST,))] if self.history else []
        trues, made, *about, counts = map(torch.cat, zip(recent, *past, strict=True))
        self.history.append(recent)
        on_true, on_generated = discriminator(trues, *about), discriminator(made, *about)
        hinge = (counts * (relu(1 - on_true) + relu(1 + on_generated))).mean()
        # Its slope at true images is kept low, along a random direction of each sample (arXiv 2501.08316).
        change = discriminator(true + _NEARBY * torch.randn_like(true), *told) - on_true[: len(true)]
        slope = (change / _NEARBY).square().mean()
        reached, wanted = (self.bridge.intensity(end - batch["clean"]) for end in (latents, batch["degraded"]))
        off = (reached - wanted).abs().sum(1).mean() + (amounts(generated - clean) - amounts(true - clean)).abs().sum(
            1
        ).mean()
        grid = lattice(generated - true, (clean.mean(1, keepdim=True) + 1) / 2).mean()
        loss = loss + self.weight * opinion.mean() + self.intensity_weight * off + self.lattice_weight * grid
        loss = loss + hinge + _SLOPE_WEIGHT * slope
        numbers |= {"on_true": on_true.mean(), "on_generated": on_generated.mean(), "slope": slope}
        return loss, numbers | {"sampled_intensity_error": off, "lattice": grid}

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.codec.decode(latents).sample.float().clamp(-1, 1)

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


def amounts(change: torch.Tensor) -> torch.Tensor:
    """How much brighter and how much darker an image has become, in each colour: snow is white, and darkens nothing.

    Args:
        change: difference of two images in [-1, 1], [B, 3, H, W].

    Returns:
        [B, 6], in units of mu.
    """
    return torch.cat([relu(change), relu(-change)], dim=1).mean((2, 3)) / 2


def lattice(error: torch.Tensor, brightness: torch.Tensor) -> torch.Tensor:
    """How strong a pattern repeats from patch to patch of the codec: a grid, to the eye.

    Args:
        error: difference of two images, [B, 3, H, W].
        brightness: [B, 1, H, W] in [0, 1]; the pattern is looked for in what is dark and in what is bright.

    Returns:
        Its root mean square, [B].
    """
    patches = pixel_unshuffle(error, PATCH).unflatten(1, (3, PATCH**2))  # [B, 3, 64, h, w]
    detail = patches - patches.mean(2, keepdim=True)
    bright = avg_pool2d(brightness, PATCH)[:, None]
    squares = 0
    for share in (bright, 1 - bright):
        pattern = (detail * share).sum((3, 4)) / (share.sum((3, 4)) + 1)
        squares = squares + pattern.square().mean((1, 2))
    return (squares / 2 + 1e-8).sqrt()
