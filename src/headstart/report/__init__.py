"""The pages of a run folder that people read: report.html, MODEL_CARD.md and the pictures."""

from headstart.report.curves import training_curves_png
from headstart.report.examples import example_rows, jpeg
from headstart.report.model_card import model_card
from headstart.report.page import page
from headstart.report.picture import confusion_matrix_png
from headstart.report.record import (
    EvidenceRow,
    Example,
    Finding,
    LearningCurveLike,
    RunReport,
    Trusted,
)
from headstart.report.writing import write_report

__all__ = [
    "EvidenceRow",
    "Example",
    "Finding",
    "LearningCurveLike",
    "RunReport",
    "Trusted",
    "confusion_matrix_png",
    "example_rows",
    "jpeg",
    "model_card",
    "page",
    "training_curves_png",
    "write_report",
]
