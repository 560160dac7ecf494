"""Names, numbers and lists as a person reads them, on a terminal, in a report and in pictures."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def number(value: float) -> str:
    """Return `value` with four decimals, an integer as it is, and ``-`` for nan."""
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.4f}"


def percent(share: float, *, digits: int = 1) -> str:
    """Return 0.9867 as ``98.7 %``, and ``-`` for nan; only a share of exactly 1 or 0 is called 100 % or 0 %."""
    if math.isnan(share):
        return "-"
    text = f"{100 * share:.{digits}f}"
    step = 10.0**-digits
    if share < 1 and float(text) >= 100:
        return f"over {100 - step:.{digits}f} %"
    if share > 0 and float(text) == 0:
        return f"under {step:.{digits}f} %"
    return (text.rstrip("0").rstrip(".") if share in (0, 1) else text) + " %"


def duration(seconds: float) -> str:
    """Return seconds as ``250 ms``, ``9.8 s``, ``61 min 40 s``, and ``-`` for nan."""
    if math.isnan(seconds):
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def plural(count: int, noun: str) -> str:
    """Return ``1 image``, ``300 images`` ``2 classes`` or ``3 boxes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith(('s', 'x')) else 's'}"


def unread(errors: Sequence[object], images: int, then: str, *, count: int = 0, noun: str = "image") -> str:
    """Return what to say of inputs that cannot be read: how many of how many, what `then` happens, and the first five with their reasons.

    There are `count` of them, where `errors` are only the first.
    """
    count, shown = max(count, len(errors)), errors[:5]
    more = [f"and {count - len(shown)} more"] if count > len(shown) else []
    return f"{count} of {plural(images, noun)} cannot be read and {then}:" + "".join(f"\n  {one}" for one in (*shown, *more))


def reworded(sentence: str, noun: str, article: str) -> str:
    """Return a sentence about images as one about inputs of another kind.

    What all kinds of input share speaks of images, and is reworded where it reaches a person. Words in quotes, paths and code stay.
    """

    def word(found: re.Match[str]) -> str:
        before, said = found["article"], (noun.capitalize() if found["image"][0] == "I" else noun) + found["many"]
        return said if before is None else f"{article.capitalize() if before[0] == 'A' else article} {said}"

    return sentence if noun == "image" else _IMAGE.sub(word, sentence)


_IMAGE = re.compile(r"(?<![\w'\"`/.=-])(?:(?P<article>[Aa]n) )?(?P<image>[Ii]mage)(?P<many>s?)(?![\w'\"`/=-]|\.\w)")


def enumeration(names: list[str], *, most: int = 8, count: int = 0) -> str:
    """Return ``a, b and c``; past `most` names, or where there are `count` in all, ``a, b, c and 20 more``."""
    if len(names) > most or count > len(names):
        return ", ".join(names[:most]) + f" and {max(count, len(names)) - len(names[:most])} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def printable(text: str) -> str:
    """Return `text` with lone surrogates (from file names that are not UTF-8) written out, so that it can be printed and stored."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def unprintable(text: str) -> str:
    """Return the text that `printable` made this of, as far as it can be told."""
    return re.sub(r"\\(ud[89a-f][0-9a-f]{2})", lambda found: chr(int(found[1][1:], 16)), text)


def visible(text: str) -> str:
    """Return `text` with every character that does not print (line ends, terminal escapes, broken file names) as a replacement mark.

    Spaces of every kind become plain ones; the two joiners that scripts and emoji need are kept.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def visible_lines(text: str) -> str:
    """Return `text`, made visible, with its line ends."""
    return text if text.isprintable() else "\n".join(map(visible, text.split("\n")))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if unicodedata.category(character) == "Zs" else "\N{REPLACEMENT CHARACTER}"


def width(text: str) -> int:
    """Return how many columns of a terminal `text` takes: two for wide East Asian characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) or c in _JOINERS else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shorten(text: str, columns: int) -> str:
    """Return `text`, made visible, in at most `columns` columns: the middle goes, as names often differ at the end only."""
    text = visible(text)
    if width(text) <= columns:
        return text
    head, tail = text, text
    while width(head) > columns // 2:
        head = head[:-1]
    while width(tail) > columns - 1 - width(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def pad(text: str, columns: int) -> str:
    """Return `text` filled up with spaces to `columns` columns of a terminal."""
    return text + " " * (columns - width(text))


@cache
def font_at(size: int) -> Any:
    """Return one of the system's fonts for Pillow, which have far more scripts than Pillow's own; else that."""
    from PIL import ImageFont

    for name in SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def fitted(text: str, font: Any, room: float) -> str:
    """Return `text`, shortened as by `shorten` so that `font` draws it at most `room` pixels wide."""
    columns = width(text)
    while columns > 1 and font.getlength(shorten(text, columns)) > room:
        columns -= 1
    return shorten(text, columns)
