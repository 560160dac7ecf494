"""The web page with boxes over pictures, in a real Chromium. Skipped where there is none."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import page_server
from page_server import give, picture, rows

pytest_plugins = ["page_browser"]

Open = Callable[..., Any]
DISC, PLATE = "#e69f00", "#56b4e9"
BOXES = [
    {"label": "disc", "confidence": 0.9, "box": [4.0, 16.0, 14.0, 36.0]},
    {"label": "plate", "confidence": 0.6, "box": [20.0, 24.1, 39.3, 39.0]},
]
UNSURE = [{"label": "disc", "confidence": 0.3, "box": [24.0, 2.0, 32.0, 10.0]}]
VALUES: dict[str, Any] = {
    "height": 40, "width": 40, "count": 2, "counts": {"disc": 1, "plate": 1}, "boxes": BOXES, "unsure": UNSURE, "threshold": 0.487,
    "colours": {"disc": DISC, "plate": PLATE}, "ids": {"disc": 3, "plate": 7}, "text": "[]",
}  # fmt: skip
SCALE = 1024 / 40  # of the layer, whose longer side has 1024 pixels


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the server answers: `VALUES` with changes."""

    def said(**changes: Any) -> None:
        values = {name: value for name, value in {**VALUES, **changes}.items() if value != "missing"}
        monkeypatch.setattr(page_server, "answer", lambda name, **_: {"name": name, "kind": "boxes", **values})

    model = {"name": "animals", "title": "things", "kind": "boxes", "classes": ["disc", "plate"], "ap50": 0.9172, "test_images": 40}
    monkeypatch.setattr(page_server, "MODELS", [model])
    said()
    return said


def _pixel(page: Any, x: float, y: float) -> list[int]:
    """Red, green, blue and opacity of the layer at a place of the picture."""
    at = f"{round(x * SCALE)}, {round(y * SCALE)}"
    return list(page.evaluate(f"() => [...document.querySelector('.opened canvas.layer').getContext('2d').getImageData({at}, 1, 1).data]"))


def _painted(page: Any) -> bool:
    """Whether anything of the layer is painted."""
    code = "() => { const one = document.querySelector('.opened canvas.layer'); const [w, h] = [one.width, one.height];"
    return bool(page.evaluate(f"{code} return one.getContext('2d').getImageData(0, 0, w, h).data.some((value) => value > 0); }}"))


def _opened(page: Any, name: str = "things.jpg") -> Any:
    give(page, picture(name))
    page.wait_for_selector(".opened canvas.layer[data-painted]")
    return page


def _colour(text: str) -> list[int]:
    return [*bytes.fromhex(text[1:]), 255]


def _downloaded(page: Any, act: str) -> tuple[str, str]:
    with page.expect_download() as waiting:
        page.click(f"[data-act={act}]")
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_text(encoding="utf-8-sig")


def test_boxes_are_drawn_where_they_are(visit: Open, say: Callable[..., None]) -> None:
    page = visit()
    assert page.locator("#about span").all_inner_texts() == ["AP50 0.917 on 40 test images", "2 classes: disc, plate"]
    _opened(page)
    for x, y in ((4.1, 30), (13.9, 30), (9, 35.9)):  # left, right and bottom side of the disc
        assert _pixel(page, x, y) == _colour(DISC)
    assert _pixel(page, 39.2, 35) == _colour(PLATE)
    assert [_pixel(page, *place)[3] for place in ((9, 26), (3.8, 30), (14.2, 30), (28, 6))] == [0, 0, 0, 0]  # within, beside, and unsure
    sides = [page.locator(f".opened .frame {one}").bounding_box() for one in ("img", "canvas")]
    assert sides[0] == sides[1]
    assert page.inner_text(".said h2") == "1 disc, 1 plate"
    assert page.locator(".areas th").all_inner_texts() == ["disc", "plate"]
    assert page.locator(".areas .figure").all_inner_texts() == ["90.0 %", "60.0 %"]
    assert page.inner_text("#status") == "things.jpg: 1 disc, 1 plate."
    swatch = page.locator(".areas .swatch").first
    assert swatch.bounding_box()["width"] >= 10
    assert swatch.evaluate("(one) => getComputedStyle(one).backgroundColor") == "rgb(230, 159, 0)"


def test_the_slider_chooses_what_is_drawn_listed_and_downloaded(visit: Open, say: Callable[..., None]) -> None:
    page = _opened(visit())
    slider = page.locator("[data-act=confidence]")
    assert page.inner_text(".slider output") == "48.7 %"
    slider.fill("20")
    assert _pixel(page, 24.1, 6) == _colour(DISC)
    assert page.inner_text(".said h2") == "2 disc, 1 plate"
    assert page.locator(".areas tr").evaluate_all("(all) => all.map((one) => one.className)") == ["in", "in", "out"]
    assert len(json.loads(_downloaded(page, "coco")[1])) == 3
    slider.fill("90")
    assert page.inner_text(".said h2") == "1 disc"
    assert _pixel(page, 39.2, 35)[3] == 0
    page.click("#language")  # draws everything again
    assert page.inner_text(".slider output") == "90.0%"
    assert page.inner_text(".said h2") == "1 disc"
    slider.fill("95")
    assert page.inner_text(".said h2") == "没有找到"
    assert not _painted(page)
    assert json.loads(_downloaded(page, "coco")[1]) == []


def test_files_of_boxes_have_their_pixels_and_numbers(visit: Open, say: Callable[..., None]) -> None:
    page = _opened(visit(), "two, things.jpg")
    name, text = _downloaded(page, "coco")
    assert name == "two, things.json"
    assert json.loads(text) == [
        {"image_id": "two, things.jpg", "category_id": 3, "category_name": "disc", "bbox": [4, 16, 10, 20], "score": 0.9},
        {"image_id": "two, things.jpg", "category_id": 7, "category_name": "plate", "bbox": [20, 24.1, 19.3, 14.9], "score": 0.6},
    ]
    name, text = _downloaded(page, "boxes")
    assert name == "two, things.csv"
    table = list(csv.reader(io.StringIO(text)))
    assert table == [
        ["name", "label", "confidence", "left", "top", "right", "bottom"],
        ["two, things.jpg", "disc", "0.9", "4", "16", "14", "36"], ["two, things.jpg", "plate", "0.6", "20", "24.1", "39.3", "39"],
    ]  # fmt: skip


def test_files_have_pixels_of_the_file_where_a_smaller_picture_was_sent(visit: Open, say: Callable[..., None], canned: Any) -> None:
    large = picture("large.png", side=3072, kind="PNG")  # the page sends a longer side of 2048 pixels
    canned.behaviour.most_bytes = len(large["buffer"]) - 1000
    say(height=2048, width=2048, boxes=[{"label": "disc", "confidence": 0.9, "box": [100, 200, 301, 400]}], unsure=[])
    page = visit()
    give(page, large)
    page.wait_for_selector(".opened canvas.layer[data-painted]")
    assert page.locator(".remark").count() == 1
    (found,) = json.loads(_downloaded(page, "coco")[1])
    assert found["bbox"] == [150, 300, 301.5, 300]
    assert list(csv.reader(io.StringIO(_downloaded(page, "boxes")[1])))[1][3:] == ["150", "300", "451.5", "600"]


@pytest.fixture
def warm(say: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heat maps are given, too."""

    def said(name: str, *, explain: str = "", box: str = "", **_: Any) -> dict[str, Any]:
        found = {"name": name, "kind": "boxes", **VALUES}
        return {**found, "heat": page_server.heat_png()} if explain == "1" and box else found

    monkeypatch.setattr(page_server, "answer", said)


def _asked(canned: Any) -> list[str]:
    """The numbers of the boxes that heat maps were asked for."""
    return [one["box"] for one in canned.behaviour.asked if one.get("explain") == "1"]


def test_a_box_that_is_clicked_shows_its_heat_map(visit: Open, warm: None, canned: Any) -> None:
    page = _opened(visit())
    assert "Click a box" in page.inner_text(".said")
    frame = page.locator(".opened .frame")
    across, down = (frame.bounding_box()[side] / 40 for side in ("width", "height"))
    frame.click(position={"x": 39.0 * across, "y": 1 * down})  # nothing is there
    assert _asked(canned) == []
    frame.click(position={"x": 30 * across, "y": 30 * down})
    page.wait_for_selector(".opened canvas.warm[data-painted]")
    assert _asked(canned) == ["1"]
    assert page.locator(".pick").evaluate_all("(all) => all.map((one) => one.ariaPressed)") == ["false", "true"]
    assert "Where the evidence for the chosen box lies." in page.inner_text("figure")
    drawn = "([x, y]) => document.querySelector('.opened canvas.lines').getContext('2d').getImageData(x, y, 1, 1).data[3]"
    assert page.evaluate(drawn, [round(39.2 * SCALE), round(35 * SCALE)]) == 255  # the chosen box
    assert page.evaluate(drawn, [round(4.1 * SCALE), round(30 * SCALE)]) == 0  # and no other
    frame.click(position={"x": 30 * across, "y": 30 * down})
    assert page.locator("canvas.warm").count() == 0
    assert _pixel(page, 4.1, 30) == _colour(DISC)


def test_a_box_of_the_list_shows_its_heat_map_and_the_last_choice_counts(visit: Open, warm: None, canned: Any) -> None:
    page = _opened(visit())
    page.locator("[data-act=confidence]").fill("20")
    canned.behaviour.hold.clear()
    page.locator(".pick").nth(0).click()
    page.wait_for_selector("figure [role=status]")
    page.locator(".pick").nth(2).click()  # one that is not sure
    canned.behaviour.hold.set()
    page.wait_for_selector(".opened canvas.warm[data-painted]")
    assert _asked(canned) == ["0", "2"]
    assert page.locator(".pick").evaluate_all("(all) => all.map((one) => one.ariaPressed)") == ["false", "false", "true"]


def test_a_heat_map_that_cannot_be_had_says_why(visit: Open, say: Callable[..., None], canned: Any) -> None:
    page = _opened(visit())
    page.locator(".pick").first.click()
    page.wait_for_selector("figure [role=status]:has-text('No heat map')")


def test_many_pictures_have_a_row_each(visit: Open, say: Callable[..., None]) -> None:
    page = visit()
    give(page, picture("a.jpg"), picture("b.jpg"))
    page.wait_for_selector("#status:has-text('Done. 2 pictures.')")
    assert [row[1:] for row in rows(page)] == [["1 disc, 1 plate"]] * 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_boxes_fit_a_phone(visit: Open, say: Callable[..., None], scheme: str) -> None:
    page = _opened(visit(width=360, height=740, locale="zh-CN", color_scheme=scheme))
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    frame, canvas = (page.locator(f".opened {one}").bounding_box() for one in (".frame", "canvas"))
    assert frame["x"] >= 0
    assert frame["x"] + frame["width"] <= 360
    assert canvas["width"] == pytest.approx(frame["width"], abs=3)
    assert "最低置信度" in page.inner_text(".slider")
    assert page.locator(".downloads button").all_inner_texts() == ["下载 COCO", "检测框 CSV"]


ODD = {
    "nothing but boxes": dict.fromkeys(("height", "width", "colours", "ids", "threshold", "unsure", "counts", "text"), "missing"),
    "no lists": {"boxes": None, "unsure": "none", "colours": None, "ids": None, "threshold": None},
    "no numbers": {
        "boxes": [
            *BOXES, None, 7, {"label": "disc"}, {"label": "disc", "confidence": "high", "box": [1, 2, 3, 4]},
            {"label": "disc", "confidence": 0.8, "box": [1, None, 3, 4]}, {"label": "disc", "confidence": 0.8, "box": [1, 2, 3]},
            {"label": "disc", "confidence": 0.8, "box": "1234"},
        ],
    },
    "markup": {"boxes": [{"label": "<img src=x onerror=alert(1)>" * 4, "confidence": 0.9, "box": [-50, -50, 900, 900]}], "unsure": []},
    "no colours": {"colours": {"disc": "red; background: url(x)", "plate": 7}},
    "colours of everything": {"boxes": [{"label": "constructor", "confidence": 0.9, "box": [4, 4, 20, 20]}], "unsure": []},
    "a huge picture": {"height": 10**9, "width": 1},
}  # fmt: skip
TOLD = {"no lists": "nothing found", "markup": "1 " + "<img src=x onerror=alert(1)>" * 4, "colours of everything": "1 constructor"}


@pytest.mark.parametrize("case", ODD)
def test_odd_answers_break_nothing(visit: Open, say: Callable[..., None], case: str) -> None:
    """Errors of the page fail the test that opened it."""
    say(**ODD[case])
    page = _opened(visit())
    assert page.inner_text(".said h2") == TOLD.get(case, "1 disc, 1 plate")
    assert page.locator(".said img").count() == 0
    page.locator("[data-act=confidence]").fill("5")
    assert len(json.loads(_downloaded(page, "coco")[1])) == len(page.locator(".areas tr").all())
    if case == "no colours":
        assert _pixel(page, 4.1, 30) == _colour("#808080")


def test_labels_lie_within_the_picture(visit: Open, say: Callable[..., None]) -> None:
    say(boxes=[{"label": "plate", "confidence": 0.9, "box": [36, 0, 40, 40]}], unsure=[])
    page = _opened(visit())
    assert _pixel(page, 39.8, 0.2) == _colour(PLATE)
    assert _pixel(page, 34, 0.4)[3] == 255  # shifted to the left, and below the upper edge


@pytest.fixture(scope="module")
def files() -> dict[str, Any]:
    """An entry of the page as its functions take it."""
    return {"name": "a.jpg", "answer": {"kind": "boxes", "values": VALUES}}


def test_the_functions_of_files_take_what_the_slider_shows(visit: Open, say: Callable[..., None], files: dict[str, Any]) -> None:
    page = visit()
    code = """async ([entry, least]) => {
      const { cocoOf, csvOf, boxText } = await import("/static/boxes.js");
      if (least !== null) entry.layer = { least };
      return [cocoOf(entry).map((one) => one.score), csvOf(entry).split("\\r\\n").length, boxText(entry.answer, null)];
    }"""
    assert page.evaluate(code, [files, None]) == [[0.9, 0.6], 4, "1 disc, 1 plate"]
    assert page.evaluate(code, [files, 0.3]) == [[0.9, 0.6, 0.3], 5, "1 disc, 1 plate"]
    assert page.evaluate(code, [files, 0.61]) == [[0.9], 3, "1 disc, 1 plate"]
    no_ids = {**files, "answer": {"kind": "boxes", "values": {**VALUES, "ids": None, "threshold": 0.9}}}
    found = page.evaluate("async (entry) => (await import('/static/boxes.js')).cocoOf(entry)", no_ids)
    assert [one["category_id"] for one in found] == [None]
