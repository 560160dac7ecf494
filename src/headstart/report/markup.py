"""The few pieces of HTML that the sections are made of. Whatever comes from a user goes through `text`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from headstart.text import visible


def text(value: object) -> str:
    """Return `value` as HTML text, also fit for an attribute in quotes; a number and its per cent sign stay on one line."""
    return escape(visible(str(value))).replace(" %", "&nbsp;%")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "", marked: frozenset[int] = frozenset()) -> str:
    """Return a table of ready HTML cells that scrolls by itself where the page is narrow; rows whose number is in `marked` stand out."""
    body = "".join(
        f"<tr{' class=marked' if index in marked else ''}><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for index, row in enumerate(rows)
    )
    columns = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    return f'<div class=scroll><table class="{kind}"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def bar(segments: Sequence[tuple[float, str]]) -> str:
    """Return a bar of segments (share of the full width from 0 to 1, CSS class)."""
    return "<span class=bar>" + "".join(f'<i class="{kind}" style="width:{100 * share:.2f}%"></i>' for share, kind in segments) + "</span>"


def whisker(value: float, interval: tuple[float, float], scale: tuple[float, float]) -> str:
    """Return a point with its interval on a scale that begins at `scale[0]` and is `scale[1]` long."""
    (low, high), (start, length) = interval, scale
    left, wide, point = 100 * (low - start) / length, 100 * (high - low) / length, 100 * (value - start) / length
    return f'<span class=whisker><i style="left:{left:.1f}%;width:{wide:.1f}%"></i><b style="left:{point:.1f}%"></b></span>'


def folded(summary: str, content: str) -> str:
    """Return `content` behind a line that opens it; `summary` is ready HTML."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def paragraphs(sentences: Iterable[str], *, kind: str = "") -> str:
    """Return each sentence, as text, in a paragraph."""
    return "".join(f'<p class="{kind}">{text(sentence)}</p>' for sentence in sentences if sentence)
