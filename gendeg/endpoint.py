"""What does /degrade, the endpoint for programs, take and give? The same as the tab, by names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from gendeg.degradations import DEGRADATIONS
from gendeg.figures import colour_degradation_map
from gendeg.intensity import MU_MAX, SIGMA_MAX
from gendeg.jobs import Models
from gendeg.link import texts
from gendeg.request import MAX_SEED, Result, read_request, resolutions
from runtime.page import ALONE, SKIP, save_pngs
from runtime.uploads import Photo, uploaded

FIRST = next(iter(DEGRADATIONS))
CHOICES = [(degradation.label, name) for name, degradation in DEGRADATIONS.items()]


def degrade_endpoint(models: Models) -> None:
    """Add it to the page that is being built."""

    def degrade(
        image: str,
        degradation: str = FIRST,
        mu: float | None = None,
        sigma: float | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        resolution: int | None = None,
        output_size: str = "photo",
        caption: str = "",
        structure_correction: str = "auto",
        preset: str | None = None,
        model: str | None = None,
        mask: str | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """Degrade a photograph with a wanted intensity.

        Only the image is required. degradation: haze, rain, snow, motion_blur, raindrop or low_light. mu and sigma:
        mean and standard deviation of the degradation map |clean - degraded| (left out: typical ones). Settings that
        are left out are the model's own. resolution: the short side at which the model works; output_size: that of
        the result, photo (its own), working, or pixels. structure_correction: auto (where
        the model's own is meant for it), on or off. preset, of models that start from noise: fast or paper. model: as
        in the app's list; left out: the first. mask: an image; only where it is white, or opaque, is the photograph
        degraded.
        Returns the degraded image, the clean image aligned with it, the degradation map in false colours, and JSON:
        the intensity asked, reached at the working size, at the output size, and inside the mask; the seed; the value
        that the map's brightest colour stands for; and whether structure was corrected.
        """
        settings = (steps, guidance_scale, image_guidance_scale, resolution, output_size)
        settings += (caption, structure_correction, preset)
        request = read_request(uploaded(image), degradation, mu, sigma, seed, *settings, mask=uploaded(mask))
        for event in models.generate(request, model or None):
            if isinstance(event, Result):
                degradation_map, brightest = colour_degradation_map(event.degradation_map)
                yield (
                    *save_pngs({"degraded": event.degraded, "clean": event.clean}, texts(request)),
                    degradation_map,
                    {
                        "degradation": request.degradation,
                        "asked": {"mu": request.mu, "sigma": request.sigma},
                        "reached": {"mu": event.mu, "sigma": event.sigma},
                        "at_output_size": {"mu": event.delivered_mu, "sigma": event.delivered_sigma},
                        "inside_the_mask": event.inside and dict(zip(("mu", "sigma"), event.inside, strict=True)),
                        "seed": request.seed,
                        "map_maximum": brightest,
                        "structure_correction": event.uncorrected is not None,
                    },
                )
            elif event is not None:
                yield None, None, None, {"step": event.done, "steps": event.total}
            else:
                yield (SKIP,) * 4

    with gr.Group(visible=False):
        inputs = [
            Photo(label="Photograph", type="filepath", image_mode=None),
            gr.Dropdown(CHOICES, value=FIRST, label="Degradation", allow_custom_value=True),
            gr.Number(label=f"Asked mu, 0 to {MU_MAX}", value=None),
            gr.Number(label=f"Asked sigma, 0 to {SIGMA_MAX}", value=None),
            gr.Number(label=f"Seed, 0 to {MAX_SEED}", value=0),
            gr.Number(label="Steps", value=None),
            gr.Number(label="Guidance scale", value=None),
            gr.Number(label="Image guidance scale", value=None),
            gr.Number(label="Resolution, {} to {}".format(*resolutions()), value=None),
            gr.Textbox(label="Output size: photo, working, or a short side", value="photo"),
            gr.Textbox(label="Scene caption", value=""),
            gr.Textbox(label="Structure correction: auto, on or off", value="auto"),
            gr.Textbox(label="Preset: fast or paper", value=None),
            gr.Textbox(label="Model", value=None),
            Photo(label="Mask", type="filepath", image_mode=None),
        ]
        outputs = [gr.Image(label=label, format="png") for label in ("Degraded", "Clean", "Degradation map")]
        trigger = gr.Button("Degrade")
        trigger.click(
            degrade, inputs, [*outputs, gr.JSON(label="Asked and reached")],
            api_name="degrade", **ALONE,
        )  # fmt: skip
