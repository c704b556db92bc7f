import pytest
import torch

from gendeg.degradations import DEGRADATIONS
from gendeg.scheduler import BridgeScheduler, enlarged

ONE = torch.ones(1, 1, 1, 1)


def per_channel(*values):
    return torch.tensor(values)[None, :, None, None]


def answer_to(scheduler, clean, degraded, noisy, timesteps, scale=ONE):
    """The output, with v = 1, that means `degraded`."""
    nothing = torch.zeros_like(torch.cat([clean, clean], dim=1))
    missing = degraded - scheduler.predicted(nothing, noisy, clean, timesteps, scale)
    return torch.cat([missing / scheduler.output_scale(timesteps, clean, scale), torch.zeros_like(clean)], dim=1)


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(0)
    clean, degraded, noise = torch.randn(3, 2, 3, 8, 8, generator=generator)
    return clean, degraded, noise


def test_noised_latents_run_from_clean_to_degraded(latents):
    clean, degraded, noise = latents
    scheduler = BridgeScheduler()
    assert torch.equal(scheduler.add_noise(clean, degraded, noise, torch.zeros(2), ONE), clean)
    end = scheduler.add_noise(clean, degraded, noise, torch.full((2,), 1000.0), ONE)
    torch.testing.assert_close(end, degraded)
    middle = scheduler.add_noise(clean, degraded, noise, torch.full((2,), 500.0), 3 * ONE)
    torch.testing.assert_close(middle - (clean + degraded) / 2, 3 * noise / 2)


def test_the_residuals_size_is_the_degradations_and_grows_with_the_asked_intensity():
    known = {name: [0.5, 2.0] for name in DEGRADATIONS} | {"snow": [1.0, 4.0]}
    scheduler = BridgeScheduler(residual_std=known)
    rain, snow = (list(DEGRADATIONS).index(name) for name in ("rain", "snow"))
    mu, sigma = torch.tensor([0.03, 0.06, 0.03]), torch.tensor([0.04, 0.08, 0.04])
    scale = scheduler.residual_scale(torch.tensor([rain, rain, snow]), mu, sigma)[:, :, 0, 0]
    torch.testing.assert_close(scale, torch.tensor([[0.025, 0.1], [0.05, 0.2], [0.05, 0.2]]))
    unknown = scheduler.residual_scale(torch.tensor([rain]), torch.tensor([torch.nan]), torch.tensor([0.1]))
    assert 0 < unknown.min() and unknown.isfinite().all()


def test_noise_is_scaled_per_channel_and_smooth_where_asked():
    scheduler = BridgeScheduler(noise_scale=[0.8, 0.0], smooth_noise_scale=[0.0, 0.5])
    noise = scheduler.draw_noise(torch.zeros(4, 2, 64, 64), torch.Generator().manual_seed(0))
    assert noise[:, 0].std() == pytest.approx(0.8, rel=0.05)
    steps = (noise[..., 1:] - noise[..., :-1]).std((0, 2, 3)) / noise.std((0, 2, 3))
    assert steps[0] > 1.3, "white noise: neighbours are independent"
    assert steps[1] < 0.5, "smooth noise: neighbours are alike"


def test_smooth_noise_is_enlarged_as_images_are():
    lattice = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(
        enlarged(lattice, 4), torch.nn.functional.interpolate(lattice, scale_factor=4, mode="bicubic")
    )


def test_temperature_takes_noise_from_coarse_and_fine_patterns():
    scheduler = BridgeScheduler(noise_scale=[0.5, 0.75, 1.0], smooth_noise_scale=[1.0, 0.0, 0.0])
    like = torch.zeros(8, 3, 64, 64)

    def deviations(temperature):
        return scheduler.draw_noise(like, torch.Generator().manual_seed(0), temperature).std((0, 2, 3)).tolist()

    assert deviations((1.0, 0.25))[1:] == pytest.approx([0.375, 0.25], rel=0.03)
    assert deviations((1.0, 0.25))[0] == pytest.approx(deviations((1.0, 1.0))[0])
    assert deviations((0.5, 0.5))[1:] == pytest.approx([0.375, 0.5], rel=0.03)
    assert deviations((0.5, 1.0))[0] == pytest.approx(deviations((1.0, 1.0))[0] / 2), "smooth noise is coarse"


@pytest.mark.parametrize("steps", [1, 2, 8, 13])
def test_a_network_that_knows_the_answer_is_led_to_it(latents, steps):
    clean, degraded, _ = latents
    scheduler, scale = BridgeScheduler(noise_scale=[0.5, 1.0, 1.2]), per_channel(0.5, 1.0, 2.0)
    scheduler.set_timesteps(steps)
    sample = scheduler.begin(clean, scale)
    assert torch.equal(sample, clean)
    for timestep in scheduler.timesteps:
        answer = answer_to(scheduler, clean, degraded, sample, timestep, scale)
        sample = scheduler.step(answer, timestep, sample, generator=torch.Generator().manual_seed(1)).prev_sample
    torch.testing.assert_close(sample, degraded, rtol=1e-4, atol=1e-4)


def test_steps_stay_on_the_bridge():
    """With the right answer at every step, samples on the way are spread as `add_noise` spreads them in training."""
    clean, degraded = torch.zeros(1, 2, 100, 100), torch.ones(1, 2, 100, 100)
    scheduler, scale = BridgeScheduler(noise_scale=0.8), per_channel(0.5, 2.0)
    scheduler.set_timesteps(5)
    sample, generator = scheduler.begin(clean, scale), torch.Generator().manual_seed(0)
    for timestep, following in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True):
        answer = answer_to(scheduler, clean, degraded, sample, timestep, scale)
        sample = scheduler.step(answer, timestep, sample, generator=generator).prev_sample
        wanted = scheduler.add_noise(clean, degraded, torch.full_like(clean, 0.8), following[None], scale)
        t = following / 1000
        assert sample.mean((0, 2, 3)).tolist() == pytest.approx([float(t)] * 2, abs=0.05)
        torch.testing.assert_close(sample.std((0, 2, 3)), (wanted - t)[0, :, 0, 0], rtol=0.05, atol=0)


def test_the_generator_decides(latents):
    clean, degraded, _ = latents
    scheduler = BridgeScheduler()

    def first_step(seed):
        scheduler.set_timesteps(4)
        start, time = scheduler.begin(clean, ONE), scheduler.timesteps[0]
        answer, generator = answer_to(scheduler, clean, degraded, start, time), torch.Generator().manual_seed(seed)
        return scheduler.step(answer, time, start, generator=generator).prev_sample

    assert torch.equal(first_step(0), first_step(0))
    assert not torch.equal(first_step(0), first_step(1))


def test_saves_and_loads(tmp_path):
    known = {name: [0.1, 0.2] for name in DEGRADATIONS}
    BridgeScheduler(residual_std=known, noise_scale=[1.0, 0.5]).save_pretrained(tmp_path)
    loaded = BridgeScheduler.from_pretrained(tmp_path)
    assert loaded.config.residual_std == known
    assert list(loaded.config.noise_scale) == [1.0, 0.5]


def test_no_steps_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        BridgeScheduler().set_timesteps(0)


@pytest.mark.parametrize(("steps", "tolerance"), [(6, 0.05), (12, 0.01), (40, 0.01)])
def test_few_steps_keep_the_strength_of_what_is_random(steps, tolerance):
    """For a normal residual the best prediction is known in closed form; sampling with it must give the residual back.

    Steps that take every prediction as final would lose 30 % of its deviation in 6 steps and 18 % in 12.
    """
    deviation = 2.0
    scheduler = BridgeScheduler(noise_scale=1.0)
    scheduler.set_timesteps(steps)
    sample, generator = scheduler.begin(torch.zeros(1, 1, 300, 300), ONE), torch.Generator().manual_seed(0)
    for timestep in scheduler.timesteps:
        t = float(timestep) / 1000
        prediction = deviation**2 / (t * deviation**2 + 1 - t) * sample
        answer = answer_to(scheduler, torch.zeros_like(sample), prediction, sample, timestep)
        sample = scheduler.step(answer, timestep, sample, generator=generator).prev_sample
    assert float(sample.std()) == pytest.approx(deviation, rel=tolerance)


def normal_residual(time):
    """(scheduler, clean, degraded, noised latents, timesteps, scale) of residuals as large as the scheduler thinks."""
    generator = torch.Generator().manual_seed(0)
    scheduler, scale = BridgeScheduler(noise_scale=[0.6, 1.2]), per_channel(0.5, 2.0)
    clean = 5 * torch.randn(1, 2, 64, 64, generator=generator)
    degraded = clean + scale * torch.randn(clean.shape, generator=generator)
    timesteps = torch.tensor([1000 * time])
    noisy = scheduler.add_noise(clean, degraded, scheduler.draw_noise(clean, generator), timesteps, scale)
    return scheduler, clean, degraded, noisy, timesteps, scale


@pytest.mark.parametrize("time", [0.003, 0.02, 0.2, 0.7, 1.0])
def test_the_network_sees_the_way_from_clean_at_one_size(time):
    """However short the way is: the first steps, which decide the most, are a hundredth of the last."""
    scheduler, clean, _, noisy, timesteps, scale = normal_residual(time)
    seen = scheduler.network_input(noisy, clean, timesteps, scale)
    assert seen.std((0, 2, 3)).tolist() == pytest.approx([1.0, 1.0], rel=0.1)


@pytest.mark.parametrize("time", [0.0, 0.02, 0.3, 0.9])
def test_what_the_network_must_say_has_one_size_too(time):
    scheduler, clean, degraded, noisy, timesteps, scale = normal_residual(time)
    answer = answer_to(scheduler, clean, degraded, noisy, timesteps, scale)
    assert answer[:, :2].std((0, 2, 3)).tolist() == pytest.approx([1.0, 1.0], rel=0.1)
    torch.testing.assert_close(scheduler.predicted(answer, noisy, clean, timesteps, scale), degraded)


def test_near_the_end_an_error_of_the_network_hardly_matters(latents):
    clean, degraded, noise = latents
    scheduler, timesteps = BridgeScheduler(), torch.tensor([980.0])
    noisy = scheduler.add_noise(clean, degraded, noise, timesteps, ONE)
    answer = answer_to(scheduler, clean, degraded, noisy, timesteps)
    answer[:, : clean.shape[1]] += 1
    assert (scheduler.predicted(answer, noisy, clean, timesteps, ONE) - degraded).abs().max() < 0.2


@pytest.mark.parametrize("time", [0.0, 0.3, 0.9])
def test_where_nothing_is_to_change_nothing_of_the_noise_is_left(latents, time):
    clean, _, noise = latents
    scheduler, timesteps = BridgeScheduler(), torch.tensor([1000 * time])
    noisy = scheduler.add_noise(clean, clean, noise, timesteps, ONE)
    unchanged = torch.cat([torch.zeros_like(clean), torch.full_like(clean, -8.0)], dim=1)
    assert (scheduler.predicted(unchanged, noisy, clean, timesteps, ONE) - clean).abs().max() < 0.01


def test_the_network_sees_nothing_at_the_start(latents):
    clean, _, _ = latents
    scheduler = BridgeScheduler()
    scheduler.set_timesteps(4)
    assert not scheduler.scale_model_input(scheduler.begin(clean, ONE), scheduler.timesteps[0]).any()
