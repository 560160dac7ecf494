"""`Wishes`: where a model is to run, how fast, how large; for a recommendation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headstart.errors import ParameterError
from headstart.settings.field import Settings, documented, number, one_of, option
from headstart.settings.fit import seconds

DEPLOYMENTS = ("laptop", "phone", "browser", "server", "gpu")


def _milliseconds(typed: str) -> float:
    return _measure(typed, "--latency", {"": 1.0, "ms": 1.0, "s": 1000.0}, "20ms or 0.5s")


def _megabytes(typed: str) -> float:
    return _measure(typed, "--size", {"": 1.0, "mb": 1.0, "kb": 0.001, "gb": 1000.0}, "20MB")


def _measure(typed: str, flag: str, units: dict[str, float], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", typed.strip().casefold())
    if not found or found[2] not in units or not float(found[1]):
        raise ParameterError(f"{flag} must be a measure such as {example}, got {typed!r}.")
    return float(found[1]) * units[found[2]]


@documented
@dataclass(frozen=True, kw_only=True)
class Wishes(Settings):
    """What a recommended backbone must satisfy, and how long finding it may take."""

    deploy: str = option(
        "laptop", "Where the model will run: laptop, phone, browser, server or gpu.", one_of(*DEPLOYMENTS), metavar="PLACE",
        details="It limits size and operations: see `headstart.pipeline.recommending`.",
    )  # fmt: skip
    latency: float | None = option(
        None, "Longest time for one image on this machine, such as 20ms.", number(above=0), metavar="TIME", parse=_milliseconds,
        details="In milliseconds.",
    )  # fmt: skip
    size: float | None = option(
        None, "Largest file of the model, such as 20MB.", number(above=0), metavar="SIZE", parse=_megabytes, details="In megabytes (10^6)."
    )  # fmt: skip
    budget: float = option(
        120.0, "Time for the recommendation: 90s, 10m, 1h.", number(above=0), metavar="TIME", parse=seconds, details="In seconds."
    )  # fmt: skip
