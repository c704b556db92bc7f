"""What the browser tests share: a headless Chromium, and screenshots.

SCREENSHOTS=folder also keeps the screenshots there; with GENDEG_MODEL set, the pages are of that model instead of the
tiny one, and of the bundled restorers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OPTIONS += ["--disable-sync", "--no-first-run"]
expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, pytest.TestReport, Any]:
    """Adds to the report of a failure what its pages show and what their consoles say."""
    report = yield
    if report.when == "call" and report.failed and "browser" in item.funcargs:
        for page in (page for context in item.funcargs["browser"].contexts for page in context.pages):
            with suppress(Error):  # of a page that is gone
                said = [message.text for message in page.console_messages()] + [str(e) for e in page.page_errors()]
                shown = page.inner_text("body", timeout=5_000)
                report.sections.append((f"Page {page.url}", "\n".join([shown, "Console:", *said])))
    return report


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium or chrome executable on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, app_url: str) -> Iterator[Callable[..., Page]]:
    """Opens the app in a window of a size, until the test is over."""
    pages: list[Page] = []

    def open_page(width: int = 1280, height: int = 800) -> Page:
        pages.append(page := browser.new_page(viewport={"width": width, "height": height}))
        page.set_default_timeout(60_000)
        page.goto(app_url)
        expect(page.locator("#generate")).to_be_enabled(timeout=60_000)
        return page

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[..., None]:
    """Saves what the page shows under a name."""

    def save(page: Page, name: str, full_page: bool = False) -> None:
        page.wait_for_timeout(500)
        page.screenshot(path=Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"{name}.png", full_page=full_page)

    return save
