"""Writes the files."""

from __future__ import annotations

from pathlib import Path

from headstart.report.curves import training_curves_png
from headstart.report.model_card import model_card
from headstart.report.page import page
from headstart.report.picture import confusion_matrix_png
from headstart.report.record import RunReport


def write_report(folder: str | Path, report: RunReport) -> tuple[Path, ...]:
    """Write the pages and pictures of a run into `folder`; return their paths.

    They are report.html, MODEL_CARD.md, confusion_matrix.png unless the data are multi-label, and training_curves.png after a training.
    The folder must exist; files of these names are replaced. Raises OSError as the file system does.
    """
    folder = Path(folder)
    written = [folder / "report.html", folder / "MODEL_CARD.md"]
    for path, content in zip(written, (page(report), model_card(report)), strict=True):
        path.write_bytes(content.encode("utf-8", errors="replace"))  # the same bytes on every platform
    if not report.evaluation.multilabel:
        written.append(folder / "confusion_matrix.png")
        confusion_matrix_png(report.evaluation, written[-1], part=report.part)
    if report.history is not None and report.history.epochs:
        written.append(folder / "training_curves.png")
        training_curves_png(report.history, written[-1])
    return tuple(written)
