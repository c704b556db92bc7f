import pytest
import torch

from gendeg.codec import PatchCodec
from training.photos import Photos


def _images(count, size):
    import numpy as np

    photos = Photos()
    arrays = [photos.random_crop(size, np.random.default_rng(i)) for i in range(count)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def test_linear_shortcut_is_the_best_projection():
    images = _images(6, 96)
    errors = []
    for channels in (8, 48, 192):
        codec = PatchCodec(latent_channels=channels, width=16, depth=1)
        codec.initialise_from(images)
        latents = codec.encode(images).latents
        assert latents.shape == (6, channels, 12, 12)
        spread = latents.std((0, 2, 3))
        assert (spread > 0.8).all() and (spread < 1.2).all()
        errors.append((codec.decode(latents).sample - images).square().mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6, "all components kept: nothing may be lost"


def test_an_error_in_a_latent_fades_out():
    codec = PatchCodec(latent_channels=48, width=16, depth=1)
    codec.initialise_from(_images(6, 96))
    with torch.no_grad():
        latents = torch.zeros(1, 48, 5, 5)
        clean = codec.decode(latents).sample
        latents[..., 2, 2] = 1  # the patch of pixels 16 to 23
        error = (codec.decode(latents).sample - clean)[0].square().sum(0).sqrt()
    assert error[:12].max() < 1e-6 and error[28:].max() < 1e-6 and error[12:28].min(0).values.max() > 0
    rows = error[:, 16:24].mean(1)
    assert rows[12] < 0.35 * rows[16:24].mean() and rows[27] < 0.35 * rows[16:24].mean()
    edges = (rows[[16, 24]] - rows[[15, 23]]).abs()
    assert edges.max() < 0.5 * rows[16:24].mean(), "no edge where the patch ends"


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (64, 16)])
def test_any_number_of_patches(size):
    codec = PatchCodec(latent_channels=192, width=16, depth=1)
    codec.initialise_from(_images(6, 96))
    images = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(codec(images), images, atol=1e-4, rtol=0)


def test_saves_and_loads(tmp_path):
    codec = PatchCodec(latent_channels=8, width=16, depth=1)
    codec.save_pretrained(tmp_path)
    images = _images(1, 64)
    with torch.no_grad():
        torch.testing.assert_close(PatchCodec.from_pretrained(tmp_path)(images), codec(images))


def test_branches_learn():
    codec = PatchCodec(latent_channels=8, width=16, depth=1)
    codec(_images(1, 64)).square().mean().backward()
    missing = [name for name, p in codec.named_parameters() if p.grad is None]
    assert not missing
