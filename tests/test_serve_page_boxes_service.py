"""The web page in front of the real service of a run that finds things."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawn_scenes import scene
from headstart import load
from page_server import give
from serving_thread import serving

pytest_plugins = ["boxes_run", "page_browser"]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def service(scenes_run: Path) -> Iterator[str]:
    """The address of a service with one model."""
    with serving(scenes_run) as address:
        yield address


def test_boxes_of_a_photograph_on_its_side_lie_on_its_things(visit: Open, service: str, scenes_run: Path) -> None:
    pixels = scene(52, size=(120, 200))[0]
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels).copy()).save(file, "PNG", exif=exif)
    expected = load(scenes_run).predict([file.getvalue()])
    own = expected.boxes(0)
    assert own
    page = visit(address=service)
    assert page.locator("#about span").first.inner_text().startswith("AP50 ")
    give(page, {"name": "side.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.wait_for_selector(".opened canvas.layer[data-painted]")
    with page.expect_download() as waiting:
        page.click("[data-act=coco]")
    found = json.loads(Path(waiting.value.path()).read_text())
    assert [one["category_name"] for one in found] == [one["label"] for one in own]
    sides = [[one["bbox"][0], one["bbox"][1], one["bbox"][0] + one["bbox"][2], one["bbox"][1] + one["bbox"][3]] for one in found]
    np.testing.assert_allclose(sides, [one["box"] for one in own], atol=0.3)
    assert page.evaluate(
        "(() => { const one = document.querySelector('.opened .frame img'); return one.naturalWidth > one.naturalHeight })()"
    )
    width, height = page.evaluate("(() => { const one = document.querySelector('canvas.layer'); return [one.width, one.height] })()")
    assert width / height == pytest.approx(200 / 120, rel=0.01)
    code = "([x, y]) => document.querySelector('canvas.layer').getContext('2d').getImageData(x, y, 1, 1).data[3]"
    for left, _, right, bottom in sides:  # the lower side of each box is painted
        assert page.evaluate(code, [round((left + right) / 2 * width / 200), min(round(bottom * height / 120) - 2, height - 2)]) == 255


def test_a_box_shows_its_heat_map_over_the_picture(visit: Open, service: str) -> None:
    file = io.BytesIO()
    Image.fromarray(scene(50)[0]).save(file, "PNG")
    page = visit(address=service)
    give(page, {"name": "scene.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.wait_for_selector(".opened canvas.layer[data-painted]")
    page.locator(".pick").nth(1).click()
    page.wait_for_selector(".opened canvas.warm[data-painted]")
    width, height = page.evaluate("(() => { const one = document.querySelector('canvas.warm'); return [one.width, one.height] })()")
    assert width / height == pytest.approx(128 / 96, rel=0.01)
