"""The run folder: what `fit` writes, and what `predict`, `evaluate` and everything later read. No pickle in it."""

from headstart.bundle.run import PROTOCOL, Predictions, Run, is_run, load
from headstart.bundle.write import RunContents, check_target, jsonable, write_run

__all__ = ["PROTOCOL", "Predictions", "Run", "RunContents", "check_target", "is_run", "jsonable", "load", "write_run"]
