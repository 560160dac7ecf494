"""The result in a few lines: what a reader who stops after the first screen should know."""

from __future__ import annotations

import numpy as np

from headstart import metrics
from headstart.report.confidence import FIRST, calibrated
from headstart.report.markup import text
from headstart.report.record import RunReport
from headstart.text import percent, plural, shorten

ANSWERED = 0.9  # the share of images for which the accuracy of the surest is told


def in_short(report: RunReport) -> str:
    """Return the list, each line with a link to the section that says more; nothing for a report that has no more than scores."""
    lines = [(where, said) for where, said in (_data(report), _mistakes(report), _sure(report), _more(report)) if said]
    items = "".join(f'<li>{text(said)} <a href="#{where}" class=more aria-label="more on this">more</a></li>' for where, said in lines)
    return f"<ul class=short>{items}</ul>"


def _mistakes(report: RunReport) -> tuple[str, str]:
    found = report.evaluation
    if found.multilabel or found.correct == found.images:
        return "confused", ""
    worst = found.confusions(1)[0]
    wrong = found.images - found.correct
    said = f"{plural(wrong, 'image')} named wrongly"
    if wrong > 1 == worst.images:
        return "confused", f"{said}, no confusion more than once."
    most = ":" if wrong == 1 else ", most often" if worst.images < wrong else ", always"
    what = f"{shorten(worst.target, 30)} named {shorten(worst.predicted, 30)}"
    return "confused", f"{said}{most} {what} ({worst.images} of {worst.of})."


def _sure(report: RunReport) -> tuple[str, str]:
    said, found = calibrated(report), report.evaluation
    if not found.multilabel and found.images >= 5 * FIRST:
        share, right, _ = metrics.accuracy_coverage(*found.outcome.statements)
        surest = float(right[np.searchsorted(share, ANSWERED - 1e-9)])
        said += f" On the {percent(ANSWERED, digits=0)} of the images that it is surest of, it is right in {percent(surest)}."
    return "confidence", said


def _data(report: RunReport) -> tuple[str, str]:
    serious = [finding for finding in report.findings if finding.serious]
    if not serious:
        return "data", ""
    first = serious[0].text
    return "data", first if len(serious) == 1 else f"{len(serious)} findings in the data touch the score. The first: {first}"


def _more(report: RunReport) -> tuple[str, str]:
    return "learning", "" if report.learning_curve is None else report.learning_curve.sentence
