"""Files that can be read and yet are odd: another format than the name says, tiny pictures, strips, and nearly empty ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from headstart.audit.facts import Fact, Facts
from headstart.audit.findings import Finding
from headstart.data import Dataset

_EXAMPLES = 20
_TINY = 1 / 8  # of the median shorter side
_STRIP = 5.0  # times as long as wide, and as the median picture is
_EMPTY = 0.1  # of the median number of bytes a pixel: next to nothing to see, or a few large plain areas
_ENDINGS: Mapping[str, frozenset[str]] = {
    "JPEG": frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"}), "MPO": frozenset({".jpg", ".jpeg", ".mpo"}),
    "PNG": frozenset({".png", ".apng"}), "GIF": frozenset({".gif"}), "BMP": frozenset({".bmp", ".dib"}),
    "TIFF": frozenset({".tif", ".tiff"}), "WEBP": frozenset({".webp"}),
}  # fmt: skip


def find_suspicious(dataset: Dataset, facts: Facts) -> list[Finding]:
    """Return a note for each kind of oddity, with the files; nothing for arrays.

    Args:
        dataset: what was read.
        facts: what `gather` found, in the same order.
    """
    if isinstance(dataset.images, np.ndarray):
        return []
    rows = {i: row for i, row in enumerate(facts.rows) if not row.reason and row.width and row.height}
    if not rows:
        return []
    side = float(np.median([min(row.width, row.height) for row in rows.values()]))
    shape = float(np.median([_longish(row) for row in rows.values()]))
    density = {
        kind: float(np.median([_density(row) for row in rows.values() if row.format == kind])) for kind in {r.format for r in rows.values()}
    }
    names = dataset.names()

    def misnamed(name: str, row: Fact) -> str:
        ending = f".{name.rpartition('.')[2].lower()}" if "." in name.rpartition("/")[2] else ""
        known = _ENDINGS.get(row.format)
        return f"is {row.format}" if known is not None and ending and ending not in known else ""

    def tiny(name: str, row: Fact) -> str:
        return f"{row.width}x{row.height}" if min(row.width, row.height) < _TINY * side else ""

    def strip(name: str, row: Fact) -> str:
        return f"{row.width}x{row.height}" if _longish(row) > _STRIP * shape else ""

    def empty(name: str, row: Fact) -> str:
        return f"{row.size} bytes for {row.width}x{row.height}" if _density(row) < _EMPTY * density[row.format] else ""

    kinds: list[tuple[str, Callable[[str, Fact], str], str]] = [
        ("misnamed", misnamed, "of another format than the name says: often a download that went wrong. It is read all the same."),
        ("tiny", tiny, f"less than an eighth as large as is usual here ({side:.0f} pixels): thumbnail, or icon? Replace or drop it."),
        ("strips", strip, "very long and narrow: much of it is cut off, or squeezed. Crop it, or see --fit-image."),
        ("nearly empty", empty, "that takes a tenth of the usual space or less: a blank page, a plain colour or a drawing? Look at it."),
    ]
    found = []
    for kind, odd, words in kinds:
        listed = [f"{names[i]}: {said}" for i, row in rows.items() if (said := odd(names[i], row))]
        if listed:
            found.append(Finding(kind, "note", f"{len(listed)} x a file {words}", tuple(listed[:_EXAMPLES]), len(listed)))
    return found


def _longish(row: Fact) -> float:
    return max(row.width, row.height) / min(row.width, row.height)


def _density(row: Fact) -> float:
    return row.size / (row.width * row.height)
