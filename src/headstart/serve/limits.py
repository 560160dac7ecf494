"""What a service accepts, in numbers. Whatever is beyond them is refused with a status and a sentence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from headstart.errors import ParameterError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_WHOLE = (
    "body",
    "bodies",
    "headers",
    "images",
    "large_pixels",
    "explained",
    "waiting",
    "waiting_per_client",
    "connections",
    "connections_per_client",
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a service, each for one process of it. Images have those of `headstart.modalities.image` beside these.

    Attributes:
        body: bytes of one request's body; more is answered with 413.
        bodies: bytes of all bodies in memory together; beyond them the slowest sender is answered with 503.
        headers: bytes of one request's headers; more is answered with 431.
        images: in one request; more is answered with 413.
        large_pixels: of the images of one request together, those counted that are slow to decode: JPEGs of more than 50 megapixels, and
            others, progressive JPEGs among them, of more than 8; more is answered with 413.
        explained: images in one request for heat maps; more is answered with 413.
        waiting: images that are being predicted or wait for it; beyond them requests are answered with 503.
        waiting_per_client: the same of one client address; beyond them its requests are answered with 429.
        connections: open at once; beyond them new ones are answered with 503.
        connections_per_client: the same of one client address, answered with 429.
        header_seconds: from the first byte of a request, or the opening of a connection, to the end of its headers; then 408.
        body_seconds: from the headers to the end of the body; then 408.
        answer_seconds: for predicting; then 503.
        idle_seconds: that an open connection is kept between two requests.
        send_seconds: that a client may leave an answer unread; then the connection is cut.
        stop_seconds: for requests under way when the service is stopped.
    """

    body: int = 10_000_000
    bodies: int = 256_000_000
    headers: int = 16_384
    images: int = 64
    large_pixels: int = 300_000_000
    explained: int = 8
    waiting: int = 256
    waiting_per_client: int = 128
    connections: int = 512
    connections_per_client: int = 384
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    idle_seconds: float = 15.0
    send_seconds: float = 20.0
    stop_seconds: float = 10.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < float("inf"):
                kind = "a whole number" if whole else "a number"
                raise ParameterError(f"The limit {field.name!r} must be {kind} above 0, got {value!r}.")
        for small, large in (
            ("body", "bodies"),
            ("images", "waiting_per_client"),
            ("waiting_per_client", "waiting"),
            ("connections_per_client", "connections"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise ParameterError(
                    f"The limit {small!r} ({getattr(self, small)}) must not be above {large!r} ({getattr(self, large)}): "
                    "no request could ever use it up."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**values)


def read_bytes(text: str) -> int:
    """A number of bytes as a person writes it: ``10MB`` is 10,000,000, ``10MiB`` is 10,485,760, ``512`` is 512.

    Raises:
        ParameterError: it cannot be understood.
    """
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMG]?I?B?)\s*", text.upper(), flags=re.ASCII)
    unit = found and (found[2] if found[2].endswith("B") or not found[2] else f"{found[2]}B")
    if not found or unit not in _UNITS:
        raise ParameterError(f"{text!r} is no size. Write it as 10MB, 512KB or 10MiB.")
    return int(float(found[1]) * _UNITS[unit])
