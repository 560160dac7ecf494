"""`ServerSettings` and `Limits`: what a service serves, where, and what it accepts."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from headstart.errors import ParameterError
from headstart.settings.field import PATH, TEXT, Settings, documented, instance_of, list_of, number, option, whole

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
_NOT_ABOVE = (
    ("body", "bodies"), ("images", "waiting_per_client"), ("waiting_per_client", "waiting"), ("connections_per_client", "connections"),
)  # fmt: skip


def read_bytes(text: str) -> int:
    """A number of bytes as a person writes it: ``10MB`` is 10,000,000, ``10MiB`` is 10,485,760, ``512`` is 512."""
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMG]?|[KMG]I)B?\s*", text.upper(), flags=re.ASCII)
    if not found:
        raise ParameterError(f"{text!r} is not a size. Write it as 10MB, 512KB or 10MiB.")
    return int(float(found[1]) * _UNITS[found[2]])


def _count(default: int, help: str, flag: str = "") -> Any:
    return option(default, help, whole(1), flag=flag, metavar="N")


def _seconds(default: float, help: str, flag: str = "") -> Any:
    return option(default, help, number(above=0), flag=flag, metavar="S")


@documented
@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """The limits of a service, each for one of its processes. Images also have those of `headstart.modalities.image`."""

    body: int = option(
        10_000_000, "Bytes of one request's body; more is refused with 413.", whole(1), flag="--max-body", metavar="SIZE", shown="10MB",
        parse=read_bytes,
    )  # fmt: skip
    bodies: int = _count(256_000_000, "Bytes of all bodies in memory together; beyond them the slowest sender is refused with 503.")
    headers: int = _count(16_384, "Bytes of one request's headers; more is refused with 431.")
    images: int = _count(64, "Images in one request; more is refused with 413.", "--max-images")
    texts: int = _count(1000, "Texts in one request; more is refused with 413.", "--max-texts")
    text_bytes: int = option(
        100_000, "Bytes of one text in UTF-8; a longer one has an error in its place.", whole(1), flag="--max-text", metavar="SIZE",
        shown="100KB", parse=read_bytes,
    )  # fmt: skip
    large_pixels: int = _count(
        300_000_000, "Pixels of one request's images together, counting only those that are slow to decode: JPEGs of more than 50 "
        "megapixels, and others, progressive JPEGs among them, of more than 8; more is refused with 413.",
    )  # fmt: skip
    explained: int = _count(8, "Images in one request for heat maps; more is refused with 413.")
    waiting: int = _count(
        256,
        "Images being predicted or queued, half of them from one client address, many texts as one image; then 503.",
        "--max-waiting",
    )
    waiting_per_client: int = _count(128, "The same of one client address; then its requests are refused with 429.")
    connections: int = _count(512, "Open connections, three quarters of them from one client address; then 503.", "--max-connections")
    connections_per_client: int = _count(384, "The same of one client address; then 429.")
    header_seconds: float = _seconds(10.0, "For the headers of a request to arrive, from its first byte; then 408.", "--header-seconds")
    body_seconds: float = _seconds(30.0, "For its body to arrive after them; then 408.", "--body-seconds")
    answer_seconds: float = _seconds(30.0, "For predicting; then 503.", "--answer-seconds")
    idle_seconds: float = _seconds(15.0, "That an open connection is kept between two requests.")
    send_seconds: float = _seconds(20.0, "That a client may leave a response unread; then the connection is cut.")
    stop_seconds: float = _seconds(10.0, "For requests in progress when the service is stopped.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in _NOT_ABOVE:
            small, large = getattr(self, low), getattr(self, high)
            if small > large:
                raise ParameterError(f"The limit {low!r} ({small}) must not be above {high!r} ({large}): no request could ever reach it.")

    @classmethod
    def around(cls, **some: Any) -> Self:
        """Limits of which some are set, and those that depend on them are in proportion."""
        body, images, waiting, connections = (some.get(name, getattr(cls, name)) for name in ("body", "images", "waiting", "connections"))
        return cls(
            bodies=max(cls.bodies, body), explained=min(cls.explained, images), waiting_per_client=max(images, waiting // 2),
            connections_per_client=max(1, connections * 3 // 4), **some,
        )  # fmt: skip


@documented
@dataclass(frozen=True, kw_only=True)
class ServerSettings(Settings):
    """What to serve, and where."""

    runs: tuple[Path, ...] = option((), "Folders of runs.", list_of(PATH), flag="")
    host: str = option("127.0.0.1", "Where to listen; any but this machine's own addresses need --token-file.", TEXT, metavar="ADDRESS")
    port: int = option(8000, "0 for any that is free.", whole(0, 65535), metavar="N")
    token_file: Path | None = option(None, "Holds the token that clients must send.", PATH, metavar="FILE")
    origins: tuple[str, ...] = option(
        (), "A web page of this address may send requests too, such as https://example.org; repeatable.", list_of(TEXT),
        flag="--cors", metavar="ORIGIN", several=True,
    )  # fmt: skip
    workers: int = option(1, "Processes; each has its own copy of the runs, and its own limits.", whole(1, 64), metavar="N")
    limits: Limits = option(Limits(), "Of each process.", instance_of(Limits, "a Limits"), flag="", nested=Limits)
    engine: str = option("auto", "auto, openvino or onnxruntime.", TEXT, metavar="NAME")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "runs", tuple(map(Path, self.runs)))
        object.__setattr__(self, "token_file", None if self.token_file is None else Path(self.token_file))
        if self.token_file is None and not _is_loopback(self.host):
            raise ParameterError(
                f"--host {self.host} can be reached from other machines: give a token with --token-file FILE, or keep --host at 127.0.0.1."
            )
        for origin in self.origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2 or "*" in origin:
                raise ParameterError(f"--cors {origin}: name one address such as https://example.org, without a path and without *.")


def _is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
