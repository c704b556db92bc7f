"""The bundled restorers do what they are for, on photographs that nobody trained on."""

import pytest
import torch
from skimage import data

from gendeg.degradations import DEGRADATIONS
from restorers import available, load_restorer
from restorers.metrics import psnr
from restorers.registry import BUNDLED
from training.simulators.matching import simulate

NAMES = sorted(folder.name for folder in BUNDLED.glob("*") if folder.is_dir())


@pytest.fixture(scope="module")
def photos():
    squares = [p[:300, 100:400] for p in (data.astronaut(), data.coffee(), data.chelsea())]
    return torch.stack([torch.from_numpy(square).permute(2, 0, 1) for square in squares]).float() / 255


def test_there_is_one_for_all_degradations():
    assert any(set(available()[name]) == set(DEGRADATIONS) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_removes_snow(name, photos):
    restorer = load_restorer(name, device="cpu")
    snowy = torch.stack(
        [simulate(p, "snow", 0.06, 0.08, torch.Generator().manual_seed(i)).degraded for i, p in enumerate(photos)]
    )
    gain = (psnr(restorer(snowy), photos) - psnr(snowy, photos)).mean()
    assert gain > (2 if name == "nafnet" else 1), "NAFNet is the best one; the others are trained less"


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_clean_alone(name, photos):
    assert psnr(load_restorer(name, device="cpu")(photos), photos).min() > 32
