"""`Wishes`: where a model is to run, how fast, how large; for a recommendation."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.settings.field import Settings, documented, measure, number, one_of, option
from headstart.settings.fit import seconds

DEPLOYMENTS = ("laptop", "phone", "browser", "server", "gpu")


def _milliseconds(typed: str) -> float:
    return measure(typed, {"": 1.0, "ms": 1.0, "s": 1000.0}, words="a time such as 20ms or 0.5s", flag="--latency")


def _megabytes(typed: str) -> float:
    return measure(typed, {"": 1.0, "mb": 1.0, "kb": 0.001, "gb": 1000.0}, words="a size such as 20MB", flag="--size")


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
