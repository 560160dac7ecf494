"""report.html: one page that needs nothing else, no network and no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from headstart.evaluate.wording import percent, plural
from headstart.report import curves, sections
from headstart.report.markup import text
from headstart.report.record import RunReport

Section = Callable[[RunReport], str]

SECTIONS: Mapping[str, Section] = {
    "Result": sections.result,
    "What is confused with what": sections.confusion,
    "Class by class": sections.classes,
    "Images": sections.images,
    "What was found in the data": sections.findings,
    "What was tried": sections.evidence,
    "Training": curves.training,
    "Time": sections.times,
    "To repeat this run": sections.repeat,
}
"""The sections in the order of the page: heading -> a function that returns its HTML, or nothing where there is nothing to tell."""


def page(report: RunReport) -> str:
    """Return the whole page for `report`."""
    body = []
    for heading, section in SECTIONS.items():
        if content := section(report):
            body.append(f"<section><h2>{text(heading)}</h2>{content}</section>")
    evaluation = report.evaluation
    about = f"{percent(evaluation.accuracy)} on {plural(evaluation.images, report.part + ' image')}"
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1"><meta name=color-scheme content="light dark">'
        f"<title>{text(report.title)}: {text(about)}</title><style>{_style()}</style></head><body><main>"
        f"<header><p class=kind>Image classifier, test report</p><h1>{text(report.title)}</h1></header>"
        f"{''.join(body)}<footer>Written by Headstart. This page is complete and loads nothing from anywhere.</footer>"
        "</main></body></html>\n"
    )


@cache
def _style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
