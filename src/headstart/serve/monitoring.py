"""What a service tells about itself: counters in the text format of Prometheus, and a log of one JSON object a line."""

from __future__ import annotations

import datetime
import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from headstart.modalities import MODALITIES, Modality
from headstart.text import reworded

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from headstart.reliability import Watch

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that tells several processes of a service where to count together."""

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64)
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})
_MAX_PATH = 200
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_log = logging.getLogger(__name__)


class Counted:
    """Counters of inputs of one kind, by the names of models: `predicted` by outcome, `judged` and `novel`, and the sizes of `batches`."""

    def __init__(self, modality: Modality, registry: CollectorRegistry) -> None:
        name, some = f"{modality.noun}s", f"{modality.noun}s".capitalize()
        self.predicted = Counter(f"headstart_{name}", f"{some} predicted, by model and outcome.", ("model", "outcome"), registry=registry)
        what = f"{some} predicted whose likeness to the training {name} is known, by model."
        self.judged = Counter(f"headstart_judged_{name}", what, ("model",), registry=registry)
        what = f"Of these, {name} unlike the training {name} (novel), by model; the share to expect is headstart_novel_expected_share."
        self.novel = Counter(f"headstart_novel_{name}", what, ("model",), registry=registry)
        what = f"{some} that went through the engine in one batch."
        self.batches = Histogram(f"headstart_burst_{name}", what, ("model",), buckets=_BATCH, registry=registry)


class Metrics:
    """Counters of one service, or of one of its processes."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = own = CollectorRegistry()
        self.requests = Counter("headstart_requests", "Responses, by route and status.", ("method", "route", "status"), registry=own)
        self.seconds = Histogram(
            "headstart_request_seconds", "From the headers of a request to the end of its response.", ("route",), buckets=_SECONDS,
            registry=own,
        )  # fmt: skip
        self._counted = {name: Counted(one, own) for name, one in MODALITIES.items()}
        what = "Share of novel inputs among inputs like the training data; far above it, inputs come from another world."
        self.expected = Gauge("headstart_novel_expected_share", what, ("model",), registry=own, multiprocess_mode="max")
        what = "Whether the last inputs of this process come from another world than the training data (1), by model."
        self.drifted = Gauge("headstart_drifted", what, ("model",), registry=own, multiprocess_mode="livemax")
        what = "Images that are being predicted or queued; of other inputs as many images as are as much work."
        self.waiting = Gauge("headstart_waiting_images", what, registry=own, multiprocess_mode="livesum")
        self.reloads = Counter("headstart_reloads", "Runs that were reloaded because their files had changed.", registry=own)

    def of(self, modality: Modality) -> Counted:
        """The counters of inputs of one kind."""
        return self._counted[modality.name]

    def watch(self, modality: Modality, model: str, watch: Watch) -> None:
        """Begin to count for a model, so that its counters are there before its first image, or the first after it was reloaded."""
        self.expected.labels(model).set(watch.rate.promised)
        self.judge(modality, model, watch, np.empty(0, dtype=bool))

    def judge(self, modality: Modality, model: str, watch: Watch, novel: npt.NDArray[np.bool_]) -> None:
        """Count inputs, bool (n,): whether each is novel; where the last ones begin to come from another world, the log says so."""
        before = watch.drifted
        watch.add(novel)
        self.of(modality).judged.labels(model).inc(len(novel))
        self.of(modality).novel.labels(model).inc(int(novel.sum()))
        self.drifted.labels(model).set(watch.drifted)
        if watch.drifted and not before:
            said = reworded("images come from another world than the training images", modality.noun, modality.article)
            _log.warning(said, extra={"model": model, **watch.to_dict()})

    def text(self) -> bytes:
        """All counters, of all processes of the service."""
        registry = self._registry
        if SHARED_FOLDER in os.environ:
            MultiProcessCollector(registry := CollectorRegistry())  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class RequestMonitor:
    """ASGI middleware that counts and logs every request; the outermost, so that it sees refusals too. No queries or headers are logged."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except BaseException:
            status = status or 500
            raise
        finally:
            self._report(scope, status, time.perf_counter() - begun)

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", None) or "none"  # its pattern and not a path: clients cannot create new ones
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        entry = {"method": method, "path": scope["path"][:_MAX_PATH], "status": status, "ms": round(seconds * 1e3, 1)}
        entry["client"] = scope["client"][0] if scope.get("client") else ""
        entry |= scope.get("state", {}).get("inputs", {})
        _log.info("request", extra=entry)


class JsonLines(logging.Formatter):
    """Formats a log record as JSON: ``time``, ``level``, ``event``, and the fields passed as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. No part of a record can begin a new line."""
        entry: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def logging_settings() -> dict[str, Any]:
    """Settings for `logging.config.dictConfig`: all log messages of the service and of uvicorn go to stderr as JSON."""
    loggers = {name: {"handlers": ["lines"], "level": "INFO", "propagate": False} for name in ("uvicorn", "headstart.serve")}
    # It logs a line of plain text for every odd byte that a client sends.
    loggers["python_multipart"] = {"level": "CRITICAL", "propagate": False}
    return {
        "version": 1, "disable_existing_loggers": False, "loggers": loggers,
        "formatters": {"lines": {"()": "headstart.serve.monitoring.JsonLines"}},
        "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr"}},
    }  # fmt: skip
