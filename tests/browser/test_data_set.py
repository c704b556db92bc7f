"""A person in a browser: sends photographs, and takes home a ZIP of pairs."""

from __future__ import annotations

import json
import re
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage
from playwright.sync_api import Page, expect

from gendeg.scheduler import BridgeScheduler

PHOTOS = [Path(skimage.__file__).parent / "data" / name for name in ("coffee.png", "rocket.jpg")]


def on_tab(page: Page) -> Page:
    page.get_by_role("tab", name="Data set").click()
    expect(page.locator("#make-pairs")).to_be_enabled(timeout=60_000)
    return page


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """The Data set tab, just opened."""
    return on_tab(open_page())


def send(page: Page, *files: Path) -> None:
    page.set_input_files("#data-set-files input[type=file]", files)
    expect(page.locator("#data-set-files")).to_contain_text(files[-1].stem)


def choose_only(page: Page, *labels: str) -> None:
    for label in ("Haze", "Rain", "Snow", "Motion blur", "Raindrops", "Low light"):
        page.locator("#data-set-degradations").get_by_label(label, exact=True).set_checked(label in labels)


def downloaded(page: Page) -> list[str]:
    """Names of the files in the ZIP, its rows checked."""
    with page.expect_download() as download:
        page.click("#download-pairs")
    assert download.value.suggested_filename == "pairs.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("metadata.jsonl"))
        rows = [json.loads(line) for line in archive.read(metadata).splitlines()]
    assert rows and all(metadata.replace("metadata.jsonl", row["file_name"]) in names for row in rows)
    return names


def test_makes_pairs(page: Page, tmp_path: Path, screenshot: Callable[..., None]) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(PHOTOS[1], "trip/rocket.jpg")
        archive.writestr("notes.txt", "no photograph")
    send(page, PHOTOS[0], tmp_path / "photos.zip")
    choose_only(page, "Haze", "Rain")
    page.locator("#layout").get_by_label("Folders gt/ and lq/").check()
    page.click("#make-pairs")
    status = page.locator("#data-set-status")
    expect(status).to_contain_text(re.compile(r"Done: the ZIP holds \d pairs of 2 photographs\."), timeout=120_000)
    expect(status.locator("li")).to_have_text("photos.zip: notes.txt: not an image file")
    page.wait_for_function("document.querySelector('#sheet img')?.naturalWidth > 100")
    screenshot(page, "data-set", full_page=True)
    kinds = {name.split("/")[1] for name in downloaded(page)}
    assert kinds == {"gt", "lq", "metadata.jsonl", "README.md", "contact-sheet.jpg", "intensities.png"}


def test_cancel_keeps_what_is_done(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    step, go_on, steps = BridgeScheduler.step, threading.Event(), []

    def wait(self: BridgeScheduler, *values: Any, **options: Any) -> Any:
        steps.append(len(self.timesteps))
        if len(steps) > steps[0]:  # after the first pair
            go_on.wait(60)
        return step(self, *values, **options)

    monkeypatch.setattr(BridgeScheduler, "step", wait)
    send(page, PHOTOS[0])
    choose_only(page, "Rain")
    page.locator("#per-image input").fill("9")
    page.click("#make-pairs")
    status = page.locator("#data-set-status")
    expect(status).to_contain_text("1 of 9 pairs made, now rain")
    page.click("#data-set-cancel")
    expect(status).to_contain_text("Cancelled. The ZIP holds 1 of the 9 pairs asked for.")
    go_on.set()
    expect(page.locator("#make-pairs")).to_be_enabled()
    assert len([name for name in downloaded(page) if "degraded/" in name]) == 1


def test_mistakes_are_sentences(page: Page, tmp_path: Path) -> None:
    status = page.locator("#data-set-status")
    page.click("#make-pairs")
    expect(status).to_contain_text("There is nothing to work on yet")
    (tmp_path / "photos.zip").write_bytes(b"no ZIP")
    send(page, tmp_path / "photos.zip")
    page.click("#make-pairs")
    expect(status).to_contain_text("photos.zip: no ZIP, or damaged: pack it anew")
    choose_only(page)
    page.click("#make-pairs")
    expect(status).to_contain_text("Choose at least one degradation.")
    expect(page.locator("#download-pairs")).to_be_disabled()


def test_fits_a_phone(open_page: Callable[..., Page], screenshot: Callable[..., None]) -> None:
    page = on_tab(open_page(390, 844))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    screenshot(page, "data-set-phone", full_page=True)
