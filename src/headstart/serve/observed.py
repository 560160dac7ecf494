"""Counts every request, and writes a line about it into the log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from headstart.serve.metrics_text import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})
_LONGEST_PATH = 200


class Observed:
    """ASGI middleware; the outermost, so that it sees refusals too. Neither queries nor headers are written down."""

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
        route = getattr(scope.get("route"), "path", None) or "none"
        self._metrics.request(method, route, status, seconds)
        entry = {"method": method, "path": scope["path"][:_LONGEST_PATH], "status": status, "ms": round(seconds * 1e3, 1)}
        entry["client"] = scope["client"][0] if scope.get("client") else ""
        images = scope.get("state", {}).get("images")
        if images is not None:
            entry["images"] = images
        _log.info("request", extra=entry)
