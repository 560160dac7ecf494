"""Groups that only the file names tell of: several images of one patient, scene or video, as in ``person12_3.jpg``."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from headstart.audit.findings import Finding
from headstart.data import Dataset

PATTERNS = (
    r"(?:^|/)([^/]*\d)[-_ ][^/]*$",  # person12_bacteria_3.jpg, NORMAL2-IM-0001-0002.jpeg: up to the last number that something follows
    r"(?:^|/)([A-Za-z]+[-_ ]?\d+)[-_ ][^/]*$",  # person12_b_3_4.jpg: the first word with its number
    r"(?:^|/)(\d+)[-_ ][^/]*$",  # 0012_left_2.jpg
)
_FOLDER_PATTERN = r"([^/]+)/[^/]+$"  # CLASS/patient12/3.jpg
_MATCHING = 0.5  # at least this share of the names must match
_TOGETHER = 0.2  # at least this share of the images must be in a group of two or more
_LARGEST = 0.1  # no group may hold a larger share of the images: it would be a kind and not a thing
_PURE = 0.8  # at least this share of the groups of two or more must be of one class: otherwise numbers just start again in each class


@dataclass(frozen=True)
class _Candidate:
    pattern: str
    groups: dict[str, list[int]]
    together: int


def group_pattern(dataset: Dataset) -> str | None:
    """The regular expression that finds groups in the file names, where they look as if several images belonged together."""
    best = _best(dataset)
    return None if best is None else best.pattern


def _best(dataset: Dataset) -> _Candidate | None:
    if dataset.groups is not None or isinstance(dataset.images, np.ndarray) or len(dataset) < 20:
        return None
    names = dataset.names()
    depth = 2 if (dataset.parts == "").all() else 3
    deeper = sum(name.count("/") >= depth for name in names) >= _MATCHING * len(names)
    candidates = [_candidate(dataset, names, pattern) for pattern in (*PATTERNS, *([_FOLDER_PATTERN] if deeper else []))]
    found = [candidate for candidate in candidates if candidate is not None]
    return max(found, key=lambda candidate: candidate.together) if found else None


def find_groups_in_names(dataset: Dataset) -> list[Finding]:
    """Return a finding if file names look as if several images belonged together and no groups are given."""
    best = _best(dataset)
    if best is None:
        return []
    names = dataset.names()
    sides = {key: set(dataset.parts[rows].tolist()) for key, rows in best.groups.items()}
    parted = [key for key, parts in sides.items() if "test" in parts and len(parts) > 1]
    several = sorted((key for key, rows in best.groups.items() if len(rows) > 1), key=lambda key: (-len(best.groups[key]), key))
    unsplit = bool((dataset.parts == "").any())
    message = f"The file names look as if several images belonged together: {len(best.groups)} groups of {len(dataset)} images."
    if parted:
        message += f" {len(parted)} of them have images in the test part and outside it, so the score may be too high."
    elif unsplit:
        message += " If images of one person or scene are on both sides of a split, the score is too high."
    else:
        message += " The parts keep them together; folds of the training part should too."
    message += f" If so, say it with: --group-from '{best.pattern}'"
    examples = tuple(f"{key}: {', '.join(names[i] for i in best.groups[key][:3])}" for key in (parted or several)[:10])
    return [Finding("groups in names", "warning" if parted or unsplit else "note", message, examples, len(parted or several))]


def _candidate(dataset: Dataset, names: tuple[str, ...], pattern: str) -> _Candidate | None:
    expression = re.compile(pattern)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        match = expression.search(name)
        if match:
            groups[match.group(1)].append(i)
    several = [rows for rows in groups.values() if len(rows) > 1]
    together = sum(map(len, several))
    if sum(map(len, groups.values())) < _MATCHING * len(names) or together < _TOGETHER * len(names):
        return None
    if len(groups) < max(10, 2 * len(dataset.classes)) or max(map(len, several)) > max(_LARGEST * len(names), 10):
        return None
    pure = sum(len({dataset.labels(i) for i in rows}) == 1 for rows in several)
    return _Candidate(pattern, dict(groups), together) if pure >= _PURE * len(several) else None
