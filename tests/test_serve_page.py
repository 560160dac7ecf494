"""The web page, in a real Chromium and in front of canned answers. Skipped, with the reason, where there is no browser."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import page_server
from page_server import PAGE, PageServer, give, heat_png, picture, rows

pytest_plugins = ["page_browser"]

FILES = sorted(PAGE.iterdir())
JPEG = "image/jpeg"
Open = Callable[..., Any]


def strange(text: str, *, kind: str) -> list[str]:
    """What a page may not hold that wants no network, no code in its markup and no markup in its data."""
    rules = {
        "an address": r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.-]+\.\w",
        "markup out of text": r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc)\b",
        "code out of text": r"\beval\(|new Function\(",
    }
    if kind == ".html":
        rules |= {"script": r"<script(?![^>]*\bsrc=)", "style": r"<style|\sstyle=", "handler": r"\son\w+="}
    return [name for name, pattern in rules.items() if re.search(pattern, re.sub(r"^\s*//.*$", "", text, flags=re.M))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_page_is_whole_and_harmless(file: Path) -> None:
    assert strange(file.read_text(encoding="utf-8"), kind=file.suffix) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<script src="//cdn.example.com/x.js">', "an address"), ("<script>go()</script>", "script"), ('<p style="x">', "style"),
        ('<img onerror="x">', "handler"), ("a.innerHTML = name;", "markup out of text"), ("eval(x)", "code out of text"),
    ],
)  # fmt: skip
def test_harm_is_noticed(text: str, found: str) -> None:
    assert strange(text, kind=".html") == [found]


def test_records_of_other_kinds_are_drawn_without_a_change_of_the_page(visit: Open) -> None:
    """A number; and a kind that the page does not know, as names and values."""
    page = visit()
    give(page, picture("ripe.jpg"))
    page.wait_for_selector(".answer")
    assert page.inner_text(".answer .label") == "4.25"
    assert page.locator(".bars, .in-set, .detail .serious, .detail dl, [data-act=heat]").count() == 0
    assert page.inner_text("#status") == "ripe.jpg: 4.25."
    give(page, picture("odd.jpg"))
    page.wait_for_selector(".answer.doubtful")
    assert [row[1:] for row in rows(page)] == [["text: <b>hello</b>, angles: [1,2]"], ["4.25"]]
    details = page.locator(".opened .detail dl > *").all_inner_texts()
    assert details == ["text", "<b>hello</b>", "angles", "[1,2]"]
    assert "Unlike anything seen in training" in page.inner_text(".opened .serious")
    with page.expect_download() as waiting:
        page.click("#csv")
    text = Path(waiting.value.path()).read_bytes().decode("utf-8")
    assert [row["label"] for row in csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))] == [
        "text: <b>hello</b>, angles: [1,2]",
        "4.25",
    ]


def test_a_model_of_another_kind_has_no_words_of_classes(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "MODELS", [{"name": "animals", "title": "ripeness", "kind": "number"}])
    page = visit()
    give(page, picture("ripe.jpg"), picture("ripe too.jpg"))
    page.wait_for_selector("#status:has-text('Done. 2 pictures.')")
    assert page.inner_text("#kind") == "Image model"
    assert page.locator("#list thead th:visible").all_inner_texts() == ["Picture", "Result"]
    page.click("#reading summary")
    assert page.locator("#reading dt:visible").all_inner_texts() == ["Unlike the training images", "Nearest training images"]


def test_a_picture_is_answered(visit: Open, canned: PageServer) -> None:
    page = visit()
    give(page, picture("doubt.jpg"))
    page.wait_for_selector(".answer")
    assert page.inner_text(".answer .label") == "cat"
    assert page.inner_text(".answer .headline") == "52.0 %"
    bars = page.locator(".bars tr").all()
    assert [bar.locator("th").inner_text() for bar in bars] == ["cat", "dog", "horse", "deer", "bird", "2 others"]
    wide = [bar.locator("i").bounding_box()["width"] / bar.locator(".track").bounding_box()["width"] for bar in bars]
    np.testing.assert_allclose(wide, [0.52, 0.40, 0.05, 0.02, 0.005, 0.005], atol=0.006)
    assert [bar.get_attribute("class") for bar in bars] == ["in", "in", "out", "out", "out", "rest"]
    assert "holds 2 classes" in page.inner_text(".in-set")
    assert "about 95\u00a0% of pictures" in page.inner_text(".in-set")
    assert page.inner_text(".names") == "cat, dog"
    assert page.locator(".nearest li").all_inner_texts() == ["cat cat.0.jpg", "cat cat.1.jpg", "dog dog.2.jpg"]
    assert [item.get_attribute("class") for item in page.locator(".nearest li").all()] == ["same", "same", "other"]
    assert page.locator(".detail .serious").count() == 0
    assert (
        page.inner_text("#status") == "doubt.jpg: cat, 52.0 %. The prediction set holds 2 classes: the model cannot rule out any of them."
    )
    (asked,) = canned.behaviour.asked
    assert asked["model"] == "animals"
    assert asked["name"] == "doubt.jpg"
    assert "explain" not in asked


def test_the_model_is_described(visit: Open) -> None:
    page = visit()
    said = page.locator("#about span").all_inner_texts()
    assert said == ["94.3 % right on 300 test images", "7 classes: cat, dog, horse, deer, bird, frog, ship", "from 2026-11-22"]
    assert page.get_attribute("#report", "href") == "models/animals/report"
    assert page.get_attribute("#card", "href") == "models/animals/card"


def test_what_is_unlike_is_not_to_be_believed(visit: Open) -> None:
    page = visit()
    give(page, picture("truck.jpg"))
    assert page.inner_text(".detail .serious").startswith("Unlike anything seen in training.")
    assert "Unlike anything seen in training." in page.inner_text("#status")
    assert page.locator(".answer.doubtful").count() == 1
    assert page.inner_text(".in-set") == "For such a picture, probabilities and prediction set promise nothing."
    assert page.locator(".bars tr.in").count() == 0


def test_pictures_of_another_world_are_told_before_everything_else(visit: Open) -> None:
    page = visit()
    give(page, picture("cat.jpg"))
    assert not page.is_visible("#drift")
    give(page, picture("drifted.jpg"))
    page.wait_for_selector("#drift:not([hidden])")
    assert page.inner_text("#drift") == (
        "The pictures come from another world than the training images: 190 of the last 200 are unlike these, where 3\u00a0% are expected. "
        "Probabilities and prediction sets do not hold for them."
    )
    assert page.locator("#drift").bounding_box()["y"] < page.locator("#take").bounding_box()["y"]
    page.click("#language")
    assert "最近 200 张图片中有 190 张与训练图片不相似，而预期约为 3%" in page.inner_text("#drift")
    give(page, picture("cat.jpg"))
    page.wait_for_selector("#drift", state="hidden")


def test_heat_is_fetched_when_it_is_wanted(visit: Open, canned: PageServer) -> None:
    page = visit()
    give(page, picture("cat.jpg"))
    page.wait_for_selector(".answer")
    assert page.evaluate("fetch('healthz').then((answer) => answer.status)") == 200  # what was asked before has arrived
    assert len(canned.behaviour.asked) == 1
    page.click("[data-act=heat]")
    assert page.get_attribute("img.heat", "src") == heat_png()
    assert [asked.get("explain") for asked in canned.behaviour.asked] == [None, "1"]
    assert page.get_attribute("[data-act=heat]", "aria-pressed") == "true"
    assert page.evaluate("document.activeElement.dataset.act") == "heat"
    page.click("[data-act=heat]")
    assert page.locator("img.heat").count() == 0
    page.click("[data-act=heat]")
    page.wait_for_selector("img.heat")
    assert len(canned.behaviour.asked) == 2


def test_many_pictures_make_a_table(visit: Open, canned: PageServer) -> None:
    page = visit()
    names = ["one.jpg", "doubt.jpg", "broken.jpg", "truck.jpg", "last.jpg"]
    give(page, *(picture(name) for name in names), {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    page.wait_for_selector("#status:has-text('Done. 6 pictures, 2 without an answer.')")
    found = {row[0].strip(): row[1:] for row in rows(page)}
    assert list(found) == [*names, "notes.txt"]
    assert [cell.strip() for cell in found["doubt.jpg"]] == ["cat", "52.0 %", "cat, dog", ""]
    assert found["truck.jpg"][-1] == "unlike"
    assert found["broken.jpg"] == ["truncated: the file ends before the picture does"]
    assert found["notes.txt"][0].startswith("Not a picture (text/plain).")
    assert sorted(asked["name"] for asked in canned.behaviour.asked) == sorted(names)
    page.select_option("#order", "doubt")
    assert [row[0].strip() for row in rows(page)] == ["broken.jpg", "notes.txt", "truck.jpg", "doubt.jpg", "one.jpg", "last.jpg"]


def test_the_table_is_a_file_without_formulas(visit: Open) -> None:
    page = visit()
    give(page, picture('=HYPERLINK("x"),1.jpg'), picture("broken.jpg"), picture("doubt.jpg"))
    page.wait_for_selector("#status:has-text('Done.')")
    with page.expect_download() as waiting:
        page.click("#csv")
    assert waiting.value.suggested_filename == "animals.csv"
    text = Path(waiting.value.path()).read_bytes().decode("utf-8")
    assert text.startswith("\ufeffname,model,label,probability,")
    first, broken, doubt = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    assert first["name"] == '\'=HYPERLINK("x"),1.jpg'
    assert broken["error"] == "truncated: the file ends before the picture does"
    assert broken["label"] == ""
    assert (doubt["label"], doubt["probability"], doubt["second"], doubt["second_probability"]) == ("cat", "0.52", "dog", "0.4")
    assert (doubt["set"], doubt["unlike"], doubt["error"]) == ("cat; dog", "false", "")


def test_files_and_folders_are_dropped(visit: Open, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    for file in (folder / "a.jpg", folder / "inner" / "b.jpg", tmp_path / "c.jpg"):
        file.write_bytes(picture(file.name)["buffer"])
    (folder / "read me.txt").write_text("not sent, and not shown")
    page = visit()
    drag = {"x": 600, "y": 400, "data": {"items": [], "files": [str(folder), str(tmp_path / "c.jpg")], "dragOperationsMask": 1}}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, **drag})
    page.wait_for_selector("#veil:not([hidden])")
    devtools.send("Input.dispatchDragEvent", {"type": "drop", **drag})
    page.wait_for_selector("#status:has-text('Done. 3 pictures.')")
    assert sorted(row[0].strip() for row in rows(page)) == ["a.jpg", "b.jpg", "c.jpg"]
    assert page.locator("#veil").is_hidden()


PASTE = """([name, type, data]) => {
  const transfer = new DataTransfer();
  if (name) transfer.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type }));
  else transfer.setData("text/plain", "words");
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
}"""


def test_a_picture_is_pasted(visit: Open, canned: PageServer) -> None:
    page = visit()
    page.evaluate(PASTE, ["", "", ""])
    assert page.inner_text("#status") == "There is no picture in the clipboard."
    sent = picture("image.png", kind="PNG")
    page.evaluate(PASTE, [sent["name"], sent["mimeType"], base64.b64encode(sent["buffer"]).decode()])
    page.wait_for_selector(".answer")
    assert re.fullmatch(r"clipboard-\d{6}\.png", canned.behaviour.asked[0]["name"])
    assert page.locator(".frame img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 48


def test_a_phone_offers_its_camera(visit: Open) -> None:
    page = visit(width=390, height=844, is_mobile=True, has_touch=True)
    assert page.locator("#photograph").is_visible()
    assert page.get_attribute("#camera", "capture") == "environment"
    page.set_input_files("#camera", [picture("photo.jpg")])
    page.wait_for_selector(".answer")
    assert page.locator("#photograph").is_visible()


def test_names_are_never_markup(visit: Open) -> None:
    page = visit()
    name = "<img src=x onerror=alert(1)>.jpg"
    give(page, picture(name), picture("broken <b>.jpg"))
    page.wait_for_selector("#status:has-text('Done.')")
    assert rows(page)[0][0].strip() == name
    assert page.locator("img[src=x], .row b").count() == 0


def test_another_model_is_asked_again(visit: Open, canned: PageServer) -> None:
    page = visit()
    give(page, picture("cat.jpg"))
    page.wait_for_selector(".answer")
    page.select_option("#model", "tags <i>")
    assert page.inner_text(".answer .label:has-text('indoors')") == "indoors, night"
    assert [asked["model"] for asked in canned.behaviour.asked] == ["animals", "tags <i>"]
    assert page.locator(".headline").count() == 0
    assert page.locator(".bars tr.rest").count() == 0
    assert page.inner_text(".nearest li.same") == "night, outdoors a.jpg"
    assert page.get_attribute("#report", "href") == "models/tags%20%3Ci%3E/report"
    assert page.locator("#card").is_hidden()


def test_a_token_is_asked_for_and_kept_for_the_tab(visit: Open, canned: PageServer) -> None:
    canned.behaviour.token = "the right one, and long"
    page = visit(wait=False)
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#asking-why:has-text('did not accept')")
    assert page.evaluate("document.activeElement.id") == "token"
    page.fill("#token", canned.behaviour.token)
    page.keyboard.press("Enter")
    page.wait_for_selector("#links:not([hidden])")
    give(page, picture("cat.jpg"))
    page.wait_for_selector(".answer")
    with page.expect_download() as waiting:
        page.click("#report")
    assert Path(waiting.value.path()).read_text() == "The page /models/animals/report"
    page.reload()
    page.wait_for_selector("#links:not([hidden])")
    assert page.locator("#asking").is_hidden()
    assert page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href").count("right") == 0


def test_without_a_token_nothing_is_shown(visit: Open, canned: PageServer) -> None:
    canned.behaviour.token = "the right one, and long"
    page = visit(wait=False)
    page.click("#asking-no")
    page.wait_for_selector("#trouble-text:has-text('The server asks for a token.')")
    page.click("#language")
    assert page.inner_text("#trouble-text") == "服务器要求提供令牌。"
    canned.behaviour.token = ""
    page.click("#again")
    page.wait_for_selector("#links:not([hidden])")
    assert page.locator("#trouble").is_hidden()


def test_a_busy_server_is_asked_again(visit: Open, canned: PageServer) -> None:
    page = visit()
    canned.behaviour.busy = 2
    give(page, picture("cat.jpg"))
    page.wait_for_selector(".answer")
    assert len(canned.behaviour.asked) == 3


def test_too_large_a_picture_is_made_smaller(visit: Open, canned: PageServer) -> None:
    page = visit()
    large = picture("large.jpg", side=2500)
    canned.behaviour.most_bytes = len(large["buffer"]) - 1000
    give(page, large)
    page.wait_for_selector(".detail .remark:has-text('2048 px')")
    first, second = canned.behaviour.asked
    assert second["bytes"] < canned.behaviour.most_bytes < first["bytes"]
    assert (second["name"], second["type"]) == ("large.jpg", JPEG)


def test_a_server_that_is_gone_is_told(visit: Open, canned: PageServer) -> None:
    page = visit()
    page.route("**/predict*", lambda route: route.abort())
    give(page, picture("cat.jpg"))
    assert page.inner_text(".detail .serious") == "The server does not answer. Is it still running?"
    page.unroute("**/predict*")
    page.click("[data-act=retry]")
    page.wait_for_selector(".answer")


def test_a_file_that_cannot_be_a_picture_is_not_sent(visit: Open, canned: PageServer) -> None:
    page = visit()
    give(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    page.wait_for_selector("#status:has-text('notes.txt: no answer. Not a picture (text/plain).')")
    give(page, {"name": "empty.jpg", "mimeType": JPEG, "buffer": b""})
    page.wait_for_selector("#status:has-text('The file is empty.')")
    assert canned.behaviour.asked == []


def test_a_long_list_is_stopped(visit: Open, canned: PageServer) -> None:
    page = visit()
    canned.behaviour.hold.clear()
    give(page, *(picture(f"{index}.jpg") for index in range(9)))
    page.wait_for_selector("#progress:not([hidden])")
    assert page.inner_text("#count") == "0 of 9 answered"
    page.click("#stop")
    page.wait_for_selector("#count:has-text('9 pictures, 9 without an answer')")
    canned.behaviour.hold.set()
    assert {row[1] for row in rows(page)} == {"stopped"}
    assert len(canned.behaviour.asked) <= 4
    page.locator("button.open").first.click()
    page.click("[data-act=retry]")
    page.wait_for_selector(".answer")
