"""The app: python app.py. On Hugging Face Spaces: sdk gradio, app_file app.py.

GENDEG_MODEL names the generator to start with (default: the bundled "compact"); README, "Host it", lists all variables.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from runtime.errors import UserError

with suppress(ImportError):
    import spaces  # noqa: F401  before torch, whose CUDA functions it replaces on a Space with ZeroGPU

import gradio as gr

from gendeg.jobs import Models
from gendeg.tab import CSS, degrade_tab
from restorers.tab import CSS as RESTORE_CSS
from restorers.tab import restore_tab
from runtime.zero_gpu import zero_gpu

ABOUT = """# GenDeg
Puts haze, rain, snow, motion blur, raindrops or low light on a clean photograph, with the intensity (μ, σ) you ask for,
and restores degraded photographs.
"""
SYSTEM_FONTS = ("system-ui", "sans-serif")


def build() -> gr.Blocks:
    """The whole page, not yet served."""
    models = Models()
    if zero_gpu():  # what is loaded before the page is served, every call finds on its GPU
        try:
            models.prepare()
        except UserError as error:
            logging.warning("%s", error)
    with gr.Blocks(title="GenDeg", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as demo:
        gr.Markdown(ABOUT, elem_id="title")
        with gr.Tabs() as tabs:
            with gr.Tab("Degrade", id="degrade"):
                send, degraded, clean = degrade_tab(demo, models)
            with gr.Tab("Restore", id="restore"):
                restore_inputs = restore_tab(demo)
        send.click(
            lambda degraded, clean: (gr.update(selected="restore"), degraded, clean),
            [degraded, clean],
            [tabs, *restore_inputs],
            queue=False,
            api_visibility="private",
        )
    return demo


def launch(demo: gr.Blocks, **options: Any) -> Any:
    """Serve the page with its look; options as for `gr.Blocks.launch`."""
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")
    )
    return demo.queue(max_size=32).launch(
        theme=theme, css=CSS + RESTORE_CSS, footer_links=["api", "settings"], **options
    )


demo = build()

if __name__ == "__main__":
    launch(demo)
