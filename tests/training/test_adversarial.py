import pytest
import torch
from torch import nn

from gendeg.codec import PatchCodec
from gendeg.degradations import DEGRADATIONS
from gendeg.scheduler import BridgeScheduler
from training.generator.adversarial import AdversarialLoss, AdversarialPair, Discriminator, amounts, lattice


class _Bridge:
    """Stands where BridgeLoss stands; its own loss is nothing."""

    def __init__(self):
        self.scheduler = BridgeScheduler()

    def __call__(self, model, batch):
        return torch.zeros(()), {}

    def intensity(self, residual):
        return residual.abs().mean((1, 2, 3))[:, None].expand(-1, 2)


class _Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, latents, timestep, clean, *asked):
        return self.conv(torch.cat([latents, clean], dim=1))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    clean, degraded, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(3))
    return {
        "clean": clean,
        "degraded": degraded,
        "noise": noise,
        "noise_seed": torch.arange(3),
        "prompt": torch.zeros(3, 5),
        "phrase": torch.tensor([0, 1, 2]),
        "degradation": torch.tensor([0, 1, 5]),
        "mu": torch.full((3,), 0.1),
        "sigma": torch.full((3,), 0.1),
    }


def _gradients(batch, discriminator=None, **settings):
    torch.manual_seed(0)
    pair = AdversarialPair(_Generator(), discriminator or Discriminator(3, width=8))
    settings = {
        "weight": 0.0,
        "first_step": 2,
        "intensity_weight": 0.0,
        "lattice_weight": 0.0,
        "judged": ["rain"],
    } | settings
    codec = PatchCodec(latent_channels=4, width=8, depth=1)
    loss = AdversarialLoss(_Bridge(), codec, 4, {}, **settings)
    loss(pair, batch)[0].backward()
    parts = (pair.generator, pair.discriminator)
    return [torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None]) for part in parts]


def test_each_side_learns_from_its_own_loss_alone(batch):
    (idle, judging), (pulled, judging_as_before) = _gradients(batch), _gradients(batch, weight=1.0)
    assert torch.equal(judging, judging_as_before), "what the generator wants must not reach the discriminator"
    assert bool(judging.any())
    assert not bool(idle.any()), "the discriminator's own loss must not reach the generator"
    assert bool(pulled.any())


def test_only_patterns_are_judged(batch):
    pulled, judging = _gradients(batch | {"degradation": torch.tensor([0, 0, 5])}, weight=1.0)
    assert not bool(pulled.any()), "haze and low light are none of the discriminator's business"
    assert bool(judging.isfinite().all())


def test_the_intensity_of_samples_is_asked_for(batch):
    assert bool(_gradients(batch, intensity_weight=1.0)[0].any())


def test_a_grid_in_samples_counts_against_the_generator(batch):
    pulled, judging = _gradients(batch, lattice_weight=1.0)
    assert bool(pulled.any())
    assert torch.equal(judging, _gradients(batch)[1])


def test_amounts_tell_brighter_from_darker_in_each_colour():
    change = torch.zeros(1, 3, 4, 4)
    change[0, 0, :2] = 0.4
    change[0, 2, :, 0] = -0.8
    assert amounts(change)[0].tolist() == pytest.approx([0.1, 0, 0, 0, 0, 0.1])


def test_a_lattice_repeats_from_patch_to_patch():
    generator = torch.Generator().manual_seed(0)
    brightness = torch.rand(2, 1, 64, 64, generator=generator)
    one_patch = torch.randn(2, 3, 8, 8, generator=generator)
    one_patch -= one_patch.mean((2, 3), keepdim=True)
    repeated = one_patch.repeat(1, 1, 8, 8)
    assert lattice(repeated, brightness) == pytest.approx(repeated.std((1, 2, 3)), rel=0.1)
    assert bool((lattice(torch.randn(2, 3, 64, 64, generator=generator), brightness) < 0.2).all())
    only_bright = repeated * (brightness > 0.5)
    assert bool((lattice(only_bright, brightness) > 0.3 * repeated.std((1, 2, 3))).all())


def test_the_discriminator_learns_to_tell_soft_images_from_crisp_ones():
    torch.manual_seed(0)
    discriminator = Discriminator(len(DEGRADATIONS), width=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    told = torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.long), torch.full((8,), 0.1), torch.full((8,), 0.1)
    for _ in range(60):
        crisp = torch.randn(8, 3, 32, 32)
        on_true = discriminator(crisp, *told)
        on_soft = discriminator(nn.functional.avg_pool2d(crisp, 3, stride=1, padding=1), *told)
        hinge = (1 - on_true).relu().mean() + (1 + on_soft).relu().mean()
        optimizer.zero_grad()
        hinge.backward()
        optimizer.step()
    assert on_true.mean() > on_soft.mean() + 0.5
