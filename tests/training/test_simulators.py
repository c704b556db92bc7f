"""Do the simulators keep their contract, and do they reach real intensities?"""

import pytest
import skimage.data
import torch
from torch.nn import functional as F

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from training.simulators import motion_blur, rain, raindrop, snow
from training.simulators.fields import follow_edges, fractal_noise, log_uniform
from training.simulators.light import to_display, to_linear
from training.simulators.matching import SIMULATORS

WET = {"rain": rain, "snow": snow, "raindrop": raindrop}  # these leave the clean image to the bit where they do nothing
CASES = [
    pytest.param(name, simulator, id=f"{name}-{kind}")
    for name, kinds in SIMULATORS.items()
    for kind, simulator in kinds.items()
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


def assert_clean(name, image, clean):
    torch.testing.assert_close(image, clean, atol=0 if name in WET else 1e-4, rtol=0)


@every_simulator
@pytest.mark.parametrize("size", [(32, 40), (100, 131)])
def test_any_size_stays_in_range_and_starts_clean(name, simulator, size, photos):
    clean = F.interpolate(photos, size=size, mode="bilinear")
    render = simulator(clean, seeded(1))
    assert_clean(name, render(torch.zeros(3)), clean)
    for strength in (0.3, 1.0):
        degraded = render(torch.full((3,), strength))
        assert degraded.shape == clean.shape and degraded.dtype == clean.dtype
        assert degraded.isfinite().all() and degraded.min() >= 0 and degraded.max() <= 1


@every_simulator
def test_flat_images_are_harmless(name, simulator):
    clean = torch.stack([torch.full((3, 64, 64), value) for value in (0.0, 0.5, 1.0)])
    degraded = simulator(clean, seeded(2))(torch.ones(3))
    assert degraded.isfinite().all() and degraded.min() >= 0 and degraded.max() <= 1
    if name == "motion_blur":
        torch.testing.assert_close(degraded, clean, atol=1e-4, rtol=0)  # borders neither darken nor brighten


@every_simulator
def test_mu_grows_with_strength(name, simulator, photos):
    clean = photos.repeat(3, 1, 1, 1)
    render = simulator(clean, seeded(3))
    mus = torch.stack([intensity(clean, render(torch.full((9,), s)))[0] for s in torch.linspace(0, 1, 41)])
    steps = mus.diff(dim=0)
    assert steps.min() >= (-1e-6 if name in WET else -1e-3)
    assert name not in WET or steps.max() <= 0.08, "smoothly"
    assert (mus[-1] > mus[10]).all()


@every_simulator
def test_a_seed_means_one_image(name, simulator, photos):
    half = torch.full((3,), 0.5)
    render = simulator(photos, seeded(4))
    first = render(half)
    assert torch.equal(first, render(half))
    assert torch.equal(first, simulator(photos, seeded(4))(half))
    assert (first - simulator(photos, seeded(5))(half)).abs().mean() > 1e-3


@every_simulator
def test_samples_and_strengths_of_a_batch_are_their_own(name, simulator, photos):
    clean = photos[:1].repeat(3, 1, 1, 1)
    render = simulator(clean, seeded(6))
    same = render(torch.full((3,), 0.6))
    assert (same[0] - same[1]).abs().mean() > 1e-3
    mixed = render(torch.tensor([0.0, 0.6, 0.3]))
    assert_clean(name, mixed[0], clean[0])
    torch.testing.assert_close(mixed[1], same[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "simulator"), [case for case in CASES if case.values[0] not in WET])
def test_each_reaches_real_intensities(name, simulator, photos):
    clean = photos.repeat(6, 1, 1, 1)
    reached, _ = intensity(clean, simulator(clean, seeded(8))(torch.ones(18)))
    assert reached.median() > DEGRADATIONS[name].mu_range[1]


@pytest.mark.parametrize("name", WET)
def test_full_strength_passes_the_real_range(name, photos):
    """Of several draws per photograph and simulator, most go beyond the 99th percentile of real mu."""
    clean = photos.repeat(5, 1, 1, 1)
    mus = [intensity(clean, f(clean, seeded(8))(torch.ones(15)))[0] for f in SIMULATORS[name].values()]
    needed = {"rain": 0.8, "snow": 0.8, "raindrop": 0.4}[name]
    assert (torch.cat(mus) > DEGRADATIONS[name].mu_range[1]).float().mean() > needed


@pytest.mark.parametrize("name", WET)
def test_draws_of_one_mu_spread_in_sigma(name, photos):
    """At the median real mu, draws surround the median real sigma."""
    clean = photos.repeat(5, 1, 1, 1)
    mu, sigma = DEGRADATIONS[name].typical
    sigmas = []
    for simulator in SIMULATORS[name].values():
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


@pytest.mark.parametrize("name", ["rain", "snow"])
def test_mixed_variants_exist(name):
    assert WET[name].MIXED <= set(SIMULATORS[name])


@pytest.mark.parametrize("simulator", raindrop.SIMULATORS.values(), ids=raindrop.SIMULATORS)
def test_drops_are_out_of_focus(simulator):
    clean = torch.full((8, 3, 128, 128), 0.5)
    degraded = simulator(clean, seeded(10))(torch.full((8,), 0.5))
    assert (degraded - clean).abs().max() > 0.25
    assert degraded.diff(dim=2).abs().flatten().sort().values[-1000] < 0.12
    assert degraded.diff(dim=3).abs().flatten().sort().values[-1000] < 0.12


@pytest.mark.parametrize("simulator", motion_blur.SIMULATORS.values(), ids=motion_blur.SIMULATORS)
def test_blur_leaves_the_scene_in_place(simulator):
    clean = torch.zeros(1, 3, 129, 129)
    clean[:, :, 64, 64] = 1
    light = to_linear(simulator(clean, seeded(0))(torch.ones(1)))[0, 0].double()
    assert light.sum().item() == pytest.approx(1, abs=0.02)
    rows = torch.arange(129.0, dtype=torch.float64)
    assert (light.sum(1) * rows).sum() / light.sum() == pytest.approx(64, abs=0.3)
    assert (light.sum(0) * rows).sum() / light.sum() == pytest.approx(64, abs=0.3)


@pytest.mark.parametrize("angle, step", [(0, (0, 1)), (45, (-1, 1)), (90, (1, 0)), (135, (1, 1))])
def test_direction_of_a_blur(angle, step, photos):
    for clean in photos:
        moved = [clean.roll((i * step[0], i * step[1]), (1, 2)) for i in range(9)]
        blurred = torch.stack(moved).mean(0)
        unfocused = F.avg_pool2d(clean, 5, stride=1, padding=2)
        found, *none = motion_blur.directions(torch.stack([clean] * 3), torch.stack([blurred, clean, unfocused]))
        assert abs((found - angle + 90) % 180 - 90) <= 22
        assert none == [None, None], "sharp, and out of focus"


def test_fractal_noise_is_standard_normal_and_smooth():
    noise = fractal_noise(400, 40, 56, torch.Generator().manual_seed(0), scale=16.0, octaves=3)
    assert noise.shape == (400, 1, 40, 56)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    coarse = fractal_noise(2, 64, 64, torch.Generator().manual_seed(0), scale=torch.tensor([8.0, 64.0]), octaves=1)
    steps = coarse.diff(dim=3).square().mean((1, 2, 3))
    assert steps[0] > 5 * steps[1]


def test_log_uniform_stays_in_its_range():
    values = log_uniform(1000, 0.1, 10, torch.Generator().manual_seed(0))
    assert 0.1 <= values.min() and values.max() <= 10
    assert values.median().item() == pytest.approx(1, rel=0.3)


def test_follow_edges_sharpens_at_the_edge_of_the_photograph():
    clean = torch.zeros(1, 3, 64, 64)
    clean[..., 32:] = 1
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    assert follow_edges(ramp, clean)[0, 0, 32, 31:33].diff() > 5 / 64


def test_light_round_trip():
    image = torch.linspace(0, 1, 256)
    torch.testing.assert_close(to_display(to_linear(image)), image, atol=1e-5, rtol=0)
    assert to_linear(torch.tensor(0.5)).item() == pytest.approx(0.214, abs=1e-3)
