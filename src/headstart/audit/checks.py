"""`check`: the audit of a data set from its files. Each function looks for one thing and returns its findings."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from headstart.audit.boxes import find_box_faults
from headstart.audit.copies import find_copies, find_near_copies
from headstart.audit.facts import Fact, Facts
from headstart.audit.findings import Audit, Finding, gravest_first
from headstart.audit.inspections import gather, in_words_of, inspection_of
from headstart.audit.masks import find_mask_faults
from headstart.data import Boxes, Dataset, Labels, Masks
from headstart.data.labels import shortened
from headstart.progress import Progress, Warned

_FEW = 10  # training images in a class
_NOTED_RATIO, _WARNED_RATIO = 4, 10  # largest class over smallest
_SMALL_TEST = 100  # images


def check(dataset: Dataset, *, facts: Facts | None = None, deep: bool = False, progress: Progress | None = None) -> Audit:
    """Audit a data set: every file is read and decoded once, nothing is trained on pixels.

    Args:
        dataset: what `read_dataset` returned.
        facts: what `gather` has found already; None reads the files.
        deep: decode at full size (JPEGs are otherwise decoded at a fraction of it).
        progress: called with (images done, images in all).

    Returns:
        the findings, the gravest first: unreadable files, exact copies (within a class, in two classes, on two sides of a split), groups on
        two sides, classes that are missing, small or very unequal, properties of the files that give the class away, groups that the file
        names tell of, what is wrong with masks or boxes, and everything noted while the data were read.
    """
    inspection = inspection_of(dataset)
    facts = gather(dataset, deep=deep, progress=progress) if facts is None else facts
    findings = [
        *_unreadable(dataset, facts),
        *find_copies(dataset, facts),
        *_near_copies(dataset, facts),
        *_parted_groups(dataset),
        *_of_classes(dataset),
        *_of_columns((name, inspection.shortcuts(part, facts.take(rows))) for name, rows, part in dataset.by_column()),
        *inspection.faults(dataset, facts),
        *find_groups_in_names(dataset),
        *find_mask_faults(dataset),
        *find_box_faults(dataset),
        *(Finding("reading", "warning" if isinstance(note, Warned) else "note", note) for note in dataset.notes),
    ]
    names = dataset.names()
    parts = [part for part in ("", "train", "val", "test") if (dataset.parts == part).any()]
    return Audit(
        source=dataset.source,
        counts={part: dataset.tally(part) for part in parts},
        images=len(dataset),
        findings=gravest_first(in_words_of(dataset, findings)),
        refused={names[i]: reason for i, reason in facts.refused().items()},
        noun=dataset.noun,
    )


def check_known(dataset: Dataset, digests: Sequence[bytes]) -> tuple[Finding, ...]:
    """Audit what is known without opening a file, by the SHA-256 of each image; the findings are worded as by `check`."""
    facts = Facts(tuple(Fact(digest, "", "", "", 0, 0, 0) for digest in digests))
    findings = [
        *find_copies(dataset, facts), *_near_copies(dataset, facts, quick=True), *_parted_groups(dataset), *_of_classes(dataset),
        *find_groups_in_names(dataset), *inspection_of(dataset).known(dataset),
    ]  # fmt: skip
    return gravest_first(in_words_of(dataset, findings))


def _near_copies(dataset: Dataset, facts: Facts, *, quick: bool = False) -> list[Finding]:
    """Near copies among inputs for which the search takes little time."""
    alike = inspection_of(dataset).alike
    if alike is None:
        return []
    digests = [row.digest for row in facts.rows]
    return find_near_copies(dataset, alike[quick](dataset, digests), digests=digests)


def _unreadable(dataset: Dataset, facts: Facts) -> list[Finding]:
    refused, names = facts.refused(), dataset.names()
    if not refused:
        return []
    kinds = Counter(reason.split("(")[0].split(";")[0].strip() for reason in refused.values())
    listed = ", ".join(f"{count} x {reason}" for reason, count in kinds.most_common(3))
    message = (
        f"{len(refused)} of {len(dataset)} {inspection_of(dataset).files} cannot be read ({listed}). They are left out of training and of "
        "the score. Replace or delete them."
    )
    found = Finding.of("unreadable", "warning", message, [f"{names[i]}: {reason}" for i, reason in refused.items()], len(refused))
    kept = np.ones(len(dataset), bool)
    kept[list(refused)] = False
    left, all_there = dataset.take(np.flatnonzero(kept)).counts("train", ""), dataset.counts("train", "")
    lost = [name for name in dataset.classes if all_there[name] and not left[name]]
    message = f"No training image of {shortened(lost, limit=5)} can be read, so it cannot be learned. Replace the files."
    return found + ([Finding("class lost", "error", message, tuple(lost), len(lost))] if lost else [])


def _parted_groups(dataset: Dataset) -> list[Finding]:
    if not dataset.grouped:
        return []
    test = dataset.groups[dataset.part("test")]
    both = np.intersect1d(dataset.groups[dataset.part("train", "val")], test).tolist()
    count = int(np.isin(test, both).sum())
    message = (
        f"{len(both)} groups are in both the test part and the training part ({count} test images): images of one group are alike, "
        "so the score is too high. Move each group to one side."
    )
    return Finding.of("parted groups", "error", message, both, len(both))


def _of_classes(dataset: Dataset) -> list[Finding]:
    return _of_columns((name, _classes(part)) for name, _, part in dataset.by_column())


def _of_columns(found: Iterable[tuple[str, list[Finding]]]) -> list[Finding]:
    """Findings by the column of labels, which their messages name where there are several."""
    return [finding.of_column(name) for name, findings in found for finding in findings]


def _classes(dataset: Dataset) -> list[Finding]:
    found: list[Finding] = []
    if not dataset.classes or isinstance(dataset.targets, Masks | Boxes):
        return found  # of masks, pixels count, and of boxes these
    counts = {name: count for name, count in dataset.counts("train", "").items() if count}
    text = f"There is only one class, {dataset.classes[0]!r}: a classifier needs at least two. Add a folder of other pictures."
    found += Finding.of("one class", "error", text, dataset.classes, int(len(dataset.classes) == 1))
    if not counts:
        return [*found, Finding("no training images", "warning", "There are no training images: these data can be used for a test only.")]
    few = [name for name, count in counts.items() if count < _FEW]
    listed = ", ".join(f"{name!r} ({counts[name]})" for name in sorted(few, key=lambda name: counts[name])[:8])
    text = f"Fewer than {_FEW} training images in {listed}. These classes will be recognised poorly; add images or merge classes."
    found += [Finding("few images", "warning", text, tuple(few) if len(few) > 8 else (), len(few))] if few else []
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    ratio = counts[largest] / counts[smallest]
    if ratio >= _NOTED_RATIO and isinstance(dataset.targets, Labels):
        share = counts[largest] / sum(counts.values())
        text = (
            f"{largest!r} has {ratio:.0f} times as many training images as {smallest!r}; always answering {largest!r} would be right "
            f"in {share:.0%} of cases. Look at balanced accuracy and at the recall of each class, not at accuracy; class weights help."
        )
        found.append(Finding("imbalance", "warning" if ratio >= _WARNED_RATIO else "note", text, (), 2))
    test = len(dataset.part("test"))
    if 0 < test < _SMALL_TEST:
        margin = 1.96 * math.sqrt(0.9 * 0.1 / test)
        text = f"The test part has {test} images: an accuracy of 90 % would be known within {margin:.0%} only. Add test images."
        found.append(Finding("small test part", "note", text, (), test))
    return found


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


class _Candidate(NamedTuple):
    together: int
    pattern: str
    groups: dict[str, list[int]]


def group_pattern(dataset: Dataset) -> str | None:
    """The regular expression that finds groups in the file names, where these suggest groups; else None."""
    best = _best(dataset)
    return None if best is None else best.pattern


def _best(dataset: Dataset) -> _Candidate | None:
    if dataset.grouped or isinstance(dataset.inputs, np.ndarray) or len(dataset) < 20:
        return None
    names = dataset.names()
    depth = 2 if (dataset.parts == "").all() else 3
    deeper = sum(name.count("/") >= depth for name in names) >= _MATCHING * len(names)
    candidates = (_candidate(dataset, names, pattern) for pattern in (*PATTERNS, *([_FOLDER_PATTERN] if deeper else [])))
    return max(filter(None, candidates), key=lambda candidate: candidate.together, default=None)


def find_groups_in_names(dataset: Dataset) -> list[Finding]:
    """Return a finding if file names suggest groups and none are given."""
    best = _best(dataset)
    if best is None:
        return []
    names = dataset.names()
    sides = {key: set(dataset.parts[rows].tolist()) for key, rows in best.groups.items()}
    parted = [key for key, parts in sides.items() if "test" in parts and len(parts) > 1]
    several = sorted((key for key, rows in best.groups.items() if len(rows) > 1), key=lambda key: (-len(best.groups[key]), key))
    unsplit = bool((dataset.parts == "").any())
    message = f"The file names suggest that several images belong together: {len(best.groups)} groups in {len(dataset)} images."
    if parted:
        message += f" {len(parted)} of them have images in the test part and outside it, so the score may be too high."
    elif unsplit:
        message += " If images of one person or scene are on both sides of a split, the score is too high."
    else:
        message += " The parts keep them together; folds of the training part should too."
    message += f" If so, use: --group-from '{best.pattern}'"
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
    return _Candidate(together, pattern, groups) if pure >= _PURE * len(several) else None
