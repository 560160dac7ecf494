"""The run folder: what `fit` writes, and what `predict`, `evaluate` and everything later read. No pickle in it."""

from headstart.bundle.run import PROTOCOL, Predictions, Run, load
from headstart.bundle.write import RunContents, check_target, write_run

__all__ = ["PROTOCOL", "Predictions", "Run", "RunContents", "check_target", "load", "write_run"]
