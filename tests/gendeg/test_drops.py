"""Drops that are drawn one by one."""

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gendeg.drops import drawn_as_drops
from gendeg.intensity import intensity


@pytest.fixture(scope="module")
def photo():
    """[1, 3, 160, 200], far from black and white."""
    coffee = skimage.data.coffee()[100:260, 200:400].copy()
    return 0.2 + 0.6 * torch.from_numpy(coffee).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def rough():
    """[1, 3, 160, 200] of noise: no drop looks like it anywhere."""
    return 0.2 + 0.6 * torch.rand(1, 3, 160, 200, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def cover():
    """[1, 1, 160, 200]: four drops, 1 where they are."""
    row, column = np.arange(160)[:, None], np.arange(200)
    drops = ((40, 40, 12), (110, 60, 8), (60, 140, 16), (130, 150, 6))
    inside = [np.hypot(row - r, column - c) < radius for r, c, radius in drops]
    return torch.from_numpy(np.any(inside, axis=0)).float()[None, None]


def likeness(first, second):
    return float(np.corrcoef(first.flatten(), second.flatten())[0, 1])


def test_drops_stay_where_they_are(rough, cover):
    drawn = drawn_as_drops(rough, torch.lerp(rough, torch.tensor(0.5), cover), rough)
    changed = (drawn - rough).abs().mean(1, keepdim=True) > 0.03
    assert likeness(changed.float(), cover) > 0.85


def test_ragged_drops_with_holes_become_whole(rough, cover):
    holes = torch.rand(1, 1, 40, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    ragged = cover * ~holes.repeat_interleave(4, 2).repeat_interleave(4, 3)
    drawn = drawn_as_drops(rough, torch.lerp(rough, torch.tensor(0.5), ragged), rough)
    changed = ((drawn - rough).abs().mean(1, keepdim=True) > 0.03).float()
    assert likeness(changed, cover) > likeness(ragged, cover)


def test_drops_are_drawn_on_another_image(photo, cover):
    other = photo.flip(2)
    drawn = drawn_as_drops(photo, torch.lerp(photo, torch.tensor(0.95), cover), other)
    far = torch.nn.functional.max_pool2d(cover, 61, stride=1, padding=30) == 0
    torch.testing.assert_close(drawn[far.expand_as(drawn)], other[far.expand_as(other)], atol=0.01, rtol=0)
    change = (drawn - other).abs().mean(1, keepdim=True)
    assert float(change[cover == 1].mean()) > 0.05


def test_a_drop_shows_the_scene_that_it_is_drawn_on_upside_down():
    """Before a bright sky and dark ground a drop is darker above and brighter below than before dark and bright."""
    scene = torch.linspace(0.9, 0.1, 256)[None, None, :, None].expand(1, 3, 256, 256).clone()
    row, column = torch.arange(256.0)[:, None], torch.arange(256.0)
    distance = torch.hypot(row - 128, column - 128)[None, None]
    degraded = torch.where(distance < 20, 1 - scene, scene)
    drawn = (drawn_as_drops(scene, degraded, over)[0, :, :, 128].mean(0) for over in (scene, scene.flip(2)))
    upright, inverted = (float(column[138:144].mean() - column[114:118].mean()) for column in drawn)
    assert upright > inverted + 0.1


@pytest.mark.parametrize(("mu_share", "sigma_share"), [(1.0, 1.0), (1.4, 1.2), (0.8, 0.9)])
def test_mu_and_sigma_come_near_what_is_asked(photo, cover, mu_share, sigma_share):
    degraded = torch.lerp(photo, torch.tensor(0.85), cover)
    mu, sigma = (float(value) for value in intensity(photo, degraded))
    asked = mu_share * mu, sigma_share * sigma
    reached = intensity(photo, drawn_as_drops(photo, degraded, photo, [asked[0]], [asked[1]]))
    assert float(reached[0]) == pytest.approx(asked[0], rel=0.2)
    assert float(reached[1]) == pytest.approx(asked[1], rel=0.2)


def test_each_image_of_a_batch_is_drawn_as_alone(photo, cover):
    degraded = torch.lerp(photo, torch.tensor(0.95), cover)
    others = 0.6 * photo.flip(3), 0.6 * torch.lerp(photo, torch.tensor(0.6), cover).flip(3)
    photos, both = torch.cat([photo, others[0]]), torch.cat([degraded, others[1]])
    together = drawn_as_drops(photos, both, photos, [None, 0.03], [None, 0.1])
    torch.testing.assert_close(together[:1], drawn_as_drops(photo, degraded, photo), atol=1e-4, rtol=0)
    alone = drawn_as_drops(*others, others[0], [0.03], [0.1])
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=0)


def test_without_change_there_are_no_drops(photo):
    torch.testing.assert_close(drawn_as_drops(photo, photo, photo, [0.1], [0.1]), photo)


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_images_give_an_image(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, degraded = torch.rand(2, 1, 3, height, width, generator=generator)
    drawn = drawn_as_drops(clean, degraded, clean, [0.1], [0.1])
    assert drawn.shape == clean.shape
    assert bool(drawn.isfinite().all()) and 0 <= float(drawn.min()) and float(drawn.max()) <= 1


def test_mist_between_drops_stays(photo, cover):
    misty = torch.lerp(0.6 * photo + 0.3, torch.tensor(0.95), cover)
    drawn = drawn_as_drops(photo, misty, photo)
    far = (torch.nn.functional.max_pool2d(cover, 61, stride=1, padding=30) == 0).expand_as(photo)
    assert float((drawn - misty)[far].abs().mean()) < 0.25 * float((misty - photo)[far].abs().mean())
