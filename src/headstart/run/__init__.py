"""The run folder: what `fit` writes, and what `predict`, `evaluate` and everything later read. No pickle in it."""

from headstart.run.judging import Judgement
from headstart.run.predictions import Predictions
from headstart.run.run import EVALUATION, MODEL, OUTPUTS, PAGES, PROTOCOL, TRUST, Run, is_run, load
from headstart.run.uses import Use, record_use, uses_of
from headstart.run.write import RunContents, check_target, entries_of, jsonable, replace_pages, write_run

__all__ = [
    "EVALUATION",
    "MODEL",
    "OUTPUTS",
    "PAGES",
    "PROTOCOL",
    "TRUST",
    "Judgement",
    "Predictions",
    "Run",
    "RunContents",
    "Use",
    "check_target",
    "entries_of",
    "is_run",
    "jsonable",
    "load",
    "record_use",
    "replace_pages",
    "uses_of",
    "write_run",
]
