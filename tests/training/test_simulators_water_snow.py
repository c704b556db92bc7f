"""Do the simulators of rain, snow and raindrops keep their contract and reach real intensities?"""

import pytest
import skimage.data
import torch
from torch.nn import functional as F

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from training.simulators import rain, raindrop, snow

MODULES = {"rain": rain, "snow": snow, "raindrop": raindrop}
CASES = [
    pytest.param(name, simulator, id=f"{name}-{kind}")
    for name, module in MODULES.items()
    for kind, simulator in module.SIMULATORS.items()
]
every_simulator = pytest.mark.parametrize(("name", "simulator"), CASES)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """[3, 3, 128, 128]: a portrait, a cup and a cat."""
    images = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in images]
    return torch.cat([F.interpolate(image, size=(128, 128), mode="area") for image in tensors])


@every_simulator
@pytest.mark.parametrize("size", [(32, 40), (100, 131)])
def test_any_size_stays_in_range_and_starts_clean(name, simulator, size, photos):
    clean = F.interpolate(photos, size=size, mode="bilinear")
    render = simulator(clean, seeded(1))
    assert torch.equal(render(torch.zeros(3)), clean)
    for strength in (0.3, 1.0):
        degraded = render(torch.full((3,), strength))
        assert degraded.shape == clean.shape
        assert degraded.dtype == clean.dtype
        assert degraded.isfinite().all()
        assert degraded.min() >= 0
        assert degraded.max() <= 1


@every_simulator
def test_black_and_white_images_stay_in_range(name, simulator):
    clean = torch.stack((torch.zeros(3, 64, 64), torch.ones(3, 64, 64)))
    degraded = simulator(clean, seeded(2))(torch.ones(2))
    assert degraded.min() >= 0
    assert degraded.max() <= 1


@every_simulator
def test_mu_grows_smoothly_with_strength(name, simulator, photos):
    clean = photos.repeat(3, 1, 1, 1)
    render = simulator(clean, seeded(3))
    mus = torch.stack([intensity(clean, render(torch.full((9,), s)))[0] for s in torch.linspace(0, 1, 41)])
    steps = mus.diff(dim=0)
    assert steps.min() >= -1e-6
    assert steps.max() <= 0.08


@every_simulator
def test_a_seed_means_one_image(name, simulator, photos):
    half = torch.full((3,), 0.5)
    render = simulator(photos, seeded(4))
    first = render(half)
    assert torch.equal(first, render(half))
    assert torch.equal(first, simulator(photos, seeded(4))(half))
    assert not torch.equal(first, simulator(photos, seeded(5))(half))


@every_simulator
def test_samples_are_drawn_independently(name, simulator, photos):
    twins = photos[:1].repeat(2, 1, 1, 1)
    degraded = simulator(twins, seeded(6))(torch.ones(2))
    assert not torch.equal(degraded[0], degraded[1])


@every_simulator
def test_strength_of_one_sample_leaves_the_others_alone(name, simulator, photos):
    degraded = simulator(photos, seeded(7))(torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(degraded[[0, 2]], photos[[0, 2]])
    assert not torch.equal(degraded[1], photos[1])


@pytest.mark.parametrize("simulator", raindrop.SIMULATORS.values(), ids=raindrop.SIMULATORS)
def test_drops_are_out_of_focus(simulator):
    clean = torch.full((8, 3, 128, 128), 0.5)
    degraded = simulator(clean, seeded(10))(torch.full((8,), 0.5))
    assert (degraded - clean).abs().max() > 0.25
    assert degraded.diff(dim=2).abs().flatten().sort().values[-1000] < 0.12
    assert degraded.diff(dim=3).abs().flatten().sort().values[-1000] < 0.12


@pytest.mark.parametrize("name", MODULES)
def test_full_strength_passes_the_real_range(name, photos):
    """Of several draws per photograph and simulator, most go beyond the 99th percentile of real mu."""
    clean = photos.repeat(5, 1, 1, 1)
    mus = [intensity(clean, f(clean, seeded(8))(torch.ones(15)))[0] for f in MODULES[name].SIMULATORS.values()]
    needed = {"rain": 0.8, "snow": 0.8, "raindrop": 0.4}[name]
    assert (torch.cat(mus) > DEGRADATIONS[name].mu_range[1]).float().mean() > needed


@pytest.mark.parametrize("name", MODULES)
def test_draws_of_one_mu_spread_in_sigma(name, photos):
    """At the median real mu, draws surround the median real sigma."""
    clean = photos.repeat(5, 1, 1, 1)
    mu, sigma = DEGRADATIONS[name].typical
    sigmas = []
    for simulator in MODULES[name].SIMULATORS.values():
        render = simulator(clean, seeded(9))
        low, high = torch.zeros(15), torch.ones(15)
        for _ in range(10):
            middle = (low + high) / 2
            below = intensity(clean, render(middle))[0] < mu
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        sigmas.append(intensity(clean, render(high))[1])
    sigmas = torch.cat(sigmas)
    assert sigmas.min() < sigma < sigmas.max()
    assert sigmas.max() / sigmas.min() > 1.5


@pytest.mark.parametrize("name", MODULES)
def test_mixed_variants_exist(name):
    assert MODULES[name].MIXED <= set(MODULES[name].SIMULATORS)
