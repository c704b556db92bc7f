"""What do all tabs show alike? Status lines, files to download, and uploads that browsers cannot show."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runtime.errors import UserError, sentence
from runtime.images import IN_TURN, open_image
from runtime.uploads import files_folder, uploaded

PREVIEW = 2048  # pixels; the long side of what comparisons show. Downloads are whole.
_NOT_SHOWN = (".tif", ".tiff", ".heic", ".heif")


def bar(share: float) -> str:
    """A progress bar, `share` of it done."""
    return f'<div class="bar"><i style="width:{share:.0%}"></i></div>'


def failure(error: UserError) -> str:
    """Status line that says what is wrong."""
    return f'<span class="failure">{escape(sentence(error))}</span>'


def failed(error: Exception) -> str:
    """Status line of a job that failed; the page also shows for a while what it says."""
    words = escape(sentence(error))
    gr.Warning(words)
    return f'<span class="failure">{words}</span>'


def notes(photo: Image.Image) -> str:
    """What was changed when a photograph was opened, see `runtime.images.open_image`, for the end of a status line."""
    return "".join(f" Opened: {escape(note)}." for note in photo.info.get("notes", ()))


def save_pngs(images: dict[str, Image.Image], texts: Mapping[str, str] | None = None) -> list[str]:
    """Write images under their names, for the page to serve; returns the paths.

    Args:
        texts: to write into the files, by keyword; ASCII.
    """
    folder, info = files_folder("gendeg-"), PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    for name, image in images.items():
        image.save(folder / f"{name}.png", compress_level=3, pnginfo=info)  # a third of the time, a tenth larger
    return [str(folder / f"{name}.png") for name in images]


def preview(image: Image.Image) -> Image.Image:
    """An image small enough to be shown: as it is, or with a long side of PREVIEW."""
    if max(image.size) <= PREVIEW:
        return image
    image = image.copy()
    image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
    return image


def show_upload(file: Any) -> Any:
    """In place of an uploaded file that browsers do not show, TIFF or HEIC, the same photograph as PNG."""
    try:
        path = Path(uploaded(file) or "")
        if path.suffix.lower() not in _NOT_SHOWN:
            return gr.skip()
        with IN_TURN:
            photo = open_image(path)
            for note in photo.info["notes"]:
                gr.Info(f"{escape(path.name)}: {escape(note)}.")
            return save_pngs({path.stem[:60]: photo})[0]
    except UserError as error:
        failed(error)
        return None
