"""The second tab's section Robustness: a clean photograph in; how restorers give way as mu rises out.

Generator and restorers do not know each other: whoever builds the page hands in the restorers, as `Measuring`. What a
function yields as `SKIP` leaves its component as it is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from gendeg.endpoint import CHOICES, FIRST
from gendeg.jobs import Models, Step
from gendeg.request import MAX_SEED, read_request
from gendeg.robustness import Picture, Robustness, measured
from runtime.errors import UserError
from runtime.jobs import CANCELLED, until
from runtime.page import ALONE, QUICK, SKIP, Names, bar, failed, notes, save_pngs, show_upload, wire_jobs
from runtime.uploads import Photo, files_folder, uploaded

AS_IT_IS = "as it is"
PLOTS = {"psnr": "PSNR in dB", "ssim": "SSIM"}

# From names of restorers, None for all, to what measures them on pairs (degraded, clean). That yields (share done,
# words), None, a UserError of each restorer that fails, and last a list of each pair's values ("psnr", "nafnet_psnr").
Measure = Callable[[Sequence[tuple[Image.Image, Image.Image]]], Iterator[Any]]
Measuring = Callable[[Any], Measure]


@dataclass(frozen=True)
class Outcome:
    """What comes of it: the curve, its pictures, what is to be said of restorers that failed and of the photograph."""

    curve: Robustness
    pictures: list[Picture]
    failures: list[str]
    notes: str


def rise_and_measure(
    models: Models, measuring: Measuring, names: Any, photo: Any, degradation: str, seed: Any
) -> Iterator[tuple[float, str] | Outcome | None]:
    """Degrade a photograph more and more, and measure restorers on every picture.

    Args:
        names: of restorers.
        photo: file as the browser sends it, see `runtime.uploads.uploaded`.

    Yields:
        (share done, words on what is at work), None at least every third of a second, and the outcome.

    Raises:
        UserError: for anything that cannot be done; the message is a sentence to act on.
    """
    request = read_request(uploaded(photo), degradation, seed=seed)
    measure, shown, failures = measuring(names), [], []
    yield 0.0, "Starting…"
    with closing(models.rise(request)) as events:
        for event in events:
            if isinstance(event, list):
                shown = event
            elif isinstance(event, Step):
                yield event.done / event.total / 2, f"Degrading, step {event.done} of {event.total}"
            else:
                yield None
    with closing(measure([(picture.degraded, picture.clean) for picture in shown])) as events:
        for event in events:
            if isinstance(event, UserError):
                failures.append(str(event))
            elif isinstance(event, list):
                name = Path(uploaded(photo)).name
                rows = [measured(picture, values, name) for picture, values in zip(shown, event, strict=True)]
                curve = Robustness(request.degradation, tuple(rows))
                yield Outcome(curve, shown, failures, notes(request.photo))
            elif event is None:
                yield None
            else:
                yield (1 + event[0]) / 2, event[1]


def run_robustness(
    models: Models, measuring: Measuring, cancelled: threading.Event | None, *values: Any
) -> Iterator[tuple[Any, ...]]:
    """The same for the page; values: names, photograph, degradation, seed.

    Args:
        cancelled: once it is set, the work stops at its next step.

    Yields:
        (status, plot of PSNR, plot of SSIM, gallery, CSV file).
    """
    nothing = [SKIP] * 4
    try:
        for event in until(cancelled, rise_and_measure(models, measuring, *values)):
            if isinstance(event, Outcome):
                failures = "".join(f' <span class="failure">{escape(words)}</span>' for words in event.failures)
                csv = gr.update(value=write_csv(event, values[1]), interactive=True)
                yield (
                    f"Done: {len(event.pictures)} pictures.{event.notes}{failures}",
                    *(gr.update(value=points(event.curve, measure), visible=True) for measure in PLOTS),
                    gr.update(value=[(p.degraded, caption(p)) for p in event.pictures], visible=True),
                    csv,
                )
            elif event is CANCELLED or event is None:
                yield event or SKIP, *nothing
            else:
                yield escape(event[1]) + bar(event[0]), *nothing
    except Exception as error:
        yield failed(error), *nothing


def run_endpoint(models: Models, measuring: Measuring, *values: Any) -> Iterator[tuple[Any, Any, Any]]:
    """See `robustness` in `_endpoint`, which the API's documentation shows. Yields (CSV file, pictures, numbers)."""
    for event in rise_and_measure(models, measuring, *values):
        if isinstance(event, Outcome):
            named = {f"mu-{p.asked[0]:.3f}": p.degraded for p in event.pictures}
            rows = [{name: _finite(value) for name, value in row.items()} for row in event.curve.table()]
            yield write_csv(event, values[1]), save_pngs(named), {"rows": rows, "failures": event.failures}
        else:
            yield SKIP, SKIP, SKIP if event is None else {"share": event[0], "at_work": event[1]}


def points(curve: Robustness, measure: str) -> pd.DataFrame:
    """What a plot shows of "psnr" or "ssim": columns mu (reached), restorer and the measure; finite values alone."""
    found = [  # one restorer after another: colours go by their order
        (row.reached[0], name.removesuffix(measure).removesuffix("_") or AS_IT_IS, row.values[name])
        for name in dict.fromkeys(name for row in curve.rows for name in row.values if name.endswith(measure))
        for row in curve.rows
        if _finite(row.values.get(name)) is not None
    ]
    return pd.DataFrame(found, columns=["mu", "restorer", measure]).astype({"mu": float, measure: float})


def caption(picture: Picture) -> str:
    """What stands under a picture."""
    if not picture.asked[0]:
        return "the photograph"
    return "μ {:.3f}, σ {:.3f}".format(*picture.reached)


def write_csv(outcome: Outcome, photo: Any) -> str:
    """Write the curve for the page to serve; returns the path."""
    path = files_folder() / f"{Path(uploaded(photo)).stem[:60]}-{outcome.curve.degradation}-robustness.csv"
    outcome.curve.write_csv(path)
    return str(path)


def _finite(value: Any) -> Any:
    """JSON and plots know no infinity, the PSNR of equal images."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def robustness_section(models: Models, measuring: Measuring, restorers: gr.CheckboxGroup) -> None:
    """Lay out the section inside the current context, and wire it.

    Args:
        restorers: the component that holds the names of the chosen ones.
    """
    with gr.Accordion("Robustness as μ rises", open=False, elem_id="robustness"), gr.Row():
        with gr.Column(scale=30, min_width=280):
            photo = Photo(
                label="Clean photograph", sources=["upload", "clipboard"], type="filepath", height=230,
                elem_id="robustness-photo", buttons=[],
            )  # fmt: skip
            degradation = gr.Dropdown(
                CHOICES, value=FIRST, label="Degradation", filterable=False, elem_id="robustness-degradation"
            )
            seed = gr.Number(0, label="Seed", precision=0, elem_id="robustness-seed")
            with gr.Row():
                run_button = gr.Button("Measure", variant="primary", scale=2, min_width=80, elem_id="measure")
                cancel_button = gr.Button("Cancel", interactive=False, min_width=80, elem_id="measure-cancel")
        with gr.Column(scale=82, min_width=320):
            status = gr.HTML(
                "Tick restorers above and choose a clean photograph, then Measure.", elem_id="robustness-status",
                elem_classes="status",
            )  # fmt: skip
            with gr.Row():
                plots = [
                    gr.LinePlot(
                        x="mu", y=measure, color="restorer", title=title, x_title="μ reached", y_title=title,
                        height=280, visible=False, buttons=[], elem_id=f"robustness-{measure}",
                    )
                    for measure, title in PLOTS.items()
                ]  # fmt: skip
            gallery = gr.Gallery(
                label="Degraded, at the working size", columns=4, interactive=False, visible=False, format="png",
                elem_id="robustness-pictures", buttons=["fullscreen"],
            )  # fmt: skip
            csv = gr.DownloadButton("Download CSV", size="sm", interactive=False, elem_id="download-robustness")

    photo.upload(show_upload, photo, photo, **QUICK)

    def measure_clicked(*values: Any) -> Iterator[tuple[Any, ...]]:
        yield from run_robustness(models, measuring, *values)

    inputs, outputs = [restorers, photo, degradation, seed], [status, *plots, gallery, csv]
    wire_jobs(cancel_button, status, (run_button, measure_clicked, inputs, outputs))
    _endpoint(models, measuring)


def _endpoint(models: Models, measuring: Measuring) -> None:
    """The named endpoint /robustness, for programs."""

    def robustness(
        image: str, restorers: list[str] | None = None, degradation: str = FIRST, seed: int = 0
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Measure how restorers give way as a degradation grows on a clean photograph.

        Only the image is required. restorers: names, or left out for all of them. degradation: haze, rain, snow,
        motion_blur, raindrop or low_light.
        Returns a CSV file, the degraded pictures at the size at which the generator works, and JSON: "rows" with, for
        each picture, mu and sigma asked, reached and delivered, PSNR (dB; null for equal images) and SSIM of the
        picture and of what each restorer makes of it; "failures" of restorers in words. The first row is the
        photograph itself.
        """
        yield from run_endpoint(models, measuring, restorers, image, degradation, seed)

    with gr.Group(visible=False):
        inputs = [
            Photo(label="Photograph", type="filepath"),
            Names(label="Restorers"),
            gr.Dropdown(CHOICES, value=FIRST, label="Degradation", allow_custom_value=True),
            gr.Number(label=f"Seed, 0 to {MAX_SEED}", value=0),
        ]
        outputs = [
            gr.File(label="CSV"), gr.File(label="Degraded", file_count="multiple"), gr.JSON(label="Rows and failures"),
        ]  # fmt: skip
        gr.Button("Measure").click(robustness, inputs, outputs, api_name="robustness", **ALONE)
