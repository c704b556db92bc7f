"""A person in a browser: degrades a photograph, sends it over, restores it, and compares what came out."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from restorers import registry
from restorers.nafnet import NAFNet
from restorers.swin import SwinRestorer

PHOTO = Path(skimage.__file__).parent / "data" / "coffee.png"


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """The Restore tab, just opened."""
    page = open_page()
    page.get_by_role("tab", name="Restore").click()
    expect(page.locator("#restore")).to_be_visible()
    return page


def upload(page: Page, file: Path, where: str = "#restore-photo") -> None:
    page.set_input_files(f"{where} input[type=file]", file)
    page.locator(f"{where} img").wait_for()


def choose_only(page: Page, *names: str) -> None:
    for name in ("nafnet", "promptir", "swin"):
        page.locator("#restorers").get_by_label(name).set_checked(name in names)


def degrade_send_restore(page: Page) -> None:
    page.set_input_files("#photo input[type=file]", PHOTO)
    page.locator("#photo img").wait_for()
    expect(page.locator("#send")).to_be_disabled()
    page.click("#generate")
    expect(page.locator("#status")).to_contain_text("Done", timeout=60_000)
    expect(page.locator("#send")).to_be_enabled()
    page.click("#send")
    for where in ("#restore-photo", "#restore-clean"):
        expect(page.locator(f"{where} img")).to_be_visible()
    page.click("#restore")
    expect(page.locator("#restore-status")).to_contain_text("Done: 3 of 3")


def test_degrade_send_restore(open_page: Callable[..., Page], screenshot: Callable[..., None]) -> None:
    page = open_page()
    degrade_send_restore(page)
    for name in ("Degraded", "nafnet", "promptir", "swin"):
        card = page.locator(f'.card[data-name="{name}"]')
        assert re.fullmatch(r"\d+\.\d\d dB", card.locator(".psnr").inner_text())
        assert -1 < float(card.locator(".ssim").inner_text()) < 1
    assert page.locator(".card .time").count() == 3
    assert page.locator('.card[data-name="Clean"] .psnr').count() == 0
    screenshot(page, "restore", full_page=True)

    # What is downloaded is what was measured.
    with page.expect_download() as download:
        page.get_by_role("button", name="Download nafnet").click()
    assert re.fullmatch(r"coffee-haze-\d+-degraded-nafnet\.png", download.value.suggested_filename)
    restored = np.asarray(Image.open(download.value.path()), dtype=float)
    page.get_by_role("tab", name="Degrade").click()
    with page.expect_download() as download:
        page.click("#download-clean")
    clean = np.asarray(Image.open(download.value.path()), dtype=float)
    psnr = 10 * np.log10(255**2 / ((restored - clean) ** 2).mean())
    shown = page.locator('.card[data-name="nafnet"] .psnr').text_content()
    assert float(shown.removesuffix(" dB")) == pytest.approx(psnr, abs=0.01)


def test_compares_any_two(page: Page, photo: Path) -> None:
    upload(page, photo)
    upload(page, photo, "#restore-clean")
    choose_only(page, "nafnet", "swin")
    page.click("#restore")
    expect(page.locator("#restore-status")).to_contain_text("Done: 2 of 2")
    expect(page.locator("#comparison label")).to_contain_text("Degraded | nafnet")
    assert page.locator('.card[data-name="Degraded"] .psnr').inner_text() == "∞"
    page.click("#left input")
    expect(page.get_by_role("option")).to_contain_text(["Degraded", "Clean", "nafnet", "swin"])
    page.get_by_role("option", name="Clean").click()
    expect(page.locator("#comparison label")).to_contain_text("Clean | nafnet")
    page.click('.card[data-name="swin"]')
    expect(page.locator("#comparison label")).to_contain_text("Clean | swin")
    expect(page.locator("#right input")).to_have_value("swin")
    expect(page.locator("#download-restored")).to_have_text("Download swin")
    for name in ("nafnet", "swin"):  # with a list left open, whose closing has its own say
        page.click("#right input")
        page.click(f'.card[data-name="{name}"]')
        expect(page.locator("#comparison label")).to_contain_text(f"Clean | {name}")
        expect(page.locator("#right input")).to_have_value(name)
        expect(page.locator("#download-restored")).to_have_text(f"Download {name}")
    sources = page.locator("#comparison img").evaluate_all("images => images.map(image => image.src)")
    assert {source.rsplit("/", 1)[-1] for source in sources} == {"astronaut-clean.png", "astronaut-swin.png"}
    for image in page.locator("#comparison img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 320


def test_without_a_clean_image(page: Page, photo: Path) -> None:
    upload(page, photo)
    choose_only(page, "promptir")
    page.click("#restore")
    expect(page.locator("#restore-status")).to_contain_text("Done: 1 of 1, 320 × 240 pixels")
    assert page.locator(".card").count() == 2
    assert page.locator(".card .psnr").count() == 0


def test_an_example_knows_its_clean_image(page: Page, photo: Path) -> None:
    page.locator("#restore-examples button").first.click()
    expect(page.locator("#restore-photo img")).to_be_visible()
    expect(page.locator("#restore-clean img")).to_be_visible()
    choose_only(page, "nafnet")
    page.click("#restore")
    expect(page.locator('.card[data-name="Degraded"] .psnr')).to_contain_text("dB")
    # Another photograph's truth is not this one's.
    page.locator("#restore-photo").get_by_label("Remove Image").click()
    expect(page.locator("#restore-clean img")).to_have_count(0)


def test_mistakes_are_sentences(page: Page, photo: Path, tmp_path: Path) -> None:
    status = page.locator("#restore-status")
    page.click("#restore")
    expect(status).to_contain_text("There is no photograph yet")
    expect(page.locator("#restore")).to_be_enabled()

    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(photo.read_bytes()[:20_000])
    upload(page, damaged)
    page.click("#restore")
    expect(status).to_contain_text("damaged.png is damaged or incomplete")

    page.locator("#restore-photo").get_by_label("Remove Image").click()
    upload(page, photo)
    upload(page, PHOTO, "#restore-clean")
    page.click("#restore")
    expect(status).to_contain_text("The clean image has 600 × 400 pixels, the photograph 320 × 240.")

    choose_only(page)
    page.click("#restore")
    expect(status).to_contain_text("Choose at least one restorer.")


def test_a_tiff_is_shown(page: Page, photo: Path, tmp_path: Path) -> None:
    Image.open(photo).save(tmp_path / "scan.tif")
    upload(page, tmp_path / "scan.tif")
    shown = page.locator("#restore-photo img")
    page.wait_for_function("document.querySelector('#restore-photo img')?.naturalWidth === 320")
    assert shown.get_attribute("src").endswith("scan.png")


def test_cancel_keeps_what_is_done(page: Page, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, go_on = SwinRestorer.forward, threading.Event()

    def wait(self: SwinRestorer, image: torch.Tensor) -> torch.Tensor:
        go_on.wait(60)
        return forward(self, image)

    monkeypatch.setattr(SwinRestorer, "forward", wait)
    upload(page, photo)
    choose_only(page, "nafnet", "swin")
    page.click("#restore")
    expect(page.locator('.card[data-name="nafnet"]')).to_be_visible()
    expect(page.locator("#restore-status")).to_contain_text("swin")
    page.click("#restore-cancel")
    expect(page.locator("#restore-status")).to_have_text("Cancelled, 1 of 2 done.")  # while the tile is still computed
    go_on.set()
    expect(page.locator("#restore")).to_be_enabled()
    assert page.locator('.card[data-name="nafnet"]').is_visible()


def test_cancel_stops_between_tiles(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, tiles = NAFNet.forward, []

    def slow(self: NAFNet, image: torch.Tensor) -> torch.Tensor:
        tiles.append(image.shape)
        time.sleep(0.5)
        return forward(self, image)

    monkeypatch.setattr(NAFNet, "forward", slow)
    monkeypatch.setattr(sys.modules["restorers.restore"], "CPU_BUDGET", 1)
    monkeypatch.setattr(sys.modules["restorers.restore"], "CUDA_SHARE", 0)
    Image.linear_gradient("L").resize((2400, 1500)).save(tmp_path / "large.png")
    upload(page, tmp_path / "large.png")
    choose_only(page, "nafnet")
    page.click("#restore")
    expect(page.locator("#restore-status")).to_contain_text(re.compile(r"nafnet is at work, \d+ of \d+ tiles done"))
    page.click("#restore-cancel")
    expect(page.locator("#restore-status")).to_have_text("Cancelled, 0 of 1 done.")
    page.wait_for_timeout(1500)
    stopped_at = len(tiles)
    page.wait_for_timeout(1500)
    assert 0 < len(tiles) == stopped_at


def test_no_restorers_is_a_sentence(
    open_page: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "BUNDLED", tmp_path)
    monkeypatch.setattr(registry, "MODELS", tmp_path)
    page = open_page()
    page.get_by_role("tab", name="Restore").click()
    expect(page.locator("#restore-notice")).to_contain_text("No restorer is bundled yet.")
    page.click("#restore")
    expect(page.locator("#restore-status")).to_contain_text("There are no restorers yet.")
    torch.save(NAFNet(width=4, enc_blk_nums=(1,), dec_blk_nums=(1,)).state_dict(), tmp_path / "mine.pth")
    page.reload()
    page.get_by_role("tab", name="Restore").click()
    page.locator("#restorers").get_by_label("mine").check()
    upload(page, PHOTO)
    page.click("#restore")
    expect(page.locator("#restore-status")).to_contain_text("Done: 1 of 1")


def test_fits_a_phone(open_page: Callable[..., Page], photo: Path, screenshot: Callable[..., None]) -> None:
    page = open_page(390, 844)
    page.get_by_role("tab", name="Restore").click()
    upload(page, photo)
    upload(page, photo, "#restore-clean")
    choose_only(page, "nafnet")
    page.click("#restore")
    expect(page.locator("#restore-status")).to_contain_text("Done")
    expect(page.locator("#comparison")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    screenshot(page, "restore-phone", full_page=True)


def test_robustness(page: Page, photo: Path, screenshot: Callable[..., None]) -> None:
    page.get_by_role("button", name="Robustness").click()
    choose_only(page, "nafnet")
    page.click("#measure")
    expect(page.locator("#robustness-status .failure")).to_contain_text("There is no photograph yet")
    upload(page, photo, "#robustness-photo")
    page.click("#measure")
    expect(page.locator("#robustness-status")).to_contain_text("Done: 8 pictures", timeout=120_000)
    for measure in ("psnr", "ssim"):
        plot = page.locator(f"#robustness-{measure}")
        expect(plot.locator("canvas, svg.marks")).to_be_visible()
    expect(page.locator("#robustness-pictures img")).to_have_count(8)
    screenshot(page, "robustness", full_page=True)
    with page.expect_download() as download:
        page.click("#download-robustness")
    assert download.value.suggested_filename == "astronaut-haze-robustness.csv"
    header = Path(download.value.path()).read_text().splitlines()[0]
    assert header.endswith("mu_delivered,sigma_delivered,psnr,ssim,nafnet_psnr,nafnet_ssim")
    expect(page.locator("#measure")).to_be_enabled()
