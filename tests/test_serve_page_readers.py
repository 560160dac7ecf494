"""The web page for every reader: by keyboard, by ear, on a phone, in the dark, in both languages. Skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from page_server import MODELS, give, picture, rows

pytest_plugins = ["page_browser"]
Open = Callable[..., Any]


def test_the_keyboard_is_enough(visit: Open) -> None:
    page = visit()
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["language", "model", "report", "card", "choose", "SUMMARY"]
    give(page, picture("a.jpg"), picture("b.jpg"))
    page.wait_for_selector("#status:has-text('Done.')")
    page.locator("button.open").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    opened = page.locator("button.open[aria-expanded=true]")
    assert opened.inner_text().strip() == "b.jpg"
    assert opened.evaluate(
        "(button) => button === document.activeElement && !document.getElementById(button.getAttribute('aria-controls')).hidden"
    )
    page.focus("#clear")
    page.keyboard.press("Space")
    assert page.locator("#results").is_hidden()
    assert page.evaluate("document.activeElement.id") == "choose"


NAMELESS = """() => [...document.querySelectorAll("button, select, a, input:not([hidden]), img, section")].filter((part) => {
  const named = part.getAttribute("aria-label") || part.labels?.[0]?.textContent || part.textContent;
  return part.tagName === "IMG" ? !part.hasAttribute("alt") : !named?.trim();
}).map((part) => part.outerHTML)"""


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_everything_has_a_name(visit: Open, language: str) -> None:
    page = visit(locale=language)
    give(page, picture("a.jpg"))
    page.wait_for_selector(".answer")
    assert page.evaluate(NAMELESS) == []
    assert page.get_attribute("html", "lang") == {"en-GB": "en", "zh-CN": "zh-Hans"}[language]


SPOKEN = """async () => {
  const { LANGUAGES, languageOf } = await import("/static/words.js");
  const kind = (one) => (typeof one === "function" ? `function of ${one.length}` : typeof one);
  const kinds = Object.values(LANGUAGES).map((words) => Object.fromEntries(Object.entries(words).map(([key, one]) => [key, kind(one)])));
  const used = [...document.querySelectorAll("[data-word], [data-label]")].map((part) => part.dataset.word ?? part.dataset.label);
  const asked = [[["fr", "zh-TW"], ""], [["fr"], ""], [["zh"], "en"], [["en"], "constructor"]];
  return [kinds, used, asked.map(([preferred, chosen]) => languageOf(preferred, chosen))];
}"""


def test_both_languages_say_everything(visit: Open) -> None:
    page = visit()
    kinds = page.evaluate(SPOKEN)
    (english, chinese), used, chosen = kinds
    assert english == chinese
    assert set(used) <= english.keys()
    assert chosen == ["zh-Hans", "en", "en", "en"]


def test_the_language_is_switched_and_remembered(visit: Open) -> None:
    page = visit(locale="zh-CN")
    give(page, picture("truck.jpg"), picture("broken.jpg"))
    page.wait_for_selector("#status:has-text('完成')")
    assert page.inner_text("#choose") == "选择图片"
    assert rows(page)[0][-1] == "不相似"
    page.click("#language")
    assert page.inner_text("#choose") == "Choose pictures"
    assert rows(page)[0][-1] == "unlike"
    page.reload()
    page.wait_for_selector("#links:not([hidden])")
    assert page.inner_text("#choose") == "Choose pictures"


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_runs_over_the_side(visit: Open, width: int) -> None:
    page = visit(width=width, has_touch=width < 1000)
    page.evaluate("document.documentElement.style.overflow = 'visible'")
    give(page, picture("a" * 120 + ".jpg"), picture("truck.jpg"), picture("broken.jpg"))
    page.wait_for_selector("#status:has-text('Done.')")
    page.locator("button.open").first.click()
    page.wait_for_selector(".answer")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#clear").bounding_box()["x"] + page.locator("#clear").bounding_box()["width"] <= width


CONTRAST = """() => {
  const linear = (part) => (part <= 0.03928 * 255 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const behind = (part) => {
    for (let one = part; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const part of document.querySelectorAll("body *")) {
    const words = [...part.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!words || !part.checkVisibility() || part.classList.contains("unseen")) continue;
    const [one, two] = [light(parts(getComputedStyle(part).color)), light(behind(part))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (two + 0.05), part.textContent.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_can_be_read(visit: Open, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (scheme == "light")
    give(page, picture("truck.jpg"), picture("broken.jpg"))
    page.wait_for_selector("#status:has-text('Done.')")
    page.locator("button.open").first.click()
    page.click("summary")
    measured = page.evaluate(CONTRAST)
    assert len(measured) > 40
    assert measured[0][0] >= 4.5, measured[:3]  # WCAG 2.2, 1.4.3


def test_the_canned_models_are_those_that_the_page_lists(visit: Open) -> None:
    page = visit()
    assert page.locator("#model option").all_inner_texts() == [model["title"] for model in MODELS]
