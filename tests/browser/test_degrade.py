"""A person in a browser: uploads a photograph, chooses a degradation, generates, and sees what was reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import app
from gendeg import checkpoints
from gendeg.pipeline import GenDegPipeline
from gendeg.prior import PRIOR
from tests.gendeg.test_captions import tiny_blip2

PHOTO = Path(skimage.__file__).parent / "data" / "coffee.png"


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()


def choose(page: Page, degradation: str) -> None:
    page.click("#degradation input")
    page.get_by_role("option", name=degradation).click()
    page.locator(f'#plot svg[aria-label^="Real intensities of {degradation}"]').wait_for()


def upload(page: Page) -> None:
    page.set_input_files("#photo input[type=file]", PHOTO)
    page.locator("#photo img").wait_for()


def test_degrade(page: Page, screenshot: Callable[..., None]) -> None:
    upload(page)
    choose(page, "Snow")
    page.click("#generate")
    page.wait_for_function("parseFloat(document.querySelector('#reached-mu')?.textContent) > 0")
    assert 0 < float(page.inner_text("#reached-sigma")) < 1
    assert page.inner_text("#asked-mu") == "0.057"
    expect(page.locator("#result img")).to_have_count(2)
    for image in page.locator("#result img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    with page.expect_download() as download:
        page.click("#download-degraded")
    assert download.value.suggested_filename.startswith("coffee-snow-")
    screenshot(page, "degrade")


def test_only_where_it_is_painted(page: Page) -> None:
    upload(page)
    page.click("#advanced button")
    canvas = page.locator("#paint canvas")
    expect(page.locator("#mask img")).to_have_count(0)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 5)
    page.mouse.up()
    page.locator("#mask img").wait_for()
    page.click("#generate")
    expect(page.locator("#numbers")).to_contain_text("In the mask")
    with page.expect_download() as download:
        page.click("#download-degraded")
    degraded = np.asarray(Image.open(download.value.path())).astype(int)
    changed = np.abs(degraded - np.asarray(Image.open(PHOTO))).mean((1, 2))
    assert changed[:10].min() > 1 and not changed[200:].any()
    page.locator("#mask").get_by_label("Remove Image").click()
    expect(page.locator("#mask img")).to_have_count(0)
    assert canvas.evaluate("canvas => canvas.dataset.begun") is None, "what was painted is gone"


def test_sweep(page: Page) -> None:
    upload(page)
    page.click("#sweep")
    page.locator("#sweep-figure img").wait_for()
    expect(page.locator("#status")).to_contain_text("Done")


def test_no_photograph_is_a_sentence(page: Page) -> None:
    page.click("#generate")
    expect(page.locator("#status")).to_contain_text("There is no photograph yet")
    expect(page.locator("#generate")).to_be_enabled()


def test_cancel(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = GenDegPipeline.decode

    def slow_decode(self: GenDegPipeline, latents: torch.Tensor) -> torch.Tensor:  # previews: six in a run
        time.sleep(2)
        return decode(self, latents)

    monkeypatch.setattr(GenDegPipeline, "decode", slow_decode)
    upload(page)
    page.click("#advanced button")
    page.fill("#steps input[type=number]", "100")
    page.keyboard.press("Tab")
    page.click("#generate")
    expect(page.locator("#status")).to_contain_text("Step")
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#generate")).to_be_enabled()


def test_plot_and_real_data_choose_the_intensity(page: Page) -> None:
    choose(page, "Low light")
    mu = page.locator("#mu input[type=number]")
    expect(mu).to_have_value("0.2")
    page.locator("#plot svg").click(position={"x": 100, "y": 100})
    expect(mu).not_to_have_value("0.2")
    page.wait_for_timeout(300)
    chosen = mu.input_value()
    page.click("#draw")
    expect(mu).not_to_have_value(chosen)


def test_a_second_degradation_is_light_moderate_or_heavy(page: Page) -> None:
    page.click("#advanced button")
    expect(page.locator("#strength-2")).to_be_hidden()
    page.click("#degradation-2 input")
    page.get_by_role("option", name="Rain", exact=True).click()
    mu = page.locator("#mu-2 input[type=number]")
    for strength in ("light", "heavy"):
        page.locator("#strength-2").get_by_label(strength.capitalize()).check()
        expect(mu).to_have_value(f"{PRIOR.strengths('rain')[strength][0]:g}")
    mu.fill("0.1")
    page.keyboard.press("Tab")
    expect(page.locator("#strength-2 input:checked")).to_have_count(0)
    page.click("#degradation-2 input")
    page.get_by_role("option", name="Nothing").click()
    expect(page.locator("#strength-2")).to_be_hidden()


def test_another_model_brings_its_settings(
    page: Page,
    tiny_paper_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    screenshot: Callable[..., None],
) -> None:
    (tmp_path / "paper").symlink_to(tiny_paper_folder)
    monkeypatch.setattr(checkpoints, "MODELS", tmp_path)
    page.reload()
    steps = page.locator("#steps input[type=number]")
    page.click("#advanced button")
    expect(page.locator("#preset")).to_be_hidden()
    page.click("#model input")
    page.get_by_role("option", name=f"{tmp_path.name}/paper").click()
    expect(steps).to_have_value("100")
    expect(page.locator("#structure-correction")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    page.get_by_label("Fast, 15 steps").check()
    expect(steps).to_have_value("15")
    expect(page.locator("#guidance input[type=number]")).to_have_value("7.5")
    screenshot(page, "degrade-advanced", full_page=True)
    page.click("#model input")
    page.get_by_role("option", name="compact").click()
    expect(steps).to_have_value(str(checkpoints.read_settings("compact").num_inference_steps["haze"]))
    expect(page.locator("#preset")).to_be_hidden()
    expect(page.locator("#structure-correction")).to_be_visible()


def test_describe(tiny_pipeline_folder: Path, tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(page.locator("#describe")).to_have_count(0)  # in the app without a captioning model
    monkeypatch.setenv("GENDEG_MODEL", str(tiny_pipeline_folder))
    monkeypatch.setenv("GENDEG_CAPTIONS", tiny_blip2(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    demo = app.build()
    _, url, _ = app.launch(demo, prevent_thread_lock=True, quiet=True)
    try:
        page.goto(url)
        page.click("#advanced button")
        page.click("#describe")
        expect(page.locator("#status")).to_contain_text("There is no photograph yet")
        upload(page)
        page.click("#describe")
        expect(page.locator("#caption textarea")).not_to_have_value("")
    finally:
        demo.close()


def test_one_step_after_the_other_on_a_phone(open_page: Callable[..., Page], screenshot: Callable[..., None]) -> None:
    page = open_page(390, 844)
    upload(page)
    steps = ["#photo", "#degradation", "#strength", "#mu", "#generate", "#status", "#result", "#numbers", "#advanced"]
    boxes = [page.locator(step).bounding_box() for step in steps]
    assert [box["y"] for box in boxes] == sorted(box["y"] for box in boxes)
    for folded in ("#seed", "#model"):
        expect(page.locator(folded)).to_be_hidden()
    page.click("#generate")
    expect(page.locator("#status")).to_contain_text("Done")
    expect(page.locator("#visit img")).to_have_count(1)
    expect(page.locator("#generate")).to_be_in_viewport(ratio=1)
    expect(page.locator("#result")).to_be_in_viewport(ratio=1)
    page.click("#advanced button")
    expect(page.locator("#seed")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for box in (page.locator(wide).bounding_box() for wide in ("#numbers table", "#visit img", "#strength", "#seed")):
        assert 0 <= box["x"] and box["x"] + box["width"] <= 390
    screenshot(page, "degrade-phone", full_page=True)


def test_needs_no_other_server(browser: Browser, app_url: str) -> None:
    page = browser.new_page()
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(app_url)
    page.locator("#generate").wait_for()
    assert addresses and all(a.startswith((app_url, "data:", "blob:")) for a in addresses)
    page.close()
