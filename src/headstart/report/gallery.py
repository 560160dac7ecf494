"""The examples on the page: pictures right and wrong, grouped by what was taken for what, so that the confusion matrix can lead to them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from itertools import groupby

from headstart.report.markup import text
from headstart.report.record import Example, RunReport, picture_type
from headstart.text import percent, plural, shorten

MOST_BYTES = 2_400_000  # of pictures: 3.2 MB as base64, so that the page stays below 5 MB with much else on it

Cell = tuple[int, int]


def cell_id(cell: Cell) -> str:
    """Return the anchor of the examples of class number `cell[0]` that were named class number `cell[1]`."""
    return f"named-{cell[0]}-{cell[1]}"


def linked_cells(report: RunReport) -> frozenset[Cell]:
    """Return the cells of the confusion matrix that have examples."""
    if report.evaluation.multilabel:
        return frozenset()
    place = {name: index for index, name in enumerate(report.classes)}
    return frozenset(
        (place[example.target], place[example.predicted])
        for example in report.examples
        if example.target in place and example.predicted in place
    )


def examples(report: RunReport) -> str:
    """Mistakes, the most confident ones first, then images named rightly, the least sure ones first."""
    pictures = _Pictures()
    wrong = [example for example in report.examples if not example.right]
    right = [example for example in report.examples if example.right]
    parts = []
    if wrong:
        parts.append(
            "<h3>Named wrongly, the surest mistakes first</h3><p class=quiet>A mistake that the model is sure of can be a wrong label: "
            f"look at these first.</p>{_groups(report, wrong, pictures, sign=-1)}"
        )
    elif report.examples and report.evaluation.correct == report.evaluation.images:
        parts.append("<p>No image was named wrongly.</p>")
    if right:
        parts.append(f"<h3>Named rightly, the least sure first</h3>{_groups(report, right, pictures, sign=1)}")
    if any(example.heat for example in report.examples):
        parts.append(
            "<p class=quiet>The second picture shows where the image speaks for the class that was named: the warmer, the more. "
            "It says where the model looks, not why it is right.</p>"
        )
    if pictures.left_out:
        parts.append(f"<p class=quiet>{plural(pictures.left_out, 'picture')} left out, so that this page stays small.</p>")
    return "".join(parts)


class _Pictures:
    """Turns pictures into HTML as long as they have room on the page."""

    def __init__(self) -> None:
        self.room, self.left_out = MOST_BYTES, 0

    def __call__(self, data: bytes, alt: str, *, kind: str = "") -> str:
        if len(data) > self.room:
            self.left_out += 1
            return f'<span class="absent {kind}">no picture</span>'
        self.room -= len(data)
        return f'<img class="{kind}" src="data:{picture_type(data)};base64,{b64encode(data).decode()}" alt="{text(alt)}">'


def _groups(report: RunReport, examples: Iterable[Example], pictures: _Pictures, *, sign: int) -> str:
    """Put images of one confusion side by side: the group of the first image first."""
    ordered = sorted(examples, key=lambda example: sign * example.probability)
    first: dict[tuple[str, str], int] = {}
    for place, example in enumerate(ordered):
        first.setdefault((example.target, example.predicted), place)
    ordered.sort(key=lambda example: first[example.target, example.predicted])
    groups = groupby(ordered, key=lambda example: (example.target, example.predicted))
    return f"<div class=groups>{''.join(_group(report, names, list(group), pictures) for names, group in groups)}</div>"


def _group(report: RunReport, names: tuple[str, str], examples: list[Example], pictures: _Pictures) -> str:
    (target, predicted), found = names, report.evaluation
    anchor, back, of = "", "", ""
    if not found.multilabel and target in found.classes and predicted in found.classes and found.confusion is not None:
        cell = (found.classes.index(target), found.classes.index(predicted))
        count = int(found.confusion[cell])
        anchor = f' id="{cell_id(cell)}"'
        of = f"{len(examples)} of {count}" if count > len(examples) else f"{len(examples)}" if count > 1 else ""
        back = ' <a class=back href="#confused" title="back to the confusion matrix" aria-label="back to the confusion matrix">↑</a>'
    one, other = text(shorten(target, 24)), text(shorten(predicted, 24))
    said = f"<b>{one}</b> named rightly" if target == predicted else f"<b>{one}</b> named <b>{other}</b>"
    tally = f" <span class=quiet>{of}</span>" if of else ""
    cards = "".join(_card(example, pictures) for example in examples)
    return f"<div class=group{anchor}><h4>{said}{tally}{back}</h4><div class=cards>{cards}</div></div>"


def _card(example: Example, pictures: _Pictures) -> str:
    shown = pictures(example.image, f"{example.name}: labelled {example.target}, named {example.predicted}")
    if example.heat is not None:
        shown += pictures(example.heat, "the same with a heat map")
    kind, named = ("right", "") if example.right else ("wrong", f": {shorten(example.predicted, 40)}")
    sure = f"<span class=sure><i style='width:{100 * min(1.0, max(0.0, example.probability)):.1f}%'></i></span>"
    return (
        f"<article class='card {kind}'><div class=pair>{shown}</div>"
        f"<p class=said>{sure}<span>{text(f'{percent(example.probability)} sure{named}')}</span></p>"
        f"<p class=name title='{text(example.name)}'>{text(shorten(example.name, 44))}</p>{_neighbours(example, pictures)}</article>"
    )


def _neighbours(example: Example, pictures: _Pictures) -> str:
    if not example.neighbours:
        return ""
    shown = "".join(
        f"<li class={'same' if label == example.target else 'other'} title='{text(name)}: {text(label)}'>"
        f"{pictures(image, name) if image is not None else ''}<span>{text(shorten(label, 14))}</span></li>"
        for name, label, image in example.neighbours
    )
    return f"<p class=near>Nearest in training</p><ul class=neighbours>{shown}</ul>"
