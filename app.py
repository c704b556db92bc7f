"""The app: python app.py. On Hugging Face Spaces: sdk gradio, app_file app.py.

GENDEG_MODEL names the generator to start with (default: the bundled "compact"); docs/security.md lists the limits.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from functools import partial
from typing import Any

with suppress(ImportError):
    import spaces  # noqa: F401  before torch, whose CUDA functions it replaces on a Space with ZeroGPU

if "GRADIO_TEMP_DIR" not in os.environ:  # uploads lie in a folder of this app alone, see runtime/uploads.py
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="gendeg-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

import gradio as gr
from starlette.middleware import Middleware

from gendeg.estimator import BUNDLED as ESTIMATOR
from gendeg.estimator import estimate_file
from gendeg.jobs import Models
from gendeg.robustness_tab import robustness_section
from gendeg.tab import CSS, degrade_tab
from restorers.jobs import Restorers, measuring
from restorers.tab import CSS as RESTORE_CSS
from restorers.tab import restore_tab
from runtime.errors import UserError
from runtime.jobs import end_unheard_jobs
from runtime.limits import limit, max_bytes
from runtime.requests import HANDLERS, Page
from runtime.uploads import UploadGate, uploaded
from runtime.zero_gpu import zero_gpu
from training.dataset.tab import data_set_tab

ABOUT = """# GenDeg
Puts haze, rain, snow, motion blur, raindrops or low light on clean photographs, as strong as you ask for; restores
degraded ones; makes data sets of pairs.
"""
SESSIONS = 500  # of visitors and API calls, half a megabyte each; then the one that was idle longest is forgotten
SYSTEM_FONTS = ("system-ui", "sans-serif")


def build() -> gr.Blocks:
    """The whole page, not yet served."""
    models, restorers = Models(), Restorers()
    if zero_gpu():  # what is loaded before the page is served, every call finds on its GPU
        try:
            models.prepare()
        except UserError as error:
            logging.warning("%s", error)
    with Page(title="GenDeg", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as demo:
        gr.Markdown(ABOUT, elem_id="title")
        with gr.Tabs() as tabs:
            with gr.Tab("Degrade", id="degrade"):
                send, degraded, clean = degrade_tab(demo, models)
            with gr.Tab("Restore", id="restore"):
                *restore_inputs, chosen = restore_tab(demo, restorers, look if ESTIMATOR.is_dir() else None)
                robustness_section(models, partial(measuring, restorers), chosen)
            with gr.Tab("Data set", id="data-set"):
                data_set_tab(demo, models)
        send.click(
            send_to_restore,
            [degraded, clean],
            [tabs, *restore_inputs],
            preprocess=False,
            queue=False,
            api_visibility="private",
        )
    return demo


def look(photo: str) -> str:
    """What a photograph shows, for the Restore tab."""
    return str(estimate_file(photo))


def send_to_restore(*files: Any) -> tuple[Any, ...]:
    """(the Restore tab, degraded and clean photograph) for the files of the Degrade tab's result."""
    try:
        return gr.update(selected="restore"), *map(uploaded, files)
    except UserError as error:
        gr.Warning(str(error))
        return (gr.skip(),) * 3


def launch(demo: gr.Blocks, **options: Any) -> Any:
    """Serve the page with its look; options as for `gr.Blocks.launch`."""
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")
    )
    return demo.queue(max_size=limit("GENDEG_MAX_WAITING")).launch(
        theme=theme,
        css=CSS + RESTORE_CSS,
        footer_links=["api", "settings"],
        max_file_size=max_bytes(),
        state_session_capacity=SESSIONS,
        enable_monitoring=False,
        run_history=False,  # it acts with the host's own Hugging Face token for requests that look local
        app_kwargs={
            "lifespan": end_unheard_jobs,
            "middleware": [Middleware(UploadGate)],
            "exception_handlers": HANDLERS,
        },
        **options,
    )


demo = build()

if __name__ == "__main__":
    launch(demo)
