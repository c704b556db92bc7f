"""The Degrade tab: a photograph, a degradation and an intensity in; the degraded photograph out.

Functions are plain Python; `degrade_tab` lays the components out and wires them. What a function yields as `SKIP`
leaves its component as it is. Changes are answered as `gr.update`: a component made instead would enter any page that
another thread is building.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import skimage
from PIL import Image

from gendeg.call import own_value
from gendeg.captions import available_captioner
from gendeg.checkpoints import PRESETS, available_models, read_settings
from gendeg.degradations import DEGRADATIONS, get_degradation
from gendeg.endpoint import CHOICES, FIRST, degrade_endpoint
from gendeg.estimator import BUNDLED as ESTIMATOR
from gendeg.estimator import estimate_file
from gendeg.figures import (
    colour_degradation_map,
    colour_key,
    difference_figure,
    intensity_plot,
    numbers,
    part_maps,
    slider_range,
    sweep_figure,
)
from gendeg.intensity import MU_MAX, SIGMA_MAX
from gendeg.jobs import Models, Step, describe, model_source
from gendeg.link import link, read_link, texts
from gendeg.only_here import mask_section
from gendeg.prior import PRIOR
from gendeg.request import MAX_SEED, STRUCTURE_CORRECTION, Request, Result, read_request, resolutions
from runtime.errors import UserError
from runtime.images import IN_TURN, open_image
from runtime.jobs import CANCELLED, until
from runtime.page import ALONE, QUICK, SKIP, bar, failed, failure, notes, preview, save_pngs, show_upload, wire_jobs
from runtime.uploads import Photo, uploaded
from runtime.zero_gpu import on_gpu, zero_gpu

EXAMPLES = [
    Path(skimage.__file__).parent / "data" / name
    for name in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
]
GUIDANCE = "How strictly to follow degradation and intensity. 1: off, and faster."
CORRECTION = "Gives the fine structure back that the codec loses. Auto: where the model has learned it."
CORRECTED = "Change by correction, x 8"
IMAGE_GUIDANCE = "How strictly to keep to the photograph. 1: off, and faster."
VISIT, VISIT_SIDE = 12, 512  # pictures of a visit that are kept, and the pixels of their long side
NONE = "none"  # no further degradation
OWN = "own"  # stands for no preset: a component's value must be something
PRESET_CHOICES = [
    ("The model's own", OWN),
    *((f"{name.capitalize()}, {preset.num_inference_steps} steps", name) for name, preset in PRESETS.items()),
]
# A click on the plot chooses the intensity under it.
CHOOSE_ON_CLICK = """
element.addEventListener('click', (event) => {
  const plot = element.querySelector('svg');
  if (!plot) return;
  const {left, right, top, bottom, muLow, muHigh, sigmaLow, sigmaHigh} = plot.dataset;
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
  const x = (point.x - left) / (right - left), y = (bottom - point.y) / (bottom - top);
  if (x < 0 || x > 1 || y < 0 || y > 1) return;
  trigger('click', {mu: +muLow + x * (muHigh - muLow), sigma: +sigmaLow + y * (sigmaHigh - sigmaLow)});
});
"""
CSS = (Path(__file__).parent / "tab.css").read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------- intensity


def draw_intensity(degradation: str) -> tuple[float, float]:
    """(mu, sigma) as real data sets have them."""
    sample = PRIOR.sample(degradation, np.random.default_rng())
    return round(sample.mu, 3), round(sample.sigma, 3)


def change_degradation(degradation: str) -> tuple[Any, Any, str]:
    """Sliders over the degradation's real range, at its typical intensity, and its plot."""
    mu, sigma = get_degradation(degradation).typical
    return *_sliders(degradation, mu, sigma), intensity_plot(degradation, mu, sigma)


def of_strength(degradation: str, strength: str | None) -> tuple[Any, Any]:
    """(mu, sigma) of a light, moderate or heavy degradation."""
    return PRIOR.strengths(degradation).get(strength, (SKIP, SKIP))  # type: ignore[return-value]


def run_like(photo: Any) -> tuple[Any, ...]:
    """What makes a photograph look like another: (status, degradation, mu, sigma, plot, strength)."""
    try:
        path = uploaded(photo)
        if not path:
            return (SKIP,) * 6
        estimate = estimate_file(path)
        if estimate.degradation is None:
            return f"{estimate} There is nothing to be made like it.", *[SKIP] * 5
        mu, sigma = min(round(estimate.mu, 3), MU_MAX), min(round(estimate.sigma, 3), SIGMA_MAX)  # can be asked for
        sliders = _sliders(estimate.degradation, mu, sigma)
        return str(estimate), estimate.degradation, *sliders, intensity_plot(estimate.degradation, mu, sigma), None
    except Exception as error:
        return failed(error), *[SKIP] * 5


def change_also(degradation: str) -> tuple[Any, Any, Any]:
    """(strength, mu, sigma) of a further degradation, shown where one is chosen."""
    if degradation == NONE:
        return (gr.update(visible=False),) * 3
    return gr.update(value="moderate", visible=True), *change_degradation(degradation)[:2]


def chosen_on_plot(event: gr.EventData) -> tuple[Any, Any]:
    """(mu, sigma) under a click on the plot."""
    point = event._data if isinstance(event._data, dict) else {}
    return tuple(_on_slider(point.get(name), limit) for name, limit in (("mu", MU_MAX), ("sigma", SIGMA_MAX)))  # type: ignore


def _on_slider(value: Any, highest: float) -> Any:
    return round(value, 3) if isinstance(value, float | int) and 0 <= value <= highest else SKIP


# --------------------------------------------------------------------------------------------------------- models


def list_models() -> Any:
    """The models to choose from, the first of them chosen."""
    names = list(available_models())
    return gr.update(choices=names, value=names[0])


def model_settings(model: str | None, degradation: str) -> tuple[Any, ...]:
    """What follows a model that was chosen: notice, and the settings under More as it has them itself.

    Returns:
        (notice of a model that is not there, preset, steps, guidance scale, image guidance scale, resolution,
        structure correction).
    """
    try:
        settings = read_settings(model_source(model))
    except UserError as error:
        return gr.update(value=failure(error), visible=True), *[SKIP] * 6
    return (
        gr.update(visible=False),
        gr.update(value=OWN, visible=bool(settings.presets)),
        own_value(settings.num_inference_steps, degradation),
        own_value(settings.guidance_scale, degradation),
        settings.image_guidance_scale,
        min(max(settings.resolution, resolutions()[0]), resolutions()[1]),
        gr.update(value="auto", visible=settings.structure_correction),
    )


def preset_settings(model: str | None, degradation: str, preset: str) -> tuple[Any, Any, Any]:
    """(steps, guidance scale, image guidance scale) of a preset, or the model's own for a degradation."""
    try:
        own = PRESETS[preset] if preset != OWN else read_settings(model_source(model))
    except UserError:
        return SKIP, SKIP, SKIP  # the notice says it already
    steps, scale = (own_value(value, degradation) for value in (own.num_inference_steps, own.guidance_scale))
    return steps, scale, own.image_guidance_scale


def settings_of_degradation(model: str | None, degradation: str, preset: str) -> tuple[Any, Any]:
    """(steps, guidance scale), where the model has one for each degradation: they follow the one that was chosen."""
    try:
        own = read_settings(model_source(model))
    except UserError:
        return SKIP, SKIP
    values = (own.num_inference_steps, own.guidance_scale)
    steps, scale = (own_value(v, degradation) if preset == OWN and isinstance(v, dict) else SKIP for v in values)
    return steps, scale


def prepare_model(models: Models, model: str | None, unless_loaded: bool = False) -> None:
    """Begin to load a model, when the jobs before are done. Jobs wait for it; the next one says what is wrong with it.

    Not a job in the queue: whoever generates meanwhile would wait for a turn that is not theirs. See `Models.prepare`.
    """

    def load() -> None:
        with suppress(UserError):
            models.prepare(model, unless_loaded)

    threading.Thread(target=load, daemon=True).start()


# -------------------------------------------------------------------------------------------------------- running


def run_generate(
    models: Models,
    cancelled: threading.Event | None,
    randomise: bool,
    model: str | None,
    photo: Any,
    degradation: str,
    mu: float,
    sigma: float,
    seed: Any,
    *settings: Any,
) -> Iterator[tuple[Any, ...]]:
    """Degrade one photograph.

    Args:
        cancelled: once it is set, the work stops at its next step.
        model: one of `available_models()`; None: the first.
        photo: file as the browser sends it, see `runtime.uploads.uploaded`.
        settings: steps, guidance scale, image guidance scale, resolution, output size, caption, structure correction,
            preset, mask file; then degradation (or NONE), mu and sigma of each further one.

    Yields:
        (status, seed, (clean, degraded) images, degradation map, its colour key, the map of each part of a mixture,
            what structure correction changed, numbers, degraded and clean file, what sends both to the Restore tab).
    """
    if randomise:
        seed = int(np.random.default_rng().integers(MAX_SEED))
    try:
        request = _read(model, photo, degradation, mu, sigma, seed, *settings)
        files = [gr.update(value=None, interactive=False)] * 2
        send = gr.update(interactive=False)
        begun = progress(None, models.loaded(model))
        hidden = [gr.update(visible=False)] * 2
        yield begun, seed, None, None, "", *hidden, numbers(request), *files, send
        clean = None
        for event in until(cancelled, models.generate(request, model)):
            if event is CANCELLED:
                yield CANCELLED, *[SKIP] * 10
            elif isinstance(event, Step):
                images = SKIP
                if event.preview is not None:
                    clean = clean or request.photo.resize(event.preview.size, Image.Resampling.LANCZOS)
                    images = (clean, event.preview)
                yield progress(event), SKIP, images, *[SKIP] * 8
            elif isinstance(event, Result):
                degradation_map, brightest = colour_degradation_map(event.degradation_map)
                kinds = "+".join(part.degradation for part in request.parts)
                stem = f"{Path(photo['path']).stem[:60]}-{kinds}-{seed}"
                files = save_pngs({f"{stem}-degraded": event.degraded, f"{stem}-clean": event.clean}, texts(request))
                size = f"{event.degraded.width} × {event.degraded.height}"
                corrected = event.uncorrected and difference_figure(event.uncorrected, event.corrected)
                yield (
                    f"Done: {size} pixels, seed {seed}.{notes(request.photo)} {_anchor(request)}",
                    SKIP,
                    (preview(event.clean), preview(event.degraded)),
                    degradation_map,
                    colour_key(brightest),
                    gr.update(value=part_maps(event), visible=bool(event.parts)),
                    gr.update(value=corrected, visible=corrected is not None),
                    numbers(request, event),
                    *(gr.update(value=file, interactive=True) for file in files),
                    gr.update(interactive=True),
                )
            else:
                yield (SKIP,) * 11
    except Exception as error:
        yield failed(error), *[SKIP] * 10


def run_sweep(
    models: Models,
    cancelled: threading.Event | None,
    model: str | None,
    photo: Any,
    degradation: str,
    mu: float,
    sigma: float,
    seed: Any,
    *settings: Any,
) -> Iterator[tuple[Any, Any]]:
    """Render the figure of rising mu and rising sigma. Arguments as above. Yields (status, figure)."""
    try:
        request = _read(model, photo, degradation, mu, sigma, seed, *settings)
        yield progress(None, models.loaded(model)), SKIP
        for event in until(cancelled, models.sweep(request, model)):
            if event is CANCELLED:
                yield CANCELLED, SKIP
            elif isinstance(event, list):
                yield f"Done: the sweep is below, seed {seed}.", gr.update(value=sweep_figure(event), visible=True)
            else:
                yield SKIP if event is None else progress(event), SKIP
    except Exception as error:
        yield failed(error), SKIP


def _read(
    model: str | None, photo: Any, degradation: str, mu: float, sigma: float, seed: Any, *settings: Any
) -> Request:
    """Raises a UserError for what cannot be done."""
    sampling, others, (preset, mask), also = settings[:3], settings[3:7], settings[7:9], settings[9:]
    parts = [also[i : i + 3] for i in range(0, len(also), 3) if also[i] != NONE]
    if parts:  # what is left as the first degradation has it is, for the others, as they have it
        own = preset_settings(model, degradation, preset)
        sampling = [None if value == its_own else value for value, its_own in zip(sampling, own, strict=True)]
    preset = None if preset == OWN else preset
    files = uploaded(photo), uploaded(mask)
    return read_request(files[0], degradation, mu, sigma, seed, *sampling, *others, preset, parts, files[1])


def remember(visit: list[tuple[str, str, str]] | None, file: str | None) -> tuple[Any, Any]:
    """(small pictures of this visit, their names and files, newest first; the same to be shown) with one more result.

    Args:
        file: of the degraded image; None where there is none. Where nothing came of a click, it is still the last one.
    """
    try:
        path = uploaded(file and {"path": file})
        if not path or (visit and visit[0][2] == path):
            return SKIP, SKIP
        with IN_TURN:
            small = open_image(path)
            small.thumbnail((VISIT_SIDE, VISIT_SIDE))
        name = Path(path).stem.removesuffix("-degraded")
        there = [entry for entry in visit or [] if Path(entry[0]).is_file()]  # they last as long as other files do
        visit = [(save_pngs({name: small})[0], name, path), *there][:VISIT]
        return visit, gr.update(value=[entry[:2] for entry in visit], visible=True)
    except UserError:  # it was deleted meanwhile
        return SKIP, SKIP


def run_describe(caption_of: Callable[[str | None], str], photo: Any) -> tuple[Any, Any]:
    """(scene caption, status) for the photograph."""
    try:
        return caption_of(uploaded(photo)), "Described. The scene caption is yours to change."
    except Exception as error:
        return SKIP, failed(error)


def from_link(query: Mapping[str, str]) -> tuple[Any, ...]:
    """What the address of the page asks for.

    Returns:
        (status, the fold of mixtures, degradation, mu, sigma, plot, strength, seed, randomise, then degradation,
        strength, mu and sigma of each further one).
    """
    asked = read_link(query)
    if asked is None:
        return (SKIP,) * 17
    first, *others = asked.parts
    also: list[Any] = []
    for part in others:
        strength = gr.update(value=None, visible=True)
        also += [part.degradation, strength, *_sliders(part.degradation, part.mu, part.sigma)]
    also += [SKIP] * (8 - len(also))
    sliders = _sliders(first.degradation, first.mu, first.sigma)
    plot = intensity_plot(first.degradation, first.mu, first.sigma)
    seed = (SKIP, SKIP) if asked.seed is None else (asked.seed, False)
    kinds = " and ".join(get_degradation(part.degradation).label.lower() for part in asked.parts)
    said = f"The link has set {kinds}. Choose the photograph, then Generate."
    fold = gr.update(open=True) if others else SKIP
    return said, fold, first.degradation, *sliders, plot, None, *seed, *also


def _sliders(degradation: str, mu: float, sigma: float) -> list[Any]:
    """Of mu and sigma, over what real data hold of a degradation, and what is asked."""
    return [
        gr.update(minimum=min(low, value), maximum=max(high, value), value=value, visible=True)
        for (low, high), value in zip(slider_range(degradation), (mu, sigma), strict=True)
    ]


# ----------------------------------------------------------------------------------------------------------- HTML


def _anchor(request: Request) -> str:
    but = " (but the mask)" if request.mask else ""
    return f'<a href="{escape(link(request))}" target="_blank">Link to these settings</a>{but}'


def progress(step: Step | None, loaded: bool = True) -> str:
    """Status line of a running job; None: it has not come to its first step, with its model loaded or not yet."""
    if step is None:
        return f"{'Starting' if loaded else 'Loading the model'}…{bar(0)}"
    share = bar((step.part + step.done / step.total) / step.parts)
    which = f"Degradation {step.part + 1} of {step.parts}: " if step.parts > 1 else ""
    if step.done == step.total:
        return f"{which}Carrying it over to the photograph…{share}"
    return f"{which}Step {step.done} of {step.total}{share}"


# --------------------------------------------------------------------------------------------------------- layout


def degrade_tab(demo: gr.Blocks, models: Models) -> tuple[gr.Button, gr.DownloadButton, gr.DownloadButton]:
    """Lay out the tab inside the current context, and wire it.

    Args:
        demo: the app; its load event lists the models and shows the first one's settings.

    Returns:
        The button that sends a result to the Restore tab, enabled while there is one, and the components that hold the
        files of its degraded and its clean image.
    """
    mu_range, sigma_range = slider_range(FIRST)
    mu_typical, sigma_typical = DEGRADATIONS[FIRST].typical
    strengths = [(name.capitalize(), name) for name in PRIOR.strengths(FIRST)]
    captioner, names = available_captioner(), list(available_models())
    notice = gr.HTML(elem_id="notice", visible=False)
    with gr.Row(elem_id="degrade"):
        with gr.Column(scale=30, min_width=280):
            photo = Photo(
                label="Photograph", sources=["upload", "clipboard"], type="filepath", image_mode=None, height=270,
                elem_id="photo", buttons=[],
            )  # fmt: skip
            gr.Examples([[str(path)] for path in EXAMPLES], photo, label="Examples", elem_id="examples", preload=False)
        with gr.Column(scale=32, min_width=280):
            degradation = gr.Dropdown(
                CHOICES, value=FIRST, label="Degradation", filterable=False, elem_id="degradation"
            )
            with gr.Group(elem_id="intensity"):
                strength = gr.Radio(
                    strengths, value="moderate", label="Intensity, as real photographs have it", elem_id="strength",
                )  # fmt: skip
                plot = gr.HTML(
                    intensity_plot(FIRST, mu_typical, sigma_typical), js_on_load=CHOOSE_ON_CLICK, elem_id="plot"
                )
                mu = gr.Slider(*mu_range, mu_typical, step=0.001, label="Mean μ", elem_id="mu")
                sigma = gr.Slider(*sigma_range, sigma_typical, step=0.001, label="Deviation σ", elem_id="sigma")
                draw = gr.Button("Draw from real data", size="sm", elem_id="draw")
            with gr.Row(elem_id="actions"):
                generate_button = gr.Button("Generate", variant="primary", scale=2, min_width=80, elem_id="generate")
                cancel_button = gr.Button("Cancel", interactive=False, min_width=80, elem_id="cancel")
        with gr.Column(scale=50, min_width=320):
            status = gr.HTML("Choose a photograph, then Generate.", elem_id="status", elem_classes="status")
            compare = gr.ImageSlider(
                label="Clean | degraded", type="pil", format="png", interactive=False, max_height=430, elem_id="result",
                buttons=["fullscreen"],
            )  # fmt: skip
            with gr.Row(elem_id="outcome"):
                with gr.Column(min_width=220):
                    table = gr.HTML(numbers(), elem_id="numbers")
                    degraded_file = gr.DownloadButton(
                        "Download degraded", size="sm", interactive=False, elem_id="download-degraded"
                    )
                    clean_file = gr.DownloadButton(
                        "Download clean", size="sm", interactive=False, elem_id="download-clean"
                    )
                    send_button = gr.Button("Send to Restore", size="sm", interactive=False, elem_id="send")
                    sweep_button = gr.Button("Sweep μ and σ", size="sm", elem_id="sweep")
                with gr.Column(min_width=220):
                    map_image = gr.Image(
                        label="Degradation map", format="png", height=180, interactive=False,
                        elem_id="degradation-map", buttons=[],
                    )  # fmt: skip
                    key = gr.HTML("", elem_id="map-key")
                    parts = gr.Gallery(
                        label="Degradation map of each", format="png", columns=2, height=180, object_fit="contain",
                        interactive=False, visible=False, elem_id="part-maps", buttons=[],
                    )  # fmt: skip
                    correction_image = gr.Image(
                        label=CORRECTED, format="png", height=180, interactive=False, visible=False,
                        elem_id="correction-map", buttons=[],
                    )  # fmt: skip
        with gr.Column(scale=30, min_width=280, elem_id="rest"):
            with gr.Accordion("Like a real photograph", open=False, visible=ESTIMATOR.is_dir(), elem_id="like-fold"):
                like = Photo(
                    label="Photograph of real weather", sources=["upload", "clipboard"], type="filepath",
                    image_mode=None, height=140, elem_id="like", buttons=[], placeholder="What it shows will be set",
                )  # fmt: skip
            with gr.Accordion("More: mixtures, mask, seed, model", open=False, elem_id="advanced") as more:
                with gr.Row(elem_id="seeds"):
                    seed = gr.Number(0, label="Seed", precision=0, min_width=120, elem_id="seed")
                    randomise = gr.Checkbox(True, label="Randomise", scale=0, min_width=145, elem_id="randomise")
                model = gr.Dropdown(
                    names, value=names[0], label="Model", info="Bundled, or in the folder models/.",
                    filterable=False, elem_id="model",
                )  # fmt: skip
                also, also_addressed = [], []
                for number, label in ((2, "Also add"), (3, "And also")):
                    kind = gr.Dropdown(
                        [("Nothing", NONE), *CHOICES], value=NONE, label=label, filterable=False,
                        elem_id=f"degradation-{number}",
                    )  # fmt: skip
                    level = gr.Radio(
                        strengths, value="moderate", label="Intensity of this one", visible=False,
                        elem_id=f"strength-{number}",
                    )  # fmt: skip
                    sliders = [
                        gr.Slider(*limits, step=0.001, label=name, visible=False, elem_id=f"{elem}-{number}")
                        for limits, name, elem in (
                            (mu_range, "Mean μ of this one alone", "mu"),
                            (sigma_range, "Deviation σ of this one alone", "sigma"),
                        )
                    ]
                    kind.input(change_also, kind, [level, *sliders], **QUICK)
                    level.input(of_strength, [kind, level], sliders, **QUICK)
                    for slider in sliders:
                        slider.input(lambda: None, None, level, **QUICK)
                    also += [kind, *sliders]
                    also_addressed += [kind, level, *sliders]
                mask = mask_section(photo)
                preset = gr.Radio(
                    PRESET_CHOICES, value=OWN, label="Preset", info="How to sample; sets the three below.",
                    visible=False, elem_id="preset",
                )  # fmt: skip
                steps = gr.Slider(1, 100, 8, step=1, label="Steps", info="More are slower and finer.", elem_id="steps")
                guidance = gr.Slider(0, 15, 1, step=0.1, label="Guidance scale", info=GUIDANCE, elem_id="guidance")
                image_guidance = gr.Slider(
                    0, 5, 1, step=0.1, label="Image guidance scale", info=IMAGE_GUIDANCE, elem_id="image-guidance"
                )
                resolution = gr.Slider(
                    *resolutions(), resolutions()[0], step=32, label="Working size", elem_id="resolution",
                    info="Short side at which the model works. Streaks, flakes and drops come out finer at a larger.",
                )  # fmt: skip
                output_size = gr.Radio(
                    [("The photograph's own", "photo"), ("Working size", "working")], value="photo",
                    label="Size of the result", elem_id="output-size",
                )  # fmt: skip
                caption = gr.Textbox(
                    label="Scene caption", placeholder="a narrow street between old houses", elem_id="caption",
                    info="What the photograph shows. May stay empty.",
                )  # fmt: skip
                if captioner is not None:
                    describe_button = gr.Button("Describe", size="sm", elem_id="describe")
                correction = gr.Radio(
                    [(name.capitalize(), name) for name in STRUCTURE_CORRECTION], value="auto",
                    label="Structure correction", info=CORRECTION, elem_id="structure-correction",
                )  # fmt: skip
    figure = gr.Image(
        show_label=False, format="png", interactive=False, visible=False, elem_id="sweep-figure",
        buttons=["download", "fullscreen"],
    )  # fmt: skip

    visit = gr.State()  # small pictures of the session's results
    gallery = gr.Gallery(
        label="This visit", columns=6, height=180, object_fit="contain", interactive=False, visible=False,
        elem_id="visit",
    )  # fmt: skip

    drawn = {"fn": intensity_plot, "inputs": [degradation, mu, sigma], "outputs": plot, **QUICK}
    photo.upload(show_upload, photo, photo, **QUICK)
    degradation.input(change_degradation, degradation, [mu, sigma, plot], **QUICK)
    degradation.input(settings_of_degradation, [model, degradation, preset], [steps, guidance], **QUICK)
    mu.change(**drawn)
    sigma.change(**drawn)
    like.upload(run_like, like, [status, degradation, mu, sigma, plot, strength], **QUICK).then(
        settings_of_degradation, [model, degradation, preset], [steps, guidance], **QUICK
    )
    strength.input(of_strength, [degradation, strength], [mu, sigma], **QUICK)
    draw.click(draw_intensity, degradation, [mu, sigma], **QUICK)
    for changed, event in ((mu, "input"), (sigma, "input"), (draw, "click"), (plot, "click")):
        getattr(changed, event)(lambda: None, None, strength, **QUICK)
    degradation.input(lambda: "moderate", None, strength, **QUICK)
    plot.click(chosen_on_plot, None, [mu, sigma], **QUICK)

    settings = [steps, guidance, image_guidance, resolution, output_size, caption, correction, preset, mask, *also]

    def generate_clicked(*values: Any) -> Iterator[tuple[Any, ...]]:
        yield from run_generate(models, *values)

    def sweep_clicked(*values: Any) -> Iterator[tuple[Any, Any]]:
        yield from run_sweep(models, *values)

    request = [model, photo, degradation, mu, sigma, seed, *settings]
    shown = [status, seed, compare, map_image, key, parts, correction_image, table]
    shown += [degraded_file, clean_file, send_button]
    generated, _ = wire_jobs(
        cancel_button,
        status,
        (generate_button, generate_clicked, [randomise, *request], shown),
        (sweep_button, sweep_clicked, request, [status, figure]),
    )
    generated.then(remember, [visit, degraded_file], [visit, gallery], **QUICK)
    degrade_endpoint(models)

    if captioner is not None:

        @on_gpu
        def caption_of(photo: str | None) -> str:
            return describe(captioner, photo)

        def describe_clicked(photo: Any) -> tuple[Any, Any]:
            return run_describe(caption_of, photo)

        describe_button.click(
            describe_clicked, photo, [caption, status], **ALONE, api_visibility="private",
            show_progress="minimal", show_progress_on=status,
        )  # fmt: skip

    def page_address(opened: gr.Request) -> tuple[Any, ...]:
        return from_link(dict(opened.query_params))

    def page_opened(chosen: str | None) -> None:
        prepare_model(models, chosen, unless_loaded=True)  # else another visitor's choice would be thrown out

    def model_chosen(chosen: str | None) -> None:
        prepare_model(models, chosen)

    preset.input(preset_settings, [model, degradation, preset], [steps, guidance, image_guidance], **QUICK)
    own_settings = [notice, preset, steps, guidance, image_guidance, resolution, correction]
    addressed = [status, more, degradation, mu, sigma, plot, strength, seed, randomise, *also_addressed]
    opened = (  # one after the other: the settings are those of the degradation that the address names
        demo.load(page_address, None, addressed, **QUICK)
        .then(list_models, None, model, **QUICK)
        .then(model_settings, [model, degradation], own_settings, **QUICK)
    )
    chosen = model.input(model_settings, [model, degradation], own_settings, **QUICK)
    if not zero_gpu():  # where the app's own process has a GPU to load it on
        opened.success(page_opened, model, None, **QUICK)
        chosen.success(model_chosen, model, None, **QUICK)
    return send_button, degraded_file, clean_file
