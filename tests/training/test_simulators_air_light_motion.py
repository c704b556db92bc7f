"""Haze, low light and motion blur keep the simulators' contract and reach real intensities."""

import pytest
import torch
from skimage import data
from torch.nn import functional as F

from gendeg.degradations import DEGRADATIONS
from gendeg.intensity import intensity
from training.simulators import haze, low_light, motion_blur
from training.simulators.fields import follow_edges, fractal_noise, log_uniform
from training.simulators.light import to_display, to_linear

SIMULATORS = {
    name: (degradation, simulator)
    for degradation, module in (("haze", haze), ("low_light", low_light), ("motion_blur", motion_blur))
    for name, simulator in module.SIMULATORS.items()
}
every_simulator = pytest.mark.parametrize("name", SIMULATORS)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def photographs(height: int = 128, width: int = 128) -> torch.Tensor:
    """Three photographs, [3, 3, height, width] in [0, 1]: their middle, where the short side has 256 pixels."""
    result = []
    for image in (data.astronaut(), data.coffee(), data.chelsea()):
        image = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        image = F.interpolate(image, scale_factor=256 / min(image.shape[-2:]), mode="area", recompute_scale_factor=True)
        top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
        result.append(image[:, :, top : top + height, left : left + width])
    return torch.cat(result).to(DEVICE)


def draw(name: str, clean: torch.Tensor, seed: int = 0):
    return SIMULATORS[name][1](clean, torch.Generator().manual_seed(seed))


def full(clean: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.full((clean.shape[0],), strength, device=clean.device)


@every_simulator
@pytest.mark.parametrize("size", [(128, 128), (100, 131), (32, 48)])
def test_shape_range_and_start(name, size):
    clean = photographs(*size)
    render = draw(name, clean)
    for strength in (0.0, 0.5, 1.0):
        degraded = render(full(clean, strength))
        assert degraded.shape == clean.shape and degraded.dtype == clean.dtype and degraded.device == clean.device
        assert degraded.isfinite().all() and degraded.min() >= 0 and degraded.max() <= 1
    torch.testing.assert_close(render(full(clean, 0.0)), clean, atol=1e-4, rtol=0)


@every_simulator
def test_mean_grows_with_strength(name):
    clean = photographs()
    for seed in range(3):
        render = draw(name, clean, seed)
        mu = torch.stack([intensity(clean, render(full(clean, k / 16)))[0] for k in range(17)])
        assert (mu.diff(dim=0) > -1e-3).all()
        assert (mu[-1] > mu[4]).all()


@every_simulator
def test_seed_decides(name):
    clean = photographs()
    strength = full(clean, 0.5)
    first = draw(name, clean, 1)(strength)
    torch.testing.assert_close(first, draw(name, clean, 1)(strength), atol=0, rtol=0)
    assert (first - draw(name, clean, 2)(strength)).abs().mean() > 1e-3


@every_simulator
def test_samples_and_strengths_of_a_batch_are_their_own(name):
    clean = photographs()[:1].repeat(3, 1, 1, 1)
    render = draw(name, clean)
    same = render(full(clean, 0.6))
    assert (same[0] - same[1]).abs().mean() > 1e-3
    mixed = render(torch.tensor([0.0, 0.6, 0.3], device=clean.device))
    torch.testing.assert_close(mixed[0], clean[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(mixed[1], same[1], atol=1e-5, rtol=0)


@every_simulator
def test_reaches_real_intensities(name):
    clean = photographs()
    _, highest = DEGRADATIONS[SIMULATORS[name][0]].mu_range
    reached = torch.stack([intensity(clean, draw(name, clean, seed)(full(clean, 1.0)))[0] for seed in range(6)])
    assert reached.median() > highest


@every_simulator
def test_flat_images_are_harmless(name):
    clean = torch.stack([torch.full((3, 64, 64), value) for value in (0.0, 0.5, 1.0)])
    degraded = draw(name, clean)(full(clean, 0.7))
    assert degraded.isfinite().all()
    if name in motion_blur.SIMULATORS:
        torch.testing.assert_close(degraded, clean, atol=1e-4, rtol=0)  # borders neither darken nor brighten


@pytest.mark.parametrize("name", list(motion_blur.SIMULATORS))
def test_blur_leaves_the_scene_in_place(name):
    clean = torch.zeros(1, 3, 129, 129)
    clean[:, :, 64, 64] = 1
    light = to_linear(draw(name, clean)(torch.ones(1)))[0, 0].double()
    assert light.sum().item() == pytest.approx(1, abs=0.02)
    rows = torch.arange(129.0, dtype=torch.float64)
    assert (light.sum(1) * rows).sum() / light.sum() == pytest.approx(64, abs=0.3)
    assert (light.sum(0) * rows).sum() / light.sum() == pytest.approx(64, abs=0.3)


@pytest.mark.parametrize("angle, step", [(0, (0, 1)), (45, (-1, 1)), (90, (1, 0)), (135, (1, 1))])
def test_direction_of_a_blur(angle, step):
    for clean in photographs():
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
