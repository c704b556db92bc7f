"""The Data set tab: photographs in, as files or ZIPs; pairs of clean and degraded images out, in a ZIP.

Functions are plain Python; `data_set_tab` lays the components out and wires them. What a function yields as `SKIP`
leaves its component as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from html import escape
from typing import Any

import gradio as gr

from gendeg.checkpoints import available_models
from gendeg.degradations import DEGRADATIONS
from gendeg.endpoint import CHOICES
from gendeg.jobs import Models
from gendeg.request import MAX_SEED
from gendeg.tab import list_models
from runtime.images import PHOTOGRAPHS
from runtime.limits import limit
from runtime.page import ALONE, QUICK, SKIP, bar, failed, wire_jobs
from runtime.uploads import Files, all_uploaded, files_folder
from training.dataset.jobs import DataSet, Progress, Skipped, make_of_files
from training.dataset.pack import LAYOUTS
from training.dataset.samples import MAX_ATTEMPTS

LAYOUT_CHOICES = list(zip(("Hugging Face image folder", "Folders gt/ and lq/"), LAYOUTS, strict=True))
_LISTED = 20  # of the files that were left out


def run_data_set(
    models: Models, cancelled: threading.Event | None, files: Any, *choices: Any
) -> Iterator[tuple[Any, Any, Any]]:
    """Make a data set.

    Args:
        cancelled: once it is set, it ends with the pairs that are there.
        files: as the browser sends them, see `runtime.uploads.all_uploaded`.
        choices: degradations, pairs of each, layout, whether with maps, seed, model; see `read_request`.

    Yields:
        (status, contact sheet, download).
    """
    try:
        yield "Looking at the photographs…" + bar(0), SKIP, SKIP
        photographs, started, made = all_uploaded(files), time.monotonic(), None
        folders = files_folder(), files_folder()
        with closing(make_of_files(models, folders, photographs, choices, cancelled)) as events:
            for event in events:
                if isinstance(event, DataSet):
                    made = event
                elif isinstance(event, Progress):
                    yield progress(event, time.monotonic() - started), SKIP, SKIP
                else:
                    yield SKIP, SKIP, SKIP
        if made is None:
            yield "Cancelled before the first pair was done.", SKIP, SKIP
        else:
            sheet = gr.update(value=str(made.sheet), visible=True)
            yield summary(made), sheet, gr.update(value=str(made.file), interactive=True)
    except Exception as error:
        yield failed(error), SKIP, SKIP


def run_endpoint(models: Models, files: Any, *choices: Any) -> Iterator[tuple[Any, Any]]:
    """See `data_set` in `_endpoint`, which the API's documentation shows. Yields (ZIP, numbers)."""
    photographs, folders = all_uploaded(files), (files_folder(), files_folder())
    with closing(make_of_files(models, folders, photographs, choices)) as events:
        for event in events:
            if isinstance(event, DataSet):
                yield str(event.file), numbers(event)
            elif isinstance(event, Progress):
                yield SKIP, {"done": event.done, "samples": event.total}
            else:
                yield SKIP, SKIP


def numbers(made: DataSet) -> dict[str, Any]:
    """What a program is told of a data set."""
    return {
        "pairs": sum(made.pairs.values()),
        "pairs_of_each": made.pairs,
        "asked": made.asked,
        "given_up": made.given_up,
        "photographs": made.photographs,
        "skipped": dict(made.skipped[:_LISTED]),
        "skipped_files": len(made.skipped),
        "ended": made.ended,
        "seed": made.seed,
    }


# ----------------------------------------------------------------------------------------------------------- HTML


def progress(event: Progress, seconds: float) -> str:
    """Status line of a running job that has taken so long by now."""
    share = event.done / event.total
    if event.degradation is None:
        return f"Packing {event.total} pairs…{bar(1)}"
    left = seconds * (1 - share) / share if share else 0
    time_left = f", {_duration(left)} left" if left else ""
    of = DEGRADATIONS[event.degradation].label.lower()
    return f"{event.done} of {event.total} pairs made, now {of}{time_left}{bar(share)}"


def _duration(seconds: float) -> str:
    return f"about {seconds / 60:.0f} minutes" if seconds >= 90 else "about a minute" if seconds >= 30 else "seconds"


def summary(made: DataSet) -> str:
    """Status of a data set that is there: how much it holds, why not all that was asked for, what was left out."""
    pairs, photographs = sum(made.pairs.values()), _counted(made.photographs, "photograph")
    if made.ended:
        text = f"{escape(made.ended)} The ZIP holds {pairs} of the {_counted(made.asked, 'pair')} asked for."
    else:
        text = f"Done: the ZIP holds {_counted(pairs, 'pair')} of {photographs}."
    if made.given_up:
        text += f" {made.given_up} came out too weak or too strong {MAX_ATTEMPTS} times, and were given up."
    return text + left_out(made.skipped)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def left_out(skipped: Skipped) -> str:
    """The list of files that were left out, each with its reason."""
    if not skipped:
        return ""
    # A reason begins with the name of the file, but not with the ZIP or the folder that it lies in.
    lines = [escape(why if why.startswith(name) else f"{name}: {why}") for name, why in skipped[:_LISTED]]
    lines += [f"and {len(skipped) - _LISTED} more"] if len(skipped) > _LISTED else []
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f" {_counted(len(skipped), 'file')} left out:<ul>{items}</ul>"


# --------------------------------------------------------------------------------------------------------- layout


def data_set_tab(demo: gr.Blocks, models: Models) -> None:
    """Lay out the tab inside the current context, and wire it.

    Args:
        demo: the app; its load event lists the models.
    """
    names = list(available_models())
    with gr.Row():
        with gr.Column(scale=40, min_width=280):
            files = Files(
                label="Clean photographs, or ZIPs of them", file_count="multiple", file_types=[".zip", *PHOTOGRAPHS],
                height=220, elem_id="data-set-files",
            )  # fmt: skip
            degradations = gr.CheckboxGroup(
                CHOICES, value=list(DEGRADATIONS), label="Degradations", elem_id="data-set-degradations"
            )
            with gr.Row():
                per_image = gr.Number(
                    1, label="Pairs of each", info="For every photograph and degradation.", precision=0, minimum=1,
                    min_width=120, elem_id="per-image",
                )  # fmt: skip
                seed = gr.Number(
                    0, label="Seed", info="Equal seeds give equal pairs.", precision=0, min_width=120,
                    elem_id="data-set-seed",
                )  # fmt: skip
            layout = gr.Radio(LAYOUT_CHOICES, value=LAYOUTS[0], label="Layout of the ZIP", elem_id="layout")
            maps = gr.Checkbox(False, label="Degradation maps too", elem_id="maps")
            model = gr.Dropdown(
                names, value=names[0], label="Model", filterable=False, elem_id="data-set-model"
            )  # fmt: skip
            with gr.Row():
                make_button = gr.Button("Make pairs", variant="primary", scale=2, min_width=80, elem_id="make-pairs")
                cancel_button = gr.Button("Cancel", interactive=False, min_width=80, elem_id="data-set-cancel")
        with gr.Column(scale=72, min_width=320):
            status = gr.HTML(
                "Intensities are drawn as real data sets have them, and written down for every pair. Images have the "
                "size at which the model works (Degrade, More: working size), not the photograph's own. Up to "
                f"{limit('GENDEG_MAX_PHOTOGRAPHS')} photographs and {limit('GENDEG_MAX_PAIRS')} pairs at once; files "
                f"of up to {limit('GENDEG_MAX_MEGABYTES')} megabytes, unpacked "
                f"{limit('GENDEG_MAX_UNPACKED_MEGABYTES')} in all.",
                elem_id="data-set-status", elem_classes="status",
            )  # fmt: skip
            download = gr.DownloadButton("Download ZIP", interactive=False, elem_id="download-pairs")
            sheet = gr.Image(
                label="Some of the pairs", show_label=False, interactive=False, visible=False, elem_id="sheet",
                buttons=["fullscreen"],
            )  # fmt: skip

    def make_clicked(*values: Any) -> Iterator[tuple[Any, Any, Any]]:
        yield from run_data_set(models, *values)

    inputs = [files, degradations, per_image, layout, maps, seed, model]
    wire_jobs(cancel_button, status, (make_button, make_clicked, inputs, [status, sheet, download]))
    demo.load(list_models, None, model, **QUICK)
    _endpoint(models)


def _endpoint(models: Models) -> None:
    """The named endpoint /data_set, for programs."""

    def data_set(
        photographs: list[str],
        degradations: list[str] | None = None,
        per_image: int = 1,
        layout: str = "imagefolder",
        maps: bool = False,
        seed: int = 0,
        model: str | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Make a data set of pairs from photographs.

        Only the photographs are required: a list of image files, and of ZIPs of them. degradations: a list of haze,
        rain, snow, motion_blur, raindrop, low_light; left out: all. per_image: how many pairs of each a photograph
        gets, at intensities drawn as real data sets have them. layout: imagefolder, which Hugging Face's `datasets`
        loads, or folders, gt/ and lq/ with equal names. maps: the degradation maps |clean - degraded| too. model: as
        in the app's list; left out: the first.
        Returns a ZIP with the pairs, metadata.jsonl and a card, and JSON: the number of pairs, of all and of each
        degradation, how many samples were given up as no intensity was accepted, the files that were left out and
        why, and in "ended" why there are fewer pairs than asked for, if its time was over.
        """
        yield from run_endpoint(models, photographs, degradations, per_image, layout, maps, seed, model or None)

    with gr.Group(visible=False):
        inputs = [
            Files(label="Photographs", file_count="multiple"),
            gr.Dropdown(
                CHOICES, label="Degradations", value=None, multiselect=True, allow_custom_value=True
            ),
            gr.Number(label="Pairs of each", value=1),
            gr.Textbox(label="Layout: imagefolder or folders", value=LAYOUTS[0]),
            gr.Checkbox(label="Degradation maps", value=False),
            gr.Number(label=f"Seed, 0 to {MAX_SEED}", value=0),
            gr.Textbox(label="Model", value=None),
        ]  # fmt: skip
        gr.Button("Make pairs").click(
            data_set, inputs, [gr.File(label="Pairs"), gr.JSON(label="What the ZIP holds")],
            api_name="data_set", **ALONE,
        )  # fmt: skip
