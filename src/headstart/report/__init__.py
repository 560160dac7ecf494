"""The pages of a run folder that people read: report.html, MODEL_CARD.md and the pictures."""

from headstart.report.curves import training_curves_png
from headstart.report.picture import confusion_matrix_png
from headstart.report.record import EvidenceRow, Finding, RunReport
from headstart.report.writing import write_report

__all__ = ["EvidenceRow", "Finding", "RunReport", "confusion_matrix_png", "training_curves_png", "write_report"]
