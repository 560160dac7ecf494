"""One JSON object a line: what a service writes to stderr."""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as JSON: ``time``, ``level``, ``event``, and whatever was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. No part of a record can begin a new line."""
        entry: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def logging_settings(*, level: str = "INFO") -> dict[str, Any]:
    """Settings for `logging.config.dictConfig`: everything of the service and of uvicorn goes to stderr as JSON."""
    loggers = {name: {"handlers": ["lines"], "level": level, "propagate": False} for name in ("uvicorn", "headstart.serve")}
    # It has a line of its own, as plain text, for every odd byte that a client sends.
    loggers["python_multipart"] = {"level": "CRITICAL", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": "headstart.serve.log_lines.JsonLines"}},
        "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr"}},
        "loggers": loggers,
    }
