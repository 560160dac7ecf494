"""`Plan`: what to leave out, to relabel and to keep together, in a file that a person reads and changes before `fit` follows it.

The data themselves are never changed. Images are called as `Dataset.names` calls them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headstart.audit.facts import Facts
from headstart.audit.findings import components
from headstart.audit.label_errors import LabelErrors
from headstart.audit.plan_fields import Fields
from headstart.data import Dataset, Labels, Targets
from headstart.data.annotations import groups_from_names
from headstart.errors import DataError, ParameterError, nearest

VERSION = 1
_ABOUT = (
    "Read this, change it, then: headstart fit DATA --plan THIS_FILE. No image file is changed. 'drop' is left out. 'keep_together' stays "
    "on one side of every split, and so does what 'group_from', a regular expression, finds equal in the names. 'look_at' does nothing: "
    "move an entry from there to 'relabel', where it gets the suggested label, or to 'drop'; or leave it."
)
_KEYS = ("headstart_plan", "about", "data", "group_from", "drop", "relabel", "keep_together", "look_at")


class Drop(NamedTuple):
    """An image to leave out, and why."""

    path: str
    reason: str = "by hand"


class Relabel(NamedTuple):
    """An image that gets other labels: those of `label`, or of `suggested` where an entry was moved here from `look_at` as it was."""

    path: str
    label: tuple[str, ...]
    suggested: tuple[str, ...] | None = None


class LookAt(NamedTuple):
    """An image whose label is in doubt: its labels, what they perhaps should be, and how probable that is (0 to 1)."""

    path: str
    label: tuple[str, ...]
    suggested: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Plan:
    """What `fit` is to do about the findings of an audit.

    Attributes:
        data: what was audited, as the user gave it.
        drop: images to leave out.
        group_from: a regular expression that finds the group of an image in its name, or None.
        keep_together: lists of images that belong on one side of every split.
        relabel: images with their right labels.
        look_at: images whose label a person should look at; never applied.
    """

    data: str
    drop: tuple[Drop, ...] = ()
    group_from: str | None = None
    keep_together: tuple[tuple[str, ...], ...] = ()
    relabel: tuple[Relabel, ...] = ()
    look_at: tuple[LookAt, ...] = ()

    def write(self, path: str | Path) -> None:
        """Write the plan as JSON, one image a line.

        Raises:
            ParameterError: the file cannot be written.
        """
        values: dict[str, Any] = {
            "headstart_plan": VERSION,
            "about": _ABOUT,
            "data": self.data,
            "group_from": self.group_from,
            "drop": [entry._asdict() for entry in self.drop],
            "relabel": [_relabel_json(entry) for entry in self.relabel],
            "keep_together": [list(names) for names in self.keep_together],
            "look_at": [
                {"path": entry.path, "label": _json(entry.label), "suggested": _json(entry.suggested), "score": round(entry.score, 4)}
                for entry in self.look_at
            ],
        }
        text = ",\n".join(f" {json.dumps(key)}: {_lines(value)}" for key, value in values.items())
        try:
            Path(path).write_text(f"{{\n{text}\n}}\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ParameterError(f"{path} cannot be written: {error.strerror or error}.") from None

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan that `write` wrote and a person may have changed.

        Raises:
            DataError: there is no such file, or it is not a plan; says where and why.
        """
        fields = Fields.read(path, version=VERSION, allowed=_KEYS)
        plan = cls(
            data=fields.text("data", default=""),
            drop=tuple(Drop(entry.text("path"), entry.text("reason", default="by hand")) for entry in fields.entries("drop", _ENTRY)),
            group_from=fields.text_or_none("group_from"),
            keep_together=tuple(fields.lists("keep_together")),
            relabel=tuple(
                Relabel(entry.text("path"), entry.labels("label"), entry.labels("suggested") if "suggested" in entry else None)
                for entry in fields.entries("relabel", _ENTRY)
            ),
            look_at=tuple(
                LookAt(entry.text("path"), entry.labels("label"), entry.labels("suggested"), entry.number("score"))
                for entry in fields.entries("look_at", _ENTRY)
            ),
        )
        twice = {entry.path for entry in plan.drop} & {entry.path for entry in plan.relabel}
        if twice:
            raise fields.error(f"{min(twice)!r} stands in 'drop' and in 'relabel'; take it out of one of them")
        again = [name for name, count in Counter(entry.path for entry in plan.relabel).items() if count > 1]
        if again:
            raise fields.error(f"{again[0]!r} stands in 'relabel' twice; keep one of the entries")
        return plan

    def apply(self, dataset: Dataset) -> tuple[Dataset, list[str]]:
        """Return the data with the plan applied, and one sentence for each thing that was done.

        Images of one group, given before or by the plan, end in one group: groups that share an image are joined. Where the plan groups
        images of data without groups, every other image is a group of its own.

        Raises:
            DataError: the plan names images or classes that the data do not have, or nothing is left.
            ParameterError: `group_from` is no regular expression, or matches no name.
        """
        places = _Places(dataset, self.data)
        dropped = places.rows("drop", (entry.path for entry in self.drop))
        together = [places.rows("keep_together", names) for names in self.keep_together]
        targets, relabelled = self._relabelled(dataset, places)
        groups, grouped = self._grouped(dataset, together)
        kept = np.ones(len(dataset), bool)
        kept[dropped] = False
        notes = []
        if dropped:
            reasons = _tally(entry.reason for entry in self.drop)
            notes.append(f"The plan leaves out {len(set(dropped))} of {len(dataset)} images ({reasons}).")
        if not kept.any():
            raise DataError(f"the plan leaves out all {len(dataset)} images; take entries out of 'drop'")
        result = replace(dataset, targets=targets, groups=groups, grouped=True).take(np.flatnonzero(kept))  # type: ignore[arg-type]
        before, after = dataset.counts("train", ""), result.counts("train", "")
        lost = [name for name in dataset.classes if before[name] and not after[name]]
        if lost:
            notes.append(f"The plan leaves no training image of {', '.join(map(repr, lost))}.")
        if relabelled:
            notes.append(f"The plan gives {relabelled} images another label.")
        if self.look_at:
            notes.append(f"{len(self.look_at)} images of the plan stand under 'look_at'; nothing is done about them.")
        return result, [*notes, *grouped]

    def _relabelled(self, dataset: Dataset, places: _Places) -> tuple[Targets, int]:
        targets = dataset.targets.array.copy()
        changed = 0
        for entry in self.relabel:
            for row in places.rows("relabel", [entry.path]):
                labels = _labels_of(entry, dataset.labels(row))
                targets[row] = _target(entry.path, labels, dataset)
                changed += set(labels) != set(dataset.labels(row))
        return replace(dataset.targets, array=targets) if changed else dataset.targets, changed  # type: ignore[type-var]

    def _grouped(self, dataset: Dataset, together: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.str_] | None, list[str]]:
        notes: list[str] = []
        joined = [np.asarray(rows) for rows in together if len(rows) > 1]
        names = dataset.names()
        base = dataset.groups if dataset.grouped else None
        if self.group_from is not None:
            found, notes = groups_from_names(names, self.group_from)
            if base is None:
                base = np.array(found, dtype=np.str_)
            else:
                joined += _members(np.array(found, dtype=np.str_))
            notes.append(f"The plan takes groups from the file names: {len(set(found))} groups of {len(names)} images.")
        if joined and base is None:
            base = np.array([f"{name} (alone)" for name in names], dtype=np.str_)
        if base is None or not joined:
            return base, notes
        if together:
            notes.append(f"The plan keeps {sum(map(len, together))} images together in {len(together)} groups.")
        return _joined(base, joined), notes


_ENTRY = ("path", "reason", "label", "suggested", "score")  # of all lists alike, so that a line can be moved from one to another as it is


class _Places:
    """Where images stand in the data, by name."""

    def __init__(self, dataset: Dataset, made_for: str) -> None:
        self._made_for, self._source = made_for, dataset.source
        self._rows: dict[str, list[int]] = {}
        for row, name in enumerate(dataset.names()):
            self._rows.setdefault(name, []).append(row)

    def rows(self, key: str, names: Iterable[str]) -> list[int]:
        asked = list(dict.fromkeys(names))
        unknown = [name for name in asked if name not in self._rows]
        if unknown:
            made = f" It was made for {self._made_for}, and these data are {self._source}." if self._made_for != self._source else ""
            raise DataError(
                f"the plan names {len(unknown)} images under {key!r} that the data do not have, for example {unknown[0]!r}."
                f"{nearest(unknown[0], self._rows, count=1)}{made} Make the plan again, or take these entries out."
            )
        return [row for name in asked for row in self._rows[name]]


def _labels_of(entry: Relabel, present: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that an entry asks for: of one that was moved from `look_at` as it was, `label` is still the label in doubt."""
    if entry.suggested is None or set(entry.label) == set(entry.suggested):
        return entry.label
    if set(entry.label) == set(present):
        return entry.suggested
    raise DataError(
        f"the plan has two labels for {entry.path!r} under 'relabel': {', '.join(entry.label)!r} and, as suggested, "
        f"{', '.join(entry.suggested)!r}. Write the right one as 'label' and take 'suggested' out."
    )


def _target(path: str, labels: tuple[str, ...], dataset: Dataset) -> Any:
    unknown = [label for label in labels if label not in dataset.classes]
    if unknown:
        raise DataError(
            f"the plan labels {path!r} as {unknown[0]!r}, which is no class of the data.{nearest(unknown[0], dataset.classes)} "
            f"The classes are {', '.join(dataset.classes[:10])}{' ...' if len(dataset.classes) > 10 else ''}."
        )
    if not isinstance(dataset.targets, Labels):
        return np.isin(dataset.classes, labels)
    if len(labels) != 1:
        raise DataError(f"the plan gives {path!r} {len(labels)} labels, but each image of these data has exactly one")
    return dataset.classes.index(labels[0])


def _members(groups: npt.NDArray[np.str_]) -> list[npt.NDArray[np.int64]]:
    """The rows of each group that has several."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(groups[order][1:] != groups[order][:-1]) + 1
    return [rows for rows in np.split(order, ends) if len(rows) > 1]


def _joined(base: npt.NDArray[np.str_], joined: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.str_]:
    """Join the groups that share a set of rows; each is called like the first of its groups by name."""
    names, group = np.unique(base, return_inverse=True)
    component = components([(group[rows[0]], node) for rows in joined for node in group[rows[1:]]], len(names))
    first = np.unique(component, return_index=True)[1]
    return np.asarray(names[first[component]][group])


def _tally(reasons: Iterable[str]) -> str:
    """How often each reason is given, without the part that names another image."""
    kinds = Counter(reason.split(":")[0].split(" of ")[0] for reason in reasons)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(4))


def _json(labels: tuple[str, ...]) -> str | list[str]:
    return labels[0] if len(labels) == 1 else list(labels)


def _relabel_json(entry: Relabel) -> dict[str, Any]:
    moved = {} if entry.suggested is None else {"suggested": _json(entry.suggested)}
    return {"path": entry.path, "label": _json(entry.label), **moved}


def _lines(value: Any) -> str:
    """JSON of one value: a list with one entry a line."""
    if not isinstance(value, list) or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in value) + "\n ]"


_DOUBTFUL, _LOOKED_AT = 0.9, 50  # score of a label worth a look, and how many such there may be
_ORDER = ("train", "", "val", "test")  # of two copies the one in the earlier part stays
_PARTS = {"train": "training", "val": "validation", "test": "test"}


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
    part than the image that they are like (in the test part: the model has seen them). Kept together: near copies within a
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
                where = f" in the {_PARTS[first]} part" if first else ""
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
            better = (
                (name,)
                if isinstance(self.dataset.targets, Labels)
                else tuple(c for c in self.dataset.classes if (c in label) != (c == name))
            )
            self.look_at[row] = LookAt(self.names[row], label, better, float(score))

    def _look_at_all(self, rows: Sequence[int]) -> None:
        """One picture, several labels: to each image the most common of the labels that it does not have is suggested."""
        labels = [self.dataset.labels(row) for row in rows]
        for row, own in zip(rows, labels, strict=True):
            others = [label for label in labels if label != own]
            best = max(dict.fromkeys(others), key=others.count)
            self.look_at.setdefault(row, LookAt(self.names[row], own, best, others.count(best) / len(labels)))
