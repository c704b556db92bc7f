"""The bundled model does what it is for: the asked degradation, at about the asked intensity, in few evaluations."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from gendeg import DEGRADATIONS, load_pipeline
from gendeg.checkpoints import BUNDLED
from gendeg.estimator import load_estimator
from gendeg.prior import PRIOR


@pytest.fixture(scope="module")
def compact():
    return load_pipeline("compact", device="cpu")


@pytest.fixture(scope="module")
def photos():
    return torch.stack([torch.from_numpy(p[:300, 100:400]).permute(2, 0, 1) for p in (data.astronaut(), data.coffee())])


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_reaches_the_asked_intensity(compact, photos, name):
    low, high = DEGRADATIONS[name].mu_range
    sigma_low, sigma_high = DEGRADATIONS[name].sigma_range
    asked = [(low + share * (high - low), sigma_low + share * (sigma_high - sigma_low)) for share in (0.15, 0.35, 0.6)]
    reached = []
    for i, (mu, sigma) in enumerate(asked):
        photo = photos[i % 2 : i % 2 + 1]
        output = compact(photo, name, mu=mu, sigma=sigma, generator=torch.Generator().manual_seed(i))
        reached.extend(output.mu)
        assert abs(output.mu[0] - mu) < 0.035
        assert abs(output.sigma[0] - sigma) < 0.05
    assert reached == sorted(reached)


def test_the_scene_stays_intact(compact, photos):
    """What weak rain leaves uncovered is the clean photograph: the median pixel hardly changes."""
    output = compact(photos, "rain", mu=0.02, sigma=0.04, generator=torch.Generator().manual_seed(0), output_type="np")
    assert np.median(np.abs(output.images - output.clean)) < 0.02


def test_seeds_give_different_rain(compact, photos):
    one, other = (
        compact(photos[:1], "rain", mu=0.1, sigma=0.08, generator=torch.Generator().manual_seed(s), output_type="np")
        for s in (0, 1)
    )
    # Every rain veils the scene, and shows more on dark ground than on light; where its streaks lie is in the fine
    # differences, but for the contrast that the veil takes from the scene's own.
    scene, *streaks = (
        np.diff(i.mean(-1), axis=-1).ravel() for i in (one.clean, *(o.images - o.clean for o in (one, other)))
    )
    streaks = [s - scene * (s @ scene) / (scene @ scene) for s in streaks]
    assert np.corrcoef(*streaks)[0, 1] < 0.5
    assert one.mu[0] == pytest.approx(other.mu[0], abs=0.03)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_default_settings_are_cheap(compact, photos, degradation):
    batches = []
    hook = compact.unet.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    compact(photos[0], degradation, mu=0.1, sigma=0.07)
    hook.remove()
    assert sum(batches) <= 12


def test_codec_is_faithful(compact, photos):
    image = photos[0][None].float() / 255
    restored = compact.decode(compact.encode(image))[..., :300, :300]
    assert -10 * (restored - image).square().mean().log10() > 30


def test_the_estimator_names_heavy_degradations(compact):
    """Those of the generator, which it has not learned from; and a clean photograph looks clean."""
    photo, estimator, right = Image.fromarray(data.astronaut()), load_estimator(), 0
    assert estimator.estimate(photo).degradation is None
    for name in DEGRADATIONS:
        mu, sigma = PRIOR.strengths(name)["heavy"]
        output = compact(photo, name, mu=mu, sigma=sigma, generator=torch.Generator().manual_seed(0))
        right += estimator.estimate(output.images[0]).degradation == name
    assert right >= 4


def test_bundled_files_stay_small():
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) < 80e6
