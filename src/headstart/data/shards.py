"""One of several equal parts of a long work, for several machines or jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from headstart.errors import ParameterError


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of the work, `index` from 1 to `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"2/8"``.

        Raises:
            ParameterError: not of that form, or out of range.
        """
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ParameterError(f"--shard must be i/n with i from 1 to n, for example 2/8; got {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
