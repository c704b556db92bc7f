"""Which restorers are there, and how does a name become one? Bundled ones, the user's files, and Hub repositories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from restorers.architectures import build, network_from_state_dict
from restorers.folder import CONFIG, WEIGHTS, read_config
from restorers.restore import restore
from runtime.errors import UserError
from runtime.images import upright
from runtime.paths import ASSETS, MODELS
from runtime.weights import read_state_dict, weights_suffix

BUNDLED = ASSETS / "checkpoints" / "restorers"

ImageLike = TypeVar("ImageLike", Image.Image, np.ndarray, torch.Tensor)


@dataclass
class Restorer:
    """A network that is called with an image and gives back the same kind of image, restored.

    Attributes:
        name: what `load_restorer` was asked for, shortened to the last part of a path.
        network: see `restorers.restore.restore` for what it must be.
        trained_for: the degradations it has learned, by name; empty if its file does not say.
    """

    name: str
    network: nn.Module
    trained_for: tuple[str, ...] = ()

    def __call__(self, image: ImageLike, progress: Callable[[int, int], None] | None = None) -> ImageLike:
        """Restore an image of any size.

        Args:
            image: a PIL image; an array [H, W, 3] of uint8 or of floats in [0, 1]; or a tensor [3, H, W] or
                [B, 3, H, W] of uint8 or of floats in [0, 1].
            progress: as in `restorers.restore.restore`.

        Returns:
            The same kind: a PIL image (upright, see `runtime.images.upright`; RGB, or RGBA with the transparency it
            had), or an array or tensor of the same shape and type.

        Raises:
            UserError: for an image of another kind, shape, type or range, and if the network answers with values that
                are not numbers.
        """
        if isinstance(image, Image.Image):
            image = upright(image)
            rgb = np.asarray(image.convert("RGB"))
            restored = Image.fromarray(self(rgb, progress))
            if image.mode == "RGBA":
                restored.putalpha(image.getchannel("A"))
            return restored
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3:
                raise UserError(f"An image array must be [H, W, 3], not {list(image.shape)}.")
            if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
                raise UserError(f"An image array must hold uint8 or floats, not {image.dtype}.")
            tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # a copy: PIL's memory must not be written
            return self(tensor, progress).permute(1, 2, 0).contiguous().numpy()
        if not isinstance(image, torch.Tensor):
            raise UserError(f"An image must be a PIL image, an array or a tensor, not a {type(image).__name__}.")
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or image.numel() == 0:
            raise UserError(f"An image tensor must be [3, H, W] or [B, 3, H, W], not {list(image.shape)}.")
        batch = image if image.ndim == 4 else image[None]
        if batch.dtype == torch.uint8:
            restored = restore(self.network, batch.float().div_(255), None, progress, self.name)
            restored = restored.mul_(255).round_().to(torch.uint8)
        elif not batch.is_floating_point():
            raise UserError(f"An image tensor must hold uint8 or floats, not {image.dtype}.")
        elif not (batch.min() >= -0.1 and batch.max() <= 1.1):  # also refuses values that are not numbers
            raise UserError("The values of an image must lie in [0, 1].")
        else:
            restored = restore(self.network, batch, None, progress, self.name)
        return restored.reshape(image.shape)


def available() -> dict[str, tuple[str, ...]]:
    """Names that `load_restorer` takes without a path, with the degradations each was trained for.

    Bundled ones come first; of files in `models/`, named like their file without its ending (with it where the name is
    taken), that is unknown: ().
    """
    names = {}
    for folder in sorted(path.parent for path in BUNDLED.glob(f"*/{CONFIG}")):
        names[folder.name] = tuple(read_config(folder)["trained_for"])
    for file in _user_files():
        names[file.name if _stem(file) in names else _stem(file)] = ()
    return names


def version(name: str) -> tuple[Path, int]:
    """What changes when someone puts other weights under a name of `available()`.

    Raises:
        UserError: if there is no such restorer.
    """
    path = _find(name)
    return path, (path / WEIGHTS if path.is_dir() else path).stat().st_mtime_ns


def load_restorer(name_or_path: str | Path, device: str | torch.device | None = None) -> Restorer:
    """Load a restorer, ready to call.

    Args:
        name_or_path: one of `available()`; a weights file (see `runtime.weights.SUFFIXES`); a folder that
            `save_restorer` wrote; a Hub repository "owner/name" that holds such a folder, or a weights file in one:
            "owner/name/file.safetensors".
        device: default: CUDA where there is one, else the CPU.

    Raises:
        UserError: if there is no such restorer, or its weights cannot be used; the message says why.
    """
    path = _find(str(name_or_path))
    trained_for: tuple[str, ...] = ()
    try:
        if path.is_dir():
            config = read_config(path)
            network = build(config["architecture"], config["config"], read_state_dict(path / WEIGHTS))
            trained_for = tuple(config["trained_for"])
        else:
            network = network_from_state_dict(read_state_dict(path))
    except UserError as error:
        raise UserError(_of_file(error, path)) from error
    if network.channels != (3, 3):
        raise UserError(
            "{} turns {} channels into {}: a restorer of photographs keeps RGB.".format(path.name, *network.channels)
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = _stem(Path(name_or_path)) if path.is_file() else Path(name_or_path).name
    return Restorer(name, network.to(device), trained_for)


def _of_file(error: UserError, path: Path) -> str:
    """The error's sentence, with the file that is at fault before it."""
    if path.name in str(error):
        return str(error)
    if path.is_file() or str(error).startswith(WEIGHTS):
        return f"{path.name}: {error}"
    return f"{path.name}/{error}" if str(error).startswith(CONFIG) else f"{path.name}/{WEIGHTS}: {error}"


def _user_files() -> list[Path]:
    return sorted(file for file in MODELS.glob("*") if weights_suffix(file) and file.is_file())


def _stem(file: Path) -> str:
    return file.name.removesuffix(weights_suffix(file))


def _find(name: str) -> Path:
    """The bundled folder, the user's file, the path itself, or a download; in this order."""
    if not name:
        raise UserError(f"Name a restorer; there are {', '.join(available()) or 'none yet'}.")
    if (BUNDLED / name / CONFIG).is_file():
        return BUNDLED / name
    for file in _user_files():
        if name in (_stem(file), file.name):
            return file
    if Path(name).exists():
        return Path(name)
    if not weights_suffix(name) and name.count("/") != 1:
        raise UserError(f"There is no restorer {name!r}; there are {', '.join(available()) or 'none yet'}.")
    if Path(name).is_absolute() or name.count("/") < 1:
        raise UserError(f"There is no file {name}.")
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    owner, repository, *file = name.split("/")
    try:
        if file:
            return Path(hf_hub_download(f"{owner}/{repository}", "/".join(file)))
        hf_hub_download(name, CONFIG)
        return Path(hf_hub_download(name, WEIGHTS)).parent
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise UserError(
            f"There is no restorer {name!r}: not bundled, not in models/, no such path, and the Hub did not give it."
        ) from error
