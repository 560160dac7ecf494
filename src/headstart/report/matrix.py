"""The confusion matrix as HTML: a table for few classes, a drawing for many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headstart.evaluate import Evaluation
from headstart.report.gallery import Cell, cell_id
from headstart.report.markup import text
from headstart.text import percent, shorten, width

IN_A_TABLE = 15  # more columns than this do not fit on a page as a table
WITH_NUMBERS = 50  # more cells than this to a side are too small for a number


def shades(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how strongly each cell is coloured, float64 (k, k) from 0 to 1, by its share of the row.

    Errors by the square root of the share, so that one per cent is seen.
    """
    rows = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(rows, 1)
    strength = np.where(np.eye(len(confusion), dtype=bool), 0.12 + 0.88 * share, 0.18 + 0.82 * np.sqrt(share))
    return np.where(confusion > 0, strength, 0.0)


def confusion_matrix(evaluation: Evaluation, *, linked: frozenset[Cell] = frozenset()) -> str:
    """Return the confusion matrix of `evaluation` as HTML, and nothing for multi-label data; cells in `linked` lead to their images."""
    if evaluation.confusion is None:
        return ""
    if len(evaluation.classes) <= IN_A_TABLE:
        return _as_table(evaluation.classes, evaluation.confusion, linked)
    return _as_drawing(evaluation.classes, evaluation.confusion, linked)


def _as_table(classes: tuple[str, ...], confusion: NDArray[np.int64], linked: frozenset[Cell]) -> str:
    names = [shorten(name, 22) for name in classes]
    strength, rows = shades(confusion), confusion.sum(axis=1)
    upright = "" if len(classes) <= 4 and max(map(width, names)) <= 14 else " upright"
    body = []
    for i, name in enumerate(names):
        cells = "".join(
            f'<td class="{"hit" if i == j else "miss"}{" deep" if strength[i, j] > 0.55 else ""}" style="--a:{strength[i, j]:.2f}">'
            f"{_link((i, j), f'{confusion[i, j]}<small>{percent(confusion[i, j] / rows[i])}</small>', linked)}</td>"
            if confusion[i, j]
            else "<td>0</td>"
            for j in range(len(names))
        )
        body.append(f"<tr><th scope=row title='{text(classes[i])}'>{text(name)}</th>{cells}<td class=sum>{rows[i]}</td></tr>")
    head = "".join(f"<th scope=col title='{text(full)}'><span>{text(name)}</span></th>" for full, name in zip(classes, names, strict=True))
    return (
        f'<div class=scroll><table class="matrix{upright}"><thead>'
        f"<tr><th></th><th scope=colgroup colspan={len(names)} class=axis>named by the model</th></tr>"
        f"<tr><th class=axis>true class</th>{head}<th class=sum>images</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _as_drawing(classes: tuple[str, ...], confusion: NDArray[np.int64], linked: frozenset[Cell]) -> str:
    """Draw only the cells that are not empty: the others, nearly all of them, are the background."""
    count = len(classes)
    names = [shorten(name, 24) for name in classes]
    cell, left, top = 20, 8 + 7 * max(map(width, names)) + 34, 24
    strength, rows = shades(confusion), confusion.sum(axis=1)
    parts = [f"<rect class=ground x={left} y={top} width={cell * count} height={cell * count} />"]
    for i, name in enumerate(names):
        y = top + cell * i
        parts.append(
            f"<text x={left - 34} y={y + 14} class=name>{text(name)}</text><text x={left - 6} y={y + 14} class=index>{i + 1}</text>"
        )
        parts.append(f"<text x={left + cell * i + cell // 2} y={top - 7} class=column>{i + 1}</text>")
    for i, j in np.argwhere(confusion):
        x, y = left + cell * j, top + cell * i
        number = f"<text x={x + cell // 2} y={y + 14} class={'deep' if strength[i, j] > 0.55 else 'count'}>{confusion[i, j]}</text>"
        title = f"{confusion[i, j]} of {rows[i]} {names[i]} named {names[j]} ({percent(confusion[i, j] / rows[i])})"
        drawn = (
            f"<g><title>{text(title)}</title><rect class={'hit' if i == j else 'miss'} x={x} y={y} width={cell} height={cell} "
            f'style="--a:{strength[i, j]:.2f}" />{number if count <= WITH_NUMBERS and confusion[i, j] < 1000 else ""}</g>'
        )
        parts.append(_link((int(i), int(j)), drawn, linked))
    size = (left + cell * count + 4, top + cell * count + 4)
    return (
        f'<div class=scroll><svg class=matrix role=img aria-label="confusion matrix" viewBox="0 0 {size[0]} {size[1]}" '
        f'style="min-width:{min(size[0], 1100) * 0.8:.0f}px;max-width:{size[0]}px">{"".join(parts)}</svg></div>'
        "<p class=quiet>Rows: the true class. Columns: the class named by the model, with the numbers of the rows.</p>"
    )


def _link(cell: Cell, shown: str, linked: frozenset[Cell]) -> str:
    return f'<a href="#{cell_id(cell)}">{shown}</a>' if cell in linked else shown
