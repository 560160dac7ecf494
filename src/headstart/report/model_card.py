"""MODEL_CARD.md in the format of the Hugging Face Hub: YAML at the head, Markdown below.

Source of the fields: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from headstart.report.page import Report, environment
from headstart.sections import Block, Bullets, Heading, Hub, Paragraph, Span, Table, Text
from headstart.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment

HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "openrail", "mpl-2.0"}
    | {"gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"}
    | {"cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"}
)
"""Identifiers that the Hub knows, of those that backbones have; any other licence is "other" with its name."""


def model_card(report: Report) -> str:
    """Return the text of MODEL_CARD.md for `report`."""
    licence = report.licence.strip().casefold()
    other = "" if licence in HUB_LICENCES else re.sub(r"[^a-z0-9.]+", "-", licence).strip("-") or "unknown"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
    text = _cards().get_template("card.md").render(
        report=report, hub=report.task.hub or Hub(pipeline_tag="", task_name=""), licence="other" if other else licence, licence_name=other,
        fence=fence,
    )  # fmt: skip
    return text.rstrip("\n") + "\n"


@cache
def _cards() -> Environment:
    cards = environment().overlay(autoescape=False, finalize=None)
    cards.filters = {**cards.filters, "markdown": markdown, "yaml": _yaml, "card": _block, "visible": visible}
    return cards


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"### {markdown(block.text)}"
    if isinstance(block, Paragraph):
        return _inline(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_inline(item)}" for item in block.items)
    if isinstance(block, Table):
        rows = [[_inline(cell) if isinstance(cell, str | tuple) else "" for cell in row] for row in block.rows]
        lines = [list(map(_inline, block.head)), ["---", *["---:"] * (len(block.head) - 1)], *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    raise TypeError(f"A {type(block).__name__} has no place in a model card.")


def _inline(text: Text) -> str:
    if isinstance(text, str):
        return markdown(text)
    return "".join(markdown((run.title or run.text) if isinstance(run, Span) else run) for run in text)


def markdown(value: object) -> str:
    """Return `value` as Markdown text in which nothing is taken for markup or HTML."""
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", visible(str(value)))


def _yaml(value: Any) -> str:
    """Write a plain word as it is, everything else as JSON, which is YAML too."""
    simple = isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_./-]*", value)
    if simple and value not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n"):
        return str(value)
    return json.dumps(visible(value) if isinstance(value, str) else value, ensure_ascii=False)
