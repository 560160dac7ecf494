"""report.html: one page that needs nothing else, no network and no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from headstart.report import curves, sections
from headstart.report.confidence import confidence
from headstart.report.gallery import examples
from headstart.report.learning import learning
from headstart.report.markup import text
from headstart.report.record import RunReport
from headstart.report.score_curves import ranking
from headstart.text import enumeration, percent, plural, shorten

Section = Callable[[RunReport], str]

SECTIONS: Mapping[str, tuple[str, str, Section]] = {
    "result": ("Result", "Result", sections.result),
    "confused": ("What is confused with what", "Confusions", sections.confusion),
    "examples": ("Examples", "Examples", examples),
    "classes": ("Class by class", "Classes", sections.classes),
    "curves": ("Each class against the others", "ROC", ranking),
    "confidence": ("How far its confidence can be trusted", "Confidence", confidence),
    "learning": ("Would more images help?", "Learning curve", learning),
    "images": ("Images", "Images", sections.images),
    "data": ("What was found in the data", "Data", sections.findings),
    "uses": ("Later uses of the test part", "Uses", sections.uses),
    "tried": ("What was tried", "Tried", sections.evidence),
    "training": ("Training", "Training", curves.training),
    "time": ("Time", "Time", sections.times),
    "repeat": ("To repeat this run", "Repeat", sections.repeat),
}
"""The sections in the order of the page: anchor -> heading, the word for it in the list of sections, and a function that returns its HTML,
or nothing where there is nothing to tell."""


def page(report: RunReport) -> str:
    """Return the whole page for `report`."""
    body, listed = [], []
    for anchor, (heading, word, section) in SECTIONS.items():
        if content := section(report):
            body.append(f'<section id="{anchor}"><h2>{text(heading)}</h2>{content}</section>')
            listed.append(f'<a href="#{anchor}">{text(word)}</a>')
    evaluation = report.evaluation
    about = f"{percent(evaluation.accuracy)} on {plural(evaluation.images, report.part + ' image')}"
    names = enumeration([shorten(name, 30) for name in report.classes], most=6)
    kind = "Multi-label image classifier" if evaluation.multilabel else "Image classifier"
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1"><meta name=color-scheme content="light dark">'
        f"<title>{text(report.title)}: {text(about)}</title><style>{_style()}</style></head><body><main>"
        f"<header><p class=kind>{kind}, {text(report.part)} report</p><h1>{text(report.title)}</h1>"
        f"<p class=kind>{plural(len(report.classes), 'class')}: {text(names)}</p></header>"
        f"<nav aria-label=sections>{''.join(listed[1:])}</nav>"
        f"{''.join(body)}<footer>Written by Headstart. This page is complete and loads nothing from anywhere.</footer>"
        "</main></body></html>\n"
    )


@cache
def _style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
