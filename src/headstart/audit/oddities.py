"""Images that are odd: nearly black or empty, tiny, strips, or of another format than their names say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from headstart.audit.facts import Fact, Facts
from headstart.audit.findings import Finding, Severity
from headstart.data import Dataset
from headstart.modalities.image.levels import clipped_note, levels_note

_FAINT = 15  # of 255: from the darkest to the brightest value
_TINY = 1 / 8  # of the median shorter side
_STRIP = 5.0  # times as long as wide, and as the median picture is
_EMPTY = 0.1  # of the median number of bytes a pixel: next to nothing to see, or a few large plain areas
_ENDINGS: Mapping[str, frozenset[str]] = {
    "JPEG": frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"}), "MPO": frozenset({".jpg", ".jpeg", ".mpo"}),
    "PNG": frozenset({".png", ".apng"}), "GIF": frozenset({".gif"}), "BMP": frozenset({".bmp", ".dib"}),
    "TIFF": frozenset({".tif", ".tiff"}), "WEBP": frozenset({".webp"}),
}  # fmt: skip


def find_faint(dataset: Dataset, facts: Facts) -> list[Finding]:
    """Images of which next to nothing is seen after decoding, and how those of more than 8 bits are scaled."""
    found = [] if dataset.levels is None else [Finding("levels", "note", levels_note(dataset.levels))]
    if dataset.common_levels.clipped:
        found.append(Finding("levels", "warning", clipped_note(dataset.common_levels)))
    spans = [(name, *row.span) for name, row in zip(dataset.names(), facts.rows, strict=True) if row.span is not None]
    faint = [f"{name}: values from {low} to {high} of 255" for name, low, high in spans if high - low <= _FAINT]
    message = (
        f"{len(faint)} of {len(dataset)} images have next to no contrast after decoding: they are nearly black, white or of one colour. "
        "Samples of more than 8 bits may have outliers, and transparency is laid over white. If so, convert them to 8 bits."
    )
    severity: Severity = "warning" if len(faint) > len(dataset) / 10 else "note"
    return found + Finding.of("faint", severity, message, faint, len(faint))


def find_suspicious(dataset: Dataset, facts: Facts) -> list[Finding]:
    """Return a note for each kind of oddity, with the files; nothing for arrays. `facts` are in the order of the data."""
    if isinstance(dataset.inputs, np.ndarray):
        return []
    named = [(name, row) for name, row in zip(dataset.names(), facts.rows, strict=True) if not row.reason and row.width and row.height]
    rows = [row for _, row in named]
    if not rows:
        return []
    side = np.median([min(row.width, row.height) for row in rows])
    shape = np.median([_longish(row) for row in rows])
    density = {kind: np.median([_density(row) for row in rows if row.format == kind]) for kind in {row.format for row in rows}}
    odd: dict[str, list[str]] = {kind: [] for kind in ("misnamed", "tiny", "strips", "nearly empty")}
    for name, row in named:
        size, ending = f"{row.width}x{row.height}", PurePosixPath(name).suffix.lower()
        if ending and ending not in _ENDINGS.get(row.format, {ending}):
            odd["misnamed"].append(f"{name}: is {row.format}")
        if min(row.width, row.height) < _TINY * side:
            odd["tiny"].append(f"{name}: {size}")
        if _longish(row) > _STRIP * shape:
            odd["strips"].append(f"{name}: {size}")
        if _density(row) < _EMPTY * density[row.format]:
            odd["nearly empty"].append(f"{name}: {row.size} bytes for {size}")
    words = {
        "misnamed": "of another format than the name says: often a download that went wrong. It is read all the same.",
        "tiny": f"less than an eighth as large as is usual here ({side:.0f} pixels): thumbnail, or icon? Replace or drop it.",
        "strips": "very long and narrow: much of it is cut off, or squeezed. Crop it, or see --fit-image.",
        "nearly empty": "that takes a tenth of the usual space or less: a blank page, a plain colour or a drawing? Look at it.",
    }
    return [
        finding
        for kind, listed in odd.items()
        for finding in Finding.of(kind, "note", f"{len(listed)} x a file {words[kind]}", listed, len(listed))
    ]


def _longish(row: Fact) -> float:
    return max(row.width, row.height) / min(row.width, row.height)


def _density(row: Fact) -> float:
    return row.size / (row.width * row.height)
