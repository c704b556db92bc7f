"""What do all tabs share? Buttons that start and end jobs, status lines, downloads, uploads no browser can show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runtime.errors import UserError, sentence
from runtime.images import IN_TURN, open_image
from runtime.uploads import files_folder, uploaded

QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # of events that do no work
ALONE = {"concurrency_limit": 1, "concurrency_id": "model"}  # of whatever works on a model, one job at a time
SKIP = gr.skip()  # leaves a component as it is
PREVIEW = 2048  # pixels; the long side of what comparisons show. Downloads are whole.
_SHOW = """() => {{
  if (innerWidth < 930) document.getElementById("{}").scrollIntoView({{block: "center", behavior: "smooth"}});
}}"""  # where columns stand below each other, what a click brings would be out of sight
_NOT_SHOWN = (".tif", ".tiff", ".heic", ".heif")


class Names(gr.Dropdown):
    """Of an endpoint: several words, among which are some that are not known yet when the page is built."""

    is_template = True

    def __init__(self, label: str):
        super().__init__(label=label, value=None, multiselect=True, allow_custom_value=True)

    def api_info(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}}


def wire_jobs(
    cancel_button: gr.Button,
    status: gr.HTML,
    *jobs: tuple[gr.Button, Callable[..., Iterator[Any]], Sequence[Any], Sequence[Any]],
) -> list[Any]:
    """Have buttons start jobs of a session, one at a time among all visitors, and another one end what runs.

    Args:
        status: the component that shows that a job waits; between the button and what comes of it.
        jobs: (button, function, inputs, outputs) of each; before the inputs, the function gets the job's
            threading.Event that says it is cancelled.

    Returns:
        Of each job the event to go on from.
    """
    cancelled = gr.State()  # threading.Event of the session's job
    buttons = [*(button for button, *_ in jobs), cancel_button]

    def running(yes: bool) -> list[Any]:
        return [*(gr.update(interactive=not yes) for _ in jobs), gr.update(interactive=yes)]

    done = []
    for button, function, inputs, outputs in jobs:
        button.click(None, js=_SHOW.format(status.elem_id), **QUICK)
        begun = button.click(lambda: (threading.Event(), *running(True)), None, [cancelled, *buttons], **QUICK)
        job = begun.then(
            function, [cancelled, *inputs], outputs, **ALONE, api_visibility="private",
            show_progress="minimal", show_progress_on=status,
        )  # fmt: skip
        for ended in (job.then, job.failure):  # after an error of Gradio's own, it skips `then`
            ended(lambda: running(False), None, buttons, **QUICK)
        done.append(job)
    cancel_button.click(lambda event: event and event.set(), cancelled, None, **QUICK)
    return done


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
    folder, info = files_folder(), PngInfo()
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
            return SKIP
        with IN_TURN:
            photo = open_image(path)
            for note in photo.info["notes"]:
                gr.Info(f"{escape(path.name)}: {escape(note)}.")
            return save_pngs({path.stem[:60]: photo})[0]
    except UserError as error:
        failed(error)
        return None
