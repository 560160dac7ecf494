"""Fixtures of the tests of the web page: a real Chromium, canned answers, and the page opened in front of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from page_server import PageServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright, which is not installed")
    found = os.environ.get("HEADSTART_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"the page is tested in Chromium; none of {', '.join(BROWSERS)} is on the path, nor is one named in HEADSTART_CHROMIUM")
    with playwright.sync_playwright() as manager:
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        chromium = manager.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def canned() -> Iterator[PageServer]:
    running = PageServer()
    yield running
    running.close()


@pytest.fixture
def visit(browser: Any, canned: PageServer) -> Iterator[Open]:
    """Open the page; at the end of the test nothing may have gone wrong in it, and nothing may have been asked of another place."""
    contexts, wrong = [], []

    def visited(*, address: str = canned.address, wait: bool = True, width: int = 1200, height: int = 850, **settings: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **{"locale": "en-GB", **settings})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda line: wrong.append(line.text) if line.type == "error" and "Failed to load resource" not in line.text else None
        )
        page.on("request", lambda sent: None if sent.url.startswith((address, "blob:", "data:")) else wrong.append(sent.url))
        page.goto(address)
        if wait:
            page.wait_for_selector("#links:not([hidden])")
        return page

    yield visited
    for context in contexts:
        context.close()
    assert wrong == []
