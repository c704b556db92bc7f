"""The Restore tab: a degraded photograph in; what each restorer makes of it out, to compare and to measure.

Functions are plain Python; `restore_tab` lays the components out and wires them. What a function yields as `SKIP`
leaves its component as it is.
"""

from __future__ import annotations

import base64
import io
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from restorers.jobs import Failure, Input, Restorers, Result, Tiles, read_request, restore_photo
from restorers.metrics import Quality
from restorers.registry import available
from runtime.errors import UserError
from runtime.jobs import CANCELLED, until
from runtime.page import (
    ALONE,
    QUICK,
    SKIP,
    Names,
    bar,
    failed,
    failure,
    notes,
    preview,
    save_pngs,
    show_upload,
    wire_jobs,
)
from runtime.paths import ASSETS
from runtime.uploads import Photo, uploaded

_EXAMPLES = ASSETS / "examples"
EXAMPLES = {path.name: path.parent / "clean" / path.name for path in sorted(_EXAMPLES.glob("*.webp"))}
THUMBNAIL = 480
CSS = (Path(__file__).parent / "tab.css").read_text(encoding="utf-8")
# A click on a card shows its image on the right of the comparison.
COMPARE_ON_CLICK = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('button[data-index]');
  if (card) trigger('click', {index: +card.dataset.index});
});
"""


class Images:
    """The images of one photograph, in the order they came, as files that last as long as uploads do.

    Attributes:
        labels: what each is called.
        files: PNG files, whole.
        previews: the same, or smaller ones of large images.
        cards: HTML, of restorers that failed too.
    """

    def __init__(self, photo: str):
        self._stem = Path(photo).stem[:60]
        self.labels: list[str] = []
        self.files: list[str] = []
        self.previews: list[str] = []
        self.cards: list[str] = []

    def add(self, label: str, image: Image.Image, seconds: float | None = None, quality: Quality | None = None) -> None:
        """Keep an image and make its card."""
        self.cards.append(card(len(self.labels), label, image, seconds, quality))
        self.labels.append(label)
        small, name = preview(image), f"{self._stem}-{label.lower()}"
        self.files += save_pngs({name: image})
        self.previews += self.files[-1:] if small is image else save_pngs({name: small})

    def choices(self) -> list[tuple[str, int]]:
        """For a dropdown: the labels, with their indices for values."""
        return [(label, index) for index, label in enumerate(self.labels)]


# -------------------------------------------------------------------------------------------------------- running


def run_restore(
    restorers: Restorers, cancelled: threading.Event | None, names: list[str], photo: Any, clean: Any
) -> Iterator[tuple[Any, ...]]:
    """Restore one photograph with each of the restorers.

    Args:
        cancelled: once it is set, the work stops after the tile that is being computed.
        photo, clean: files as the browser sends them, see `runtime.uploads.uploaded`.

    Yields:
        (status, images, left and right choice, comparison, download of the right one, cards).
    """
    try:
        request = read_request(uploaded(photo), names, uploaded(clean))
        yield "Starting…" + bar(0), *[SKIP] * 6
        images = Images(uploaded(photo))
        inputs = 2 if request.clean else 1
        seconds, done = 0.0, 0
        with closing(until(cancelled, restore_photo(restorers, request))) as events:
            for event in events:
                if event is CANCELLED:
                    yield f"Cancelled, {done} of {len(request.names)} done.", *[SKIP] * 6
                    return
                if isinstance(event, Input):
                    images.add("Degraded", request.photo, quality=event.quality)
                    if request.clean:
                        images.add("Clean", request.clean)
                    choices = images.choices()
                    yield (
                        SKIP, images, gr.update(choices=choices, value=0), gr.update(choices=choices, value=inputs - 1),
                        *compare(images, 0, inputs - 1), grid(images),
                    )  # fmt: skip
                elif isinstance(event, Tiles):
                    yield progress(event, request.names), *[SKIP] * 6
                elif isinstance(event, Result):
                    images.add(event.name, event.image, event.seconds, event.quality)
                    seconds, done = seconds + event.seconds, done + 1
                    choices = images.choices()
                    if done == 1:
                        chosen = gr.update(choices=choices, value=0), gr.update(choices=choices, value=inputs)
                        yield SKIP, SKIP, *chosen, *compare(images, 0, inputs), grid(images)
                    else:
                        yield SKIP, SKIP, *[gr.update(choices=choices)] * 2, SKIP, SKIP, grid(images)
                elif isinstance(event, Failure):
                    images.cards.append(failed_card(event))
                    yield *[SKIP] * 6, grid(images)
                else:
                    yield (SKIP,) * 7
        size = f"{request.photo.width} × {request.photo.height} pixels"
        yield f"Done: {done} of {len(request.names)}, {size}, {seconds:.1f} s.{notes(request.photo)}", *[SKIP] * 6
    except Exception as error:
        yield failed(error), *[SKIP] * 6


def run_endpoint(
    restorers: Restorers, image: Any, names: list[str] | str | None = None, clean: Any = None
) -> Iterator[tuple[Any, Any]]:
    """See `restore` in `_endpoint`, which the API's documentation shows. Yields (files, numbers)."""
    request = read_request(uploaded(image), list(available()) if names is None else names, uploaded(clean))
    images, numbers = Images(uploaded(image)), {}
    for event in restore_photo(restorers, request):
        if isinstance(event, Result):
            images.add(event.name, event.image)
            psnr, ssim = (event.quality.psnr, event.quality.ssim) if event.quality else (None, None)
            numbers[event.name] = {
                "seconds": event.seconds, "psnr": psnr if psnr != math.inf else None, "ssim": ssim,
            }  # fmt: skip
        elif isinstance(event, Failure):
            numbers[event.name] = {"error": event.sentence}
        elif isinstance(event, Tiles):
            yield SKIP, {"restorer": event.name, "tile": event.done, "tiles": event.total}
        else:
            yield SKIP, SKIP
    if not images.files:
        raise UserError(" ".join(f"{name}: {values['error']}" for name, values in numbers.items()))
    yield images.files, numbers


def clean_of(example: Any) -> str | None:
    """The clean image that an example was made from."""
    clean = EXAMPLES.get(Path(uploaded(example) or "").name)
    return clean and str(clean)


def compare(images: Images | None, left: Any, right: Any) -> tuple[Any, Any]:
    """The comparison of two images, by their indices, and the download of the right one; nothing without such two."""
    if images is None or not all(_index(images, chosen) for chosen in (left, right)):
        return SKIP, SKIP
    label = f"{images.labels[left]} | {images.labels[right]}"
    return (
        gr.update(value=(images.previews[left], images.previews[right]), label=label),
        gr.update(label=f"Download {images.labels[right]}", value=images.files[right], interactive=True),
    )


def _index(images: Images, chosen: Any) -> bool:
    return type(chosen) is int and 0 <= chosen < len(images.files)


def list_restorers() -> tuple[Any, Any]:
    """(restorers to choose from, a notice if none is bundled); chosen are those that say what they were trained for."""
    try:
        known = available()
    except UserError as error:
        return gr.update(choices=[], visible=False), gr.update(value=failure(error), visible=True)
    chosen = [name for name, trained_for in known.items() if trained_for]
    notice = ""
    if not chosen:
        notice = "No restorer is bundled yet. Put weights (.safetensors, .pth) into the folder <code>models/</code>"
        notice += ": those found there are listed above." if known else " and reload the page."
    choice = gr.update(choices=list(known), value=chosen, visible=bool(known))
    return choice, gr.update(value=notice, visible=bool(notice))


# ----------------------------------------------------------------------------------------------------------- HTML


def progress(tiles: Tiles, names: Sequence[str]) -> str:
    """Status line of a running job."""
    share = (names.index(tiles.name) + tiles.done / tiles.total) / len(names)
    of = f", {tiles.done} of {tiles.total} tiles done" if tiles.total > 1 else ""
    return f"{escape(tiles.name)} is at work{of}{bar(share)}"


def card(index: int, label: str, image: Image.Image, seconds: float | None, quality: Quality | None) -> str:
    """A result in the grid: its image, how long it took and how close it came."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    lines = {}
    if seconds is not None:
        lines["Time"] = f"{seconds:.2f} s"
    if quality:
        lines["PSNR"] = "∞" if math.isinf(quality.psnr) else f"{quality.psnr:.2f} dB"
        lines["SSIM"] = "–" if quality.ssim is None else f"{quality.ssim:.4f}"
    rows = "".join(f'<dt>{what}</dt><dd class="{what.lower()}">{value}</dd>' for what, value in lines.items())
    return (
        f'<button class="card" type="button" data-index="{index}" data-name="{escape(label)}">'
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
        f"<b>{escape(label)}</b><dl>{rows}</dl></button>"
    )


def failed_card(failed: Failure) -> str:
    """A restorer in the grid that made no result."""
    return (
        f'<div class="card" data-name="{escape(failed.name)}"><b>{escape(failed.name)}</b>'
        f'<span class="failure">{escape(failed.sentence)}</span></div>'
    )


def grid(images: Images) -> str:
    """All cards."""
    return f'<div class="cards">{"".join(images.cards)}</div>'


def show_seen(look: Callable[[str], str], photo: Any) -> Any:
    """What is seen in the photograph, before anything is restored; nothing of one that cannot be opened."""
    try:
        path = uploaded(photo)
        return gr.update(value=escape(look(path)), visible=True) if path else gr.update(visible=False)
    except UserError:  # restoring says it
        return gr.update(visible=False)


# --------------------------------------------------------------------------------------------------------- layout


def restore_tab(
    demo: gr.Blocks, restorers: Restorers, look: Callable[[str], str] | None = None
) -> tuple[gr.Image, gr.Image, gr.CheckboxGroup]:
    """Lay out the tab inside the current context, and wire it.

    Args:
        demo: the app; its load event looks for restorers anew.
        look: says what is seen in an image file; None: nothing is said.

    Returns:
        The components of the degraded photograph and of the clean image, for others to send files to, and that of the
        restorers that are chosen.
    """
    with gr.Row():
        with gr.Column(scale=30, min_width=280):
            photo = Photo(
                label="Degraded photograph", sources=["upload", "clipboard"], type="filepath", height=230,
                elem_id="restore-photo", buttons=[],
            )  # fmt: skip
            seen = gr.HTML(elem_id="restore-seen", elem_classes="status", visible=False)
            examples = gr.Examples(
                [[str(_EXAMPLES / name)] for name in EXAMPLES], photo, label="Examples",
                elem_id="restore-examples", preload=False,
            )  # fmt: skip
            clean = Photo(
                label="Clean image, if known", sources=["upload", "clipboard"], type="filepath", height=150,
                elem_id="restore-clean", buttons=[], placeholder="Drop it here for PSNR and SSIM",
            )  # fmt: skip
            choice = gr.CheckboxGroup(label="Restorers", elem_id="restorers")
            notice = gr.HTML(elem_id="restore-notice", visible=False)
            with gr.Row():
                restore_button = gr.Button("Restore", variant="primary", scale=2, min_width=80, elem_id="restore")
                cancel_button = gr.Button("Cancel", interactive=False, min_width=80, elem_id="restore-cancel")
        with gr.Column(scale=82, min_width=320, elem_id="results"):
            status = gr.HTML("Choose a photograph, then Restore.", elem_id="restore-status", elem_classes="status")
            with gr.Row():
                left = gr.Dropdown(label="Left", filterable=False, min_width=120, elem_id="left")
                right = gr.Dropdown(label="Right", filterable=False, min_width=120, elem_id="right")
            comparison = gr.ImageSlider(
                label="Degraded | restored", type="filepath", interactive=False, max_height=340,
                elem_id="comparison", buttons=["fullscreen"],
            )  # fmt: skip
            download = gr.DownloadButton("Download", size="sm", interactive=False, elem_id="download-restored")
            cards = gr.HTML("", js_on_load=COMPARE_ON_CLICK, elem_id="cards")

    for changed in (photo.upload, photo.clear):  # another photograph, another truth
        changed(lambda: None, None, clean, **QUICK)
    for image in (photo, clean):
        image.upload(show_upload, image, image, **QUICK)
    examples.load_input_event.then(clean_of, photo, clean, **QUICK)
    if look:

        def look_at(photo: Any) -> Any:
            return show_seen(look, photo)

        photo.change(look_at, photo, seen, **QUICK)

    images = gr.State()  # Images of the session's photograph
    for side in (left, right):  # whatever chose it: what is shown follows what stands in the boxes
        side.change(compare, [images, left, right], [comparison, download], **QUICK)

    def card_clicked(images: Images | None, event: gr.EventData) -> Any:
        index = event._data.get("index") if isinstance(event._data, dict) else None
        return index if images and _index(images, index) else SKIP

    cards.click(card_clicked, images, right, trigger_mode="always_last", **QUICK)

    def restore_clicked(*values: Any) -> Iterator[tuple[Any, ...]]:
        yield from run_restore(restorers, *values)

    outputs = [status, images, left, right, comparison, download, cards]
    wire_jobs(cancel_button, status, (restore_button, restore_clicked, [choice, photo, clean], outputs))
    _endpoint(restorers)
    demo.load(list_restorers, None, [choice, notice], **QUICK)
    return photo, clean, choice


def _endpoint(loaded: Restorers) -> None:
    """The named endpoint /restore, for programs."""

    def restore(image: str, restorers: list[str] | None = None, clean: str | None = None) -> Iterator[tuple[Any, Any]]:
        """Restore a degraded photograph with one or several restorers.

        Only the image is required. restorers: names, or left out for all of them. clean: the image without the
        degradation, of the same size. Returns the restored images, and JSON: for each restorer the seconds it took,
        and PSNR (dB; null for equal images) and SSIM, null if no clean image is given.
        """
        yield from run_endpoint(loaded, image, restorers, clean)

    with gr.Group(visible=False):
        inputs = [
            Photo(label="Degraded photograph", type="filepath"),
            Names(label="Restorers"),
            Photo(label="Clean image", type="filepath", value=None),
        ]
        outputs = [gr.File(label="Restored", file_count="multiple"), gr.JSON(label="Seconds, PSNR and SSIM")]
        gr.Button("Restore").click(restore, inputs, outputs, api_name="restore", **ALONE)
