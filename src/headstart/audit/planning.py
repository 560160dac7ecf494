"""`make_plan`: the plan that an audit proposes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from headstart.audit.facts import Facts
from headstart.audit.label_errors import LabelErrors
from headstart.audit.plan import Drop, LookAt, Plan
from headstart.data import Dataset

_DOUBTFUL, _LOOKED_AT = 0.9, 50  # score of a label worth a look, and how many such there may be
_ORDER = ("train", "", "val", "test")  # of two copies the one in the earlier part stays
_WORDS = {"train": "training", "val": "validation", "test": "test"}


def make_plan(
    dataset: Dataset,
    facts: Facts,
    *,
    near_copies: Iterable[Sequence[int]] = (),
    label_errors: LabelErrors | None = None,
    rows: npt.ArrayLike | None = None,
    group_from: str | None = None,
) -> Plan:
    """Propose what to do about the findings that can be settled by leaving out, grouping or looking.

    Dropped: files that cannot be read; exact copies of another image with the same labels; copies and near copies that stand in a later
    part than the image that they are like (in the test part: their answers are known beforehand). Kept together: near copies within a
    part. To be looked at: copies and near copies with different labels, and labels that are probably wrong.

    Args:
        dataset: what was audited.
        facts: what `gather` found, in the order of `dataset`.
        near_copies: positions of images that show the same picture, one sequence a picture.
        label_errors: what `rank_label_errors` found.
        rows: int64 (n,), the position in `dataset` of each target that was given to `rank_label_errors`; all, in order, by default.
        group_from: a regular expression that finds the group of an image in its name.
    """
    proposal = _Proposal(dataset)
    for row, reason in facts.refused().items():
        proposal.drop[row] = f"cannot be read: {reason}"
    for copies in facts.copies():
        proposal.settle(copies, "exact copy", surplus=True)
    for alike in near_copies:
        proposal.settle(alike, "near copy", surplus=False)
    if label_errors is not None:
        proposal.doubt(label_errors, np.arange(len(dataset)) if rows is None else np.asarray(rows, np.int64))
    names = proposal.names
    together = ([row for row in group if row not in proposal.drop] for group in proposal.together)
    return Plan(
        data=dataset.source,
        drop=tuple(Drop(names[row], reason) for row, reason in sorted(proposal.drop.items())),
        group_from=group_from,
        keep_together=tuple(tuple(names[row] for row in group) for group in together if len(group) > 1),
        look_at=tuple(proposal.look_at.values()),
    )


class _Proposal:
    """A plan in the making, by position in the data."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.names = dataset, dataset.names()
        self.drop: dict[int, str] = {}
        self.together: list[list[int]] = []
        self.look_at: dict[int, LookAt] = {}

    def settle(self, copies: Sequence[int], what: str, *, surplus: bool) -> None:
        """Decide about images that show the same picture; with `surplus`, one of those with the same labels is enough."""
        rows = [int(row) for row in copies if row not in self.drop]
        if len(rows) < 2:
            return
        contradictory = len({self.dataset.labels(row) for row in rows}) > 1
        if contradictory:
            self._look_at_all(rows)
        parts = {row: str(self.dataset.parts[row]) for row in rows}
        first = min(parts.values(), key=_ORDER.index)
        stay = [row for row in rows if parts[row] == first]
        for row in rows:
            if parts[row] != first:
                where = f" in the {_WORDS[first]} part" if first else ""
                self.drop[row] = f"{what} of {self.names[stay[0]]}{where}"
            elif surplus and not contradictory and row != stay[0]:
                self.drop[row] = f"{what} of {self.names[stay[0]]}"
        self.together.append(stay)

    def doubt(self, errors: LabelErrors, rows: npt.NDArray[np.int64]) -> None:
        """Put the labels that are probably wrong among those to be looked at; and, in small sets that prove nothing, the most doubtful."""
        count = max(errors.likely, min(_LOOKED_AT, int((errors.score >= _DOUBTFUL).sum())))
        for position, suggested, score in zip(errors.order[:count], errors.suggested, errors.score, strict=False):
            row = int(rows[position])
            if row in self.drop or row in self.look_at:
                continue
            label, name = self.dataset.labels(row), self.dataset.classes[suggested]
            better = (name,) if not self.dataset.multilabel else tuple(c for c in self.dataset.classes if (c in label) != (c == name))
            self.look_at[row] = LookAt(self.names[row], label, better, float(score))

    def _look_at_all(self, rows: Sequence[int]) -> None:
        """One picture, several labels: to each image the most common of the labels that it does not have is suggested."""
        labels = [self.dataset.labels(row) for row in rows]
        for row, own in zip(rows, labels, strict=True):
            others = [label for label in labels if label != own]
            best = max(dict.fromkeys(others), key=others.count)
            self.look_at.setdefault(row, LookAt(self.names[row], own, best, others.count(best) / len(labels)))
