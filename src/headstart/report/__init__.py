"""The pages of a run folder that people read: report.html, MODEL_CARD.md and the pictures."""

from headstart.report.model_card import model_card
from headstart.report.page import Report, draw_png, page
from headstart.report.run_report import Sources, build_report, report_of, write_report

__all__ = ["Report", "Sources", "build_report", "draw_png", "model_card", "page", "report_of", "write_report"]
