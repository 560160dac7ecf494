"""The web page with results that say something of each pixel: masks and heat maps, in a real Chromium. Skipped where there is none."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import page_server
from headstart.pixels.pictures import base64_text, heat_png, palette
from headstart.pixels.runs import decoded
from headstart.tasks.segmentation.coco import coco_document
from headstart.tasks.segmentation.predictions import MaskPredictions, record
from page_server import give, picture, rows

pytest_plugins = ["page_browser"]

CLASSES = ("background", "person", "dog")
Open = Callable[..., Any]


def _masks(size: tuple[int, int] = (40, 40)) -> MaskPredictions:
    """The left half is background; of the right one the lower quarter is a dog, the rest a person."""
    logits = np.full((1, 3, 4, 4), -9, np.float32)
    logits[0, 0, :, :2], logits[0, 1, :3, 2:], logits[0, 2, 3:, 2:] = 9, 9, 9
    logits = logits.repeat(size[0] // 4, axis=2).repeat(size[1] // 4, axis=3)
    return MaskPredictions(outputs={"logits": logits}, kept=np.array([0]), sizes=np.array([size]), classes=CLASSES)


def _mask_answer(name: str, **_: str) -> dict[str, Any]:
    found = record(name, _masks(), 0)
    return {"name": name, "kind": "mask", **found.values}


def _score_answer(name: str, **_: str) -> dict[str, Any]:
    heat = np.zeros((10, 10), np.float32)
    heat[2:5, 6:9] = 2
    good = "good" in name
    region = {"outline": [[24, 8], [36, 8], [36, 20], [24, 20]], "holes": [], "area": 144, "score": 2.0}
    return {
        "name": name, "kind": "score", "label": "good" if good else "anomalous", "score": 0.5 if good else 1.875, "threshold": 1.0,
        "height": 40, "width": 40, "area": 0 if good else 144, "regions": [] if good else [region],
        "heat_map": base64_text(heat_png(heat, low=0.5, high=1.5)),
    }  # fmt: skip


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "answer", _mask_answer)
    model = {"name": "animals", "title": "people", "kind": "mask", "classes": list(CLASSES), "mean_iou": 0.9273, "test_images": 58}
    monkeypatch.setattr(page_server, "MODELS", [model])


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "answer", _score_answer)
    monkeypatch.setattr(page_server, "MODELS", [{"name": "animals", "title": "cookies", "kind": "score"}])


def _pixel(page: Any, x: int, y: int, *, layer: int = 0) -> list[int]:
    """Red, green, blue and opacity of a layer, once it is painted."""
    page.wait_for_selector(f".opened canvas.layer >> nth={layer}")
    page.wait_for_function(f"() => document.querySelectorAll('.opened canvas.layer')[{layer}].dataset.painted")
    code = f"() => [...document.querySelectorAll('.opened canvas.layer')[{layer}].getContext('2d').getImageData({x}, {y}, 1, 1).data]"
    return list(page.evaluate(code))


def test_a_mask_lies_over_the_picture(visit: Open, masks: None) -> None:
    page = visit()
    assert page.locator("#about span").all_inner_texts() == ["mean IoU 0.927 on 58 test images", "3 classes: background, person, dog"]
    give(page, picture("people.jpg"))
    assert _pixel(page, 5, 5)[3] == 0  # the background, which is hidden at first
    assert _pixel(page, 35, 5) == [*palette()[1].tolist(), 255]
    assert _pixel(page, 35, 38) == [*palette()[2].tolist(), 255]
    boxes = [page.locator(f".opened .frame {one}").bounding_box() for one in ("img", "canvas")]
    assert boxes[0] == boxes[1]
    assert page.inner_text("#status") == "people.jpg: background 50.0 %, person 37.5 %, dog 12.5 %."
    assert page.locator(".areas th").all_inner_texts() == ["background", "person", "dog"]
    assert page.locator(".areas .figure").all_inner_texts() == ["50.0 %", "37.5 %", "12.5 %"]
    assert page.locator("[data-act=heat]").count() == 0


def test_the_slider_makes_the_mask_more_or_less_opaque(visit: Open, masks: None) -> None:
    page = visit()
    give(page, picture("people.jpg"))
    opacity = "() => getComputedStyle(document.querySelector('canvas.layer')).opacity"
    page.wait_for_selector("canvas.layer")
    assert page.evaluate(opacity) == "0.5"
    page.locator("[data-act=opacity]").fill("80")
    assert page.evaluate(opacity) == "0.8"
    page.click("#language")  # draws everything again
    assert page.evaluate(opacity) == "0.8"
    assert "叠加层" in page.inner_text(".slider")


def test_a_class_can_be_hidden(visit: Open, masks: None) -> None:
    page = visit()
    give(page, picture("people.jpg"))
    assert _pixel(page, 35, 5)[3] == 255
    button = page.locator("[data-act='class person']")
    button.click()
    page.wait_for_function("() => document.querySelector('canvas.layer').dataset.painted === '2'")
    assert _pixel(page, 35, 5)[3] == 0
    assert _pixel(page, 35, 38)[3] == 255
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    page.wait_for_function("() => document.querySelector('canvas.layer').dataset.painted === '3'")
    assert _pixel(page, 35, 5)[3] == 255
    page.locator("[data-act='class background']").click()
    page.wait_for_function("() => document.querySelector('canvas.layer').dataset.painted === '4'")
    assert _pixel(page, 5, 5) == [0, 0, 0, 255]


def test_masks_are_downloaded(visit: Open, masks: None) -> None:
    page = visit()
    give(page, picture("people.photo.jpg"))
    page.wait_for_selector(".areas")
    with page.expect_download() as waiting:
        page.click("[data-act=png]")
    assert waiting.value.suggested_filename == "people.photo.png"
    found = Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes()))
    np.testing.assert_array_equal(np.asarray(found), _masks().mask(0))
    with page.expect_download() as waiting:
        page.click("[data-act=coco]")
    assert waiting.value.suggested_filename == "people.photo.json"
    document = json.loads(Path(waiting.value.path()).read_text())
    assert document == json.loads(coco_document([record("people.photo.jpg", _masks(), 0)], CLASSES))
    assert decoded(document["annotations"][1]["segmentation"]).sum() == 600


def test_rows_and_the_table_name_the_classes(visit: Open, masks: None) -> None:
    page = visit()
    give(page, picture("a.jpg"), picture("b.jpg"))
    page.wait_for_selector("#status:has-text('Done. 2 pictures.')")
    assert [row[1:] for row in rows(page)] == [["background 50.0 %, person 37.5 %, dog 12.5 %"]] * 2
    with page.expect_download() as waiting:
        page.click("#csv")
    assert "background 50.0 %, person 37.5 %, dog 12.5 %" in Path(waiting.value.path()).read_text(encoding="utf-8")


def test_run_lengths_are_read_as_the_server_writes_them(visit: Open, masks: None) -> None:
    """Boxes around masks of any form, by the page and by NumPy."""
    from headstart.pixels.runs import run_lengths, text_of

    page, generator, cases = visit(), np.random.default_rng(0), []
    for index in range(40):
        mask = generator.random((3 + index % 7, 2 + index % 5)) < 0.2
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [0, 0, 0, 0] if not mask.any() else [across[0], down[0], across[-1] - across[0] + 1, down[-1] - down[0] + 1]
        cases.append((text_of(run_lengths(mask)), mask.shape[0], run_lengths(mask).tolist(), [int(side) for side in box]))
    large = np.zeros((700, 900), bool)
    large[5:650, 100:850] = True
    cases.append((text_of(run_lengths(large)), 700, run_lengths(large).tolist(), [100, 5, 750, 645]))
    code = """async (cases) => {
      const { countsOf, boxOf } = await import("/static/pixels.js");
      return cases.map(([text, height]) => [countsOf(text), boxOf(countsOf(text), height)]);
    }"""
    found = page.evaluate(code, [case[:2] for case in cases])
    assert found == [[counts, box] for _, _, counts, box in cases]


def test_a_score_has_its_heat_map_and_outlines(visit: Open, scores: None) -> None:
    page = visit()
    give(page, picture("cookie.jpg"))
    page.wait_for_selector(".answer")
    assert page.inner_text(".answer .label") == "anomalous"
    assert page.inner_text(".answer .headline") == "1.875"
    assert page.locator(".bars th").all_inner_texts() == ["Score", "Threshold"]
    assert "1 region is above the threshold" in page.inner_text(".in-set")
    assert _pixel(page, 30, 14)[3] > 200  # the heat map, there
    assert _pixel(page, 5, 30)[3] == 0  # and not elsewhere
    assert _pixel(page, 24, 14, layer=1)[3] > 100  # the left edge of the outline
    assert _pixel(page, 30, 14, layer=1)[3] == 0
    assert page.inner_text("#status") == "cookie.jpg: anomalous 1.875."
    with page.expect_download() as waiting:
        page.click("[data-act=png]")
    assert Path(waiting.value.path()).read_bytes() == base64.b64decode(_score_answer("x")["heat_map"])


def test_a_good_one_has_no_region(visit: Open, scores: None) -> None:
    page = visit(locale="zh-CN")
    give(page, picture("good.jpg"))
    page.wait_for_selector(".answer")
    assert page.inner_text(".answer .label") == "正常"
    assert page.inner_text(".in-set") == "没有区域高于阈值。"
