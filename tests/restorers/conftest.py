import sys
import zlib

import pytest
import torch

import restorers.registry  # noqa: F401


@pytest.fixture(autouse=True)
def _same_images_every_time():
    torch.manual_seed(0)


def weights_from_names(network):
    """Give every parameter values that depend on its name alone, of a size that keeps activations near one."""
    state = {}
    for name, value in network.state_dict().items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith(("beta", "gamma", "scale")):
            state[name] = 0.3 * noise
        elif name.endswith(("bias", "prompt_param")):
            state[name] = 0.2 * noise
        elif value.ndim == 1 or name.endswith("temperature"):
            state[name] = 1 + 0.2 * noise
        else:
            state[name] = noise / value[0].numel() ** 0.5
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture
def named_weights():
    return weights_from_names


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Empty folders in place of the bundled checkpoints and the user's models."""
    registry = sys.modules["restorers.registry"]
    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr(registry, "MODELS", tmp_path / "models")
    (tmp_path / "bundled").mkdir()
    (tmp_path / "models").mkdir()
    return tmp_path
