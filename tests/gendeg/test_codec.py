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
