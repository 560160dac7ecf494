"""The web page in front of the real service: what the one asks is what the other answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart import load
from page_server import give, picture, rows
from serving_thread import serving

pytest_plugins = ["page_browser"]
Open = Callable[..., Any]
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[str]:
    """The address of a service with one model, which wants a token."""
    with serving(run, token=TOKEN) as address:
        yield address


def test_the_page_and_the_service_agree(visit: Open, service: str, run: Path, pictures: Path) -> None:
    files = [pictures / kind / f"{kind} 00.png" for kind in ("rings", "stripes", "checks")]
    expected = load(run).predict(files)
    page = visit(wait=False, address=service)
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#links:not([hidden])")
    give(page, *({"name": file.name, "mimeType": "image/png", "buffer": file.read_bytes()} for file in files))
    page.wait_for_selector("#status:has-text('Done. 3 pictures.')")
    assert [row[0].strip() for row in rows(page)] == [file.name for file in files]
    assert [row[1] for row in rows(page)] == list(expected.labels)
    with page.expect_download() as waiting:
        page.click("#csv")
    table = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8-sig"))))
    assert [float(line["probability"]) for line in table] == pytest.approx([expected.top(row, 1)[0][1] for row in range(3)], abs=1e-4)
    page.locator("button.open").first.click()
    page.click("[data-act=heat]")
    assert page.get_attribute("img.heat", "src").startswith("data:image/png;base64,")
    assert page.locator(".nearest li").count() == 3
    with page.expect_download() as waiting:
        page.click("#report")
    assert Path(waiting.value.path()).read_bytes() == (run / "report.html").read_bytes()


def test_what_the_service_refuses_is_told(visit: Open, service: str) -> None:
    page = visit(wait=False, address=service)
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#links:not([hidden])")
    damaged = picture("damaged.jpg", side=200)
    give(page, {**damaged, "buffer": damaged["buffer"][:400]})
    page.wait_for_selector("#status:has-text('damaged.jpg: no answer. The image is refused: ')")
    give(page, {"name": "text.jpg", "mimeType": "image/jpeg", "buffer": b"words"})
    page.wait_for_selector("#status:has-text('text.jpg: no answer. The image is refused: not an image of a known format')")
