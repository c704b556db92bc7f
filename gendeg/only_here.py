"""Only here: how does a person of the page say where the degradation goes? By painting, or by a file that is a mask.

What is painted is uploaded as a file like any other, so that the limits of uploads hold for it (`runtime/uploads.py`).
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from runtime.errors import UserError
from runtime.page import QUICK, failed
from runtime.uploads import Photo, uploaded

# The photograph with a canvas over it; `Date.now()`, as an equal value would keep what is painted there.
_SHOW = """(photo) => photo?.url ? `<!--${Date.now()}--><p>Only here: paint where it is to be</p>
<div><img alt="" src="${photo.url.replaceAll('"', '%22')}"><canvas></canvas></div>` : ''"""
# In white, as a photograph that is painted all over has nothing transparent left, and white is what then counts.
_PAINT = """
let pen = null, latest = 0;
const point = (event) => {
  const {left, top, width, height} = event.target.getBoundingClientRect();
  return [(event.clientX - left) / width * event.target.width, (event.clientY - top) / height * event.target.height];
};
element.addEventListener('pointerdown', (event) => {
  const canvas = event.target, image = canvas.previousElementSibling;
  if (canvas.tagName !== 'CANVAS') return;
  canvas.setPointerCapture(event.pointerId);
  if (!canvas.dataset.begun) {
    const scale = 640 / Math.max(image.naturalWidth, image.naturalHeight);
    canvas.width = Math.max(1, image.naturalWidth * scale);
    canvas.height = Math.max(1, image.naturalHeight * scale);
    canvas.dataset.begun = true;
  }
  pen = canvas.getContext('2d');
  Object.assign(pen, {strokeStyle: 'white', lineWidth: 60, lineCap: 'round', lineJoin: 'round'});
  pen.beginPath();
  pen.moveTo(...point(event));
  pen.lineTo(...point(event));
  pen.stroke();
});
element.addEventListener('pointermove', (event) => {
  if (!pen) return;
  pen.lineTo(...point(event));
  pen.stroke();
});
for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => {
  if (!pen) return;
  const canvas = pen.canvas, stroke = ++latest;  // an upload may end after a later one, or with another photograph here
  canvas.toBlob(async (blob) => {
    const file = await upload(new File([blob], 'mask.png', {type: 'image/png'}));
    if (stroke === latest && canvas.isConnected) trigger('submit', file);
  });
  pen = null;
});
"""


def mask_section(photo: Photo) -> Photo:
    """Lay out the section inside the current context, and wire it.

    Args:
        photo: the component of the photograph; with another one what was marked is forgotten.

    Returns:
        The component of the mask.
    """
    canvas = gr.HTML(
        "", js_on_load=_PAINT, elem_id="paint", label="Only here: paint with finger or mouse", show_label=True
    )
    mask = Photo(
        label="Only here: the mask", sources=["upload", "clipboard"], type="filepath", image_mode=None, height=140,
        elem_id="mask", buttons=[], placeholder="Or drop one, white inside",
    )  # fmt: skip
    photo.change(lambda: None, None, mask, **QUICK)
    for changed in (photo.change, mask.clear, mask.upload):
        changed(None, photo, canvas, js=_SHOW, **QUICK)
    canvas.submit(painted, None, mask, **QUICK)
    return mask


def painted(event: gr.EventData) -> Any:
    """The file that the page has uploaded, for the component of the mask."""
    try:
        return uploaded(event._data)
    except UserError as error:
        failed(error)
        return gr.skip()
