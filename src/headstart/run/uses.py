"""Every later use of a run's test images is recorded beside it: a score that has been looked at often is no longer a test."""

from __future__ import annotations

import contextlib
import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from headstart.text import printable

USES = "uses.jsonl"
_MOST = 1 << 20  # bytes that are read back


@dataclass(frozen=True, kw_only=True)
class Use:
    """One evaluation of the run, after it was written.

    `when` is UTC, ISO 8601. Of its `images`, `tested` were test images of the run, and the run had learned from `trained`. `accuracy` is
    the value of the headline score, and `score` its name.
    """

    when: str = ""
    data: str
    images: int
    tested: int
    trained: int
    accuracy: float
    score: str = "accuracy"

    def sentence(self) -> str:
        """The use as a sentence."""
        learned = f", and {self.trained} that it had learned from" if self.trained else ""
        images = f"{self.images} images of {printable(self.data)} ({self.tested} of them from the test part{learned})"
        return f"{self.when[:10]}: evaluated on {images}: {self.score.replace('_', ' ')} {self.accuracy:.4f}"


def record_use(run: Path, use: Use) -> bool:
    """Record a use; returns False where the folder cannot be written, which is no reason not to evaluate."""
    entry = asdict(use) | {"when": use.when or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        with (run / USES).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line)
    except OSError:
        return False
    return True


def uses_of(run: Path) -> tuple[Use, ...]:
    """The later uses of a run, the first one first; lines that cannot be read are passed over."""
    found = []
    with contextlib.suppress(OSError), (run / USES).open(encoding="utf-8", errors="replace") as file:
        for line in file.read(_MOST).split("\n"):  # splitlines would part names that hold U+2028 and its like
            with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
                use = Use(**json.loads(line))
                use.sentence()  # fails where an entry is none of its kind
                found.append(use)
    return tuple(found)
