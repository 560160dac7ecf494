"""Data sets as a notebook shows them: short HTML tables."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

SHOWN = 20  # classes; of more, the first


def cell(value: object) -> str:
    """Return `value` as HTML text; characters that do not print become a replacement mark."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)))


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return a table of the number of images by class (rows) and part (columns; ``""`` where the data say nothing)."""
    classes = list(next(iter(counts.values()), {}))
    shown = classes[:SHOWN]
    head = "".join(f"<th>{cell(part or 'images')}</th>" for part in counts)
    rows = "".join(
        f"<tr><td>{cell(name)}</td>{''.join(f'<td>{by_class.get(name, 0)}</td>' for by_class in counts.values())}</tr>" for name in shown
    )
    if len(classes) > len(shown):
        left = len(classes) - len(shown)
        rest = [sum(by_class.get(name, 0) for name in classes[SHOWN:]) for by_class in counts.values()]
        rows += f"<tr><td>and {left} more</td>{''.join(f'<td>{images}</td>' for images in rest)}</tr>"
    whole = "".join(f"<td><strong>{sum(by_class.values())}</strong></td>" for by_class in counts.values())
    rows += f"<tr><td><strong>together</strong></td>{whole}</tr>" if len(classes) > 1 else ""
    return f"<table><thead><tr><th>class</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
