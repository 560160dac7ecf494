"""Who may send requests, and what a browser may do with the responses."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from headstart.errors import ParameterError
from headstart.serve.refusals import Refusal, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_TOKEN = 16
_MAX_TOKEN_FILE = 4096
OPEN = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: they tell only that the service runs. The page itself and its files need none either."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
"""A report is one file with inline styles and without scripts. It came with the run, so it has none of this service's rights."""

HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""Added to every response that does not set them itself."""


def read_token(file: Path) -> str:
    """The token that a file holds: one line of at least `MIN_TOKEN` printable ASCII characters; spaces at its ends do not count."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_TOKEN_FILE + 1)
    except OSError as error:
        raise ParameterError(f"--token-file {file}: cannot be read ({error.strerror or error}).") from None
    token = data.decode("latin-1").strip()
    if not MIN_TOKEN <= len(token) <= _MAX_TOKEN_FILE or not token.isascii() or not token.isprintable() or " " in token:
        raise ParameterError(
            f"--token-file {file}: must hold one line of at least {MIN_TOKEN} letters, digits or symbols. Make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return token


class SecurityHeaders:
    """ASGI middleware that adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class Guard:
    """ASGI middleware that refuses those who may not send requests, before anything of the body is read.

    A token is required as ``Authorization: Bearer TOKEN``, except for `open_paths`. Without one, anyone on this machine may send requests,
    and only by the names of `hosts`: else a web page anywhere could point its own name at this machine and read the responses (DNS
    rebinding). `origins` are those of web pages, beside the service's own, that may send requests.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, open_paths: Iterable[str] = OPEN, origins: Iterable[str] = (), hosts: Iterable[str] = ()
    ) -> None:
        self._app = app
        self._token = None if token is None else _digest(token)
        self._open, self._origins = frozenset(open_paths), frozenset(origins)
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except Refusal as refusal:
                headers = Headers(scope=scope)
                unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
                await refuse(receive, send, refusal, unread=unread)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._token is None and _name_of(host) not in self._hosts:
            raise Refusal(421, "unknown_host", "This service is not known under that name. Call it by the address that it printed.")
        origin = headers.get("origin", "")
        if origin and origin not in self._origins and _netloc(origin) != host.lower():
            raise Refusal(403, "foreign_origin", "Web pages of other addresses may not use this service. Allow them with --cors.")
        if self._token is None or scope["path"] in self._open or scope["method"] == "OPTIONS":
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        # Digests are compared, so that the time reveals not even the length of the token.
        if not hmac.compare_digest(_digest(token.strip()), self._token) or kind.lower() != "bearer":
            raise Refusal(401, "token_wanted", "This service requires a token. Send the header Authorization: Bearer TOKEN.")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("latin-1")).digest()


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    return host.lower()[1:].partition("]")[0] if host.startswith("[") else host.lower().partition(":")[0]


def _netloc(origin: str) -> str:
    """The host and port of an origin; empty where it has none, as ``null``."""
    try:
        return urlsplit(origin.lower()).netloc
    except ValueError:
        return ""
