"""What several test files share: models that are whole but tiny and untrained, and the app that serves them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from hypothesis import register_random, settings
from PIL import Image

from tests import tiny

# The networks here are so small that a second thread only waits for the first.
torch.set_num_threads(1)


class _TorchRandom:
    """torch's random numbers, for Hypothesis to start anew with each example: a failure comes back."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = _TorchRandom()  # Hypothesis does not keep it
register_random(_torch_random)
settings.register_profile("gendeg", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("gendeg")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither need nor touch a network; what they download is what they put there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # for the processes they start


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight pipeline whose codec reconstructs photographs."""
    return tiny.pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="session")
def tiny_paper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight pipeline of the paper's process: AutoencoderKL, noise to latent, three-way guidance."""
    return tiny.paper_pipeline(tmp_path_factory.mktemp("tiny") / "paper")


@pytest.fixture(scope="session")
def tiny_restorers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of random-weight restorers under the bundled names."""
    return tiny.restorers(tmp_path_factory.mktemp("tiny") / "restorers")


@pytest.fixture(scope="module")
def app_url(
    tiny_pipeline_folder: Path, tiny_restorers_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of the running app: of the tiny models, or of GENDEG_MODEL and the bundled restorers."""
    if "GENDEG_MODEL" in os.environ:
        tiny_pipeline_folder = tiny_restorers_folder = None
    with tiny.served(tiny_pipeline_folder, tiny_restorers_folder, tmp_path_factory.mktemp("gradio")) as url:
        yield url


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, 320 x 240."""
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).resize((320, 240)).save(path)
    return path
