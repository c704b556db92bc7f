"""What does a photograph show? Captions by BLIP-2, which prompts begin with (GenDeg, arXiv 2411.17687, Section 3.1)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from runtime.errors import UserError
from runtime.images import to_rgb

MODEL = "Salesforce/blip2-opt-2.7b"
_MAX_TOKENS = 30  # of a caption; they end by themselves after about ten


def available_captioner() -> Captioner | None:
    """What the app describes photographs with: the model that GENDEG_CAPTIONS names, else MODEL if it was downloaded.

    Returns:
        None if there is neither; nothing is downloaded to find out.
    """
    name = os.environ.get("GENDEG_CAPTIONS")
    if not name and _is_downloaded(MODEL):
        name = MODEL
    return Captioner(name) if name else None


def _is_downloaded(repository: str) -> bool:
    """Whether all of a Hub repository's weights lie in the cache: 15 GB must not be fetched because of a click."""

    def cached(file: str) -> str | None:
        path = try_to_load_from_cache(repository, file)
        return path if isinstance(path, str) else None

    if not cached("config.json"):
        return False
    index = cached(SAFE_WEIGHTS_INDEX_NAME)
    if not index:
        return cached(SAFE_WEIGHTS_NAME) is not None
    return all(map(cached, set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())))


class Captioner:
    """Captions images; the model is loaded when it is first needed.

    Args:
        model: folder or Hub repository of a BLIP-2 model.
        device: default: CUDA where there is one, else the CPU. On CUDA it runs in float16.
    """

    def __init__(self, model: str = MODEL, device: str | torch.device | None = None):
        self.model = model
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def caption(self, images: list[Image.Image]) -> list[str]:
        """One sentence for each image of any size and mode.

        Raises:
            UserError: if the model is not available, or is no BLIP-2 model.
        """
        if not images:
            return []
        processor, network = self._load()
        pixels = processor(images=[to_rgb(image) for image in images], return_tensors="pt").pixel_values
        tokens = network.generate(
            pixel_values=pixels.to(self.device, self.dtype), max_new_tokens=_MAX_TOKENS, do_sample=False
        )
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoConfig, Blip2ForConditionalGeneration, Blip2Processor  # slow to import

            try:
                kind = AutoConfig.from_pretrained(self.model).model_type
                if kind == "blip-2":
                    processor = Blip2Processor.from_pretrained(self.model)
                    network = Blip2ForConditionalGeneration.from_pretrained(self.model, dtype=self.dtype)
            except Exception as error:  # the libraries raise almost anything on damaged files, and without a network
                raise UserError(
                    f"The captioning model {self.model!r} is not available: no readable folder, and not to be had from "
                    f"the Hub. Where there is a network, `hf download {self.model}` fetches it once."
                ) from error
            if kind != "blip-2":
                raise UserError(f"{self.model!r} is no BLIP-2 model but a {kind}.")
            self._loaded = processor, network.to(self.device).eval()
        return self._loaded
