"""`BatchSettings` and `Shard`: how images are predicted, and how long work is divided."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from headstart.errors import ParameterError, setting
from headstart.settings.field import SWITCH, TEXT, Limit, Settings, documented, instance_of, number, option, whole

TABLE_SUFFIXES = (".parquet", ".pq", ".csv", ".jsonl", ".ndjson")
"""End the names of tables."""

_POWER_OF_TWO = Limit("a power of two up to 65536", lambda value: value in [1 << power for power in range(17)])


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of the work, `index` from 1 to `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"2/8"``; ParameterError for another form, or out of range."""
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ParameterError(f"--shard must be i/n with i from 1 to n, for example 2/8; got {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@documented
@dataclass(frozen=True, kw_only=True)
class BatchSettings(Settings):
    """Settings of a batch job; without ``--batch``, `top`, `accuracy`, `confidence` and `engine` are those of ``headstart predict``."""

    top: int = option(1, "How many classes of each image, the most probable first.", whole(1), metavar="K")
    accuracy: float | None = option(
        None, "Predict only where the model is right that often, such as 0.99, and abstain from the rest.", number(), metavar="A",
        details="See `Run.threshold_for`.",
    )  # fmt: skip
    confidence: float | None = option(
        None, "Lowest confidence of what is named. [default: for boxes the threshold of the run]", number(least=0, most=1), metavar="SHARE",
        details="Instead of `accuracy`.",
    )  # fmt: skip
    engine: str = option("auto", "auto, openvino or onnxruntime.", TEXT, metavar="NAME")
    resume: bool = option(False, "Of --batch: continue a job that was interrupted; start it if there is none.", SWITCH)
    shard: Shard | None = option(
        None, "Of --batch: make only the I-th of N parts of the table.", instance_of(Shard, "a Shard"), metavar="I/N", parse=Shard.parse,
        details="See `headstart.batch.merge`.",
    )  # fmt: skip
    part: int = option(
        512, "Images in a part, which is what a killed job loses at most.", _POWER_OF_TWO, flag="",
        details="A multiple of the images whose reliability is computed together.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.confidence is not None and self.accuracy is not None:
            both = f"{setting('confidence', self.confidence)} and {setting('accuracy', self.accuracy)}"
            raise ParameterError(f"{both} are two ways to say how sure the model must be. Give one of them.")
