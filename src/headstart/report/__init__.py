"""The pages of a run folder that people read: report.html, MODEL_CARD.md and the pictures."""

from headstart.report.model_card import model_card
from headstart.report.page import Report, page
from headstart.report.pictures import draw_png, png
from headstart.report.run_report import Sources, build_report, pages, report_of, write_report

__all__ = ["Report", "Sources", "build_report", "draw_png", "model_card", "page", "pages", "png", "report_of", "write_report"]
