"""`Plan`: what to leave out, to relabel and to keep together, in a file that a person reads and changes before `fit` follows it.

The data themselves are never changed. Images are called as `Dataset.names` calls them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headstart.audit.facts import Facts
from headstart.audit.label_errors import LabelErrors
from headstart.audit.near_copies import components
from headstart.data import Dataset, Labels, Targets
from headstart.data.annotations import groups_from_names
from headstart.errors import DataError, ParameterError, nearest
from headstart.settings.field import Limit, either, instance_of, list_of, number

VERSION = 1
_ABOUT = (
    "Read this, change it, then: headstart fit DATA --plan THIS_FILE. No image file is changed. 'drop' is left out. 'keep_together' stays "
    "on one side of every split, and so does what 'group_from', a regular expression, finds equal in the names. 'look_at' does nothing: "
    "move an entry from there to 'relabel', where it gets the suggested label, or to 'drop'; or leave it."
)


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
            "headstart_plan": VERSION, "about": _ABOUT, "data": self.data, "group_from": self.group_from,
            "drop": [entry._asdict() for entry in self.drop],
            "relabel": [_entry_json(entry) for entry in self.relabel],
            "keep_together": [list(names) for names in self.keep_together],
            "look_at": [_entry_json(entry) for entry in self.look_at],
        }  # fmt: skip
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
        whole = _read_json(path)
        plan = cls(
            data=whole.get("data", _TEXT, ""),
            drop=tuple(Drop(entry.get("path", _TEXT), entry.get("reason", _TEXT, "by hand")) for entry in whole.entries("drop")),
            group_from=None if whole.values.get("group_from") is None else whole.get("group_from", _TEXT),
            keep_together=tuple(tuple(names) for _, names in whole.items("keep_together", _IMAGES)),
            relabel=tuple(
                Relabel(entry.get("path", _TEXT), entry.labels("label"), entry.labels("suggested") if "suggested" in entry.values else None)
                for entry in whole.entries("relabel")
            ),
            look_at=tuple(
                LookAt(entry.get("path", _TEXT), entry.labels("label"), entry.labels("suggested"), float(entry.get("score", number())))
                for entry in whole.entries("look_at")
            ),
        )
        twice = {entry.path for entry in plan.drop} & {entry.path for entry in plan.relabel}
        if twice:
            raise DataError(f"{path}: {min(twice)!r} is in 'drop' and in 'relabel'; take it out of one of them")
        again = [name for name, count in Counter(entry.path for entry in plan.relabel).items() if count > 1]
        if again:
            raise DataError(f"{path}: {again[0]!r} is in 'relabel' twice; keep one of the entries")
        return plan

    def apply(self, dataset: Dataset) -> tuple[Dataset, list[str]]:
        """Return the data with the plan applied, and one sentence for each thing that was done.

        Images of one group, given before or by the plan, end in one group: groups that share an image are joined. Where the plan groups
        images of data without groups, every other image is a group of its own.

        Raises:
            DataError: the plan names images or classes that the data do not have, or nothing is left.
            ParameterError: `group_from` is not a regular expression, or matches no name.
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
            notes.append(f"{len(self.look_at)} images of the plan are under 'look_at'; nothing is done about them.")
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


_KEYS = ("headstart_plan", "about", "data", "group_from", "drop", "relabel", "keep_together", "look_at")
_ENTRY_KEYS = ("path", "reason", "label", "suggested", "score")  # of all lists, so that a line can be moved from one to another as it is
_TEXT = instance_of(str, "a text")
_IMAGES = Limit('a list of images such as ["cat/1.jpg", "cat/2.jpg"]', list_of(_TEXT).allows)


@dataclass(frozen=True)
class _Entry:
    """The values of one JSON object of a plan, checked one by one; `place` begins every message: the file, and where in it."""

    place: str
    values: Mapping[str, Any]

    def only(self, allowed: Sequence[str]) -> _Entry:
        """The entry itself, if it has no other names than these."""
        for key in self.values:
            if key not in allowed:
                raise DataError(f"{self.place}{key!r} is not known here.{nearest(key, allowed)} Allowed are {', '.join(allowed)}.")
        return self

    def get(self, key: str, limit: Limit, default: Any = None) -> Any:
        """A value within a limit; an error if it is missing and there is no default."""
        if key not in self.values and default is None:
            raise DataError(f"{self.place}{key!r} is missing")
        return self._checked(repr(key), self.values.get(key, default), limit)

    def labels(self, key: str) -> tuple[str, ...]:
        """One label, or a list of labels."""
        found = self.get(key, either("a class, or a list of classes", _TEXT, list_of(_TEXT)))
        return (found,) if isinstance(found, str) else tuple(found)

    def items(self, key: str, limit: Limit) -> Iterator[tuple[str, Any]]:
        """The values of a list, and where each is; none if it is missing."""
        for i, value in enumerate(self.get(key, instance_of(list, "a list, empty if need be: []"), []), 1):
            yield f"{self.place}{key!r}, entry {i}: ", self._checked(f"{key!r}, entry {i},", value, limit)

    def entries(self, key: str) -> Iterator[_Entry]:
        """The objects of a list; none if it is missing."""
        for place, value in self.items(key, instance_of(dict, 'an object such as {"path": "cat/1.jpg"}')):
            yield _Entry(place, value).only(_ENTRY_KEYS)

    def _checked(self, what: str, value: Any, limit: Limit) -> Any:
        if not limit.allows(value):
            raise DataError(f"{self.place}{what} is {value!r}; expected {limit.words}")
        return value


def _read_json(path: str | Path) -> _Entry:
    """Read the outermost object of a plan."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: the plan cannot be read ({reason}). `headstart check DATA --deep --fix FILE` writes one.") from None

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:  # JSON would keep the last and drop the rest silently
            raise DataError(f"{path}: the plan has {twice[0]!r} twice in one place; put both together")
        return dict(pairs)

    try:
        values = json.loads(text, object_pairs_hook=without_repeats)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise DataError(f"{path}: the plan is not valid JSON ({where}). Between two entries is a comma, after the last one none.") from None
    if not isinstance(values, dict) or "headstart_plan" not in values:
        raise DataError(f'{path}: is JSON, but not a plan: "headstart_plan": {VERSION} is missing')
    version = values["headstart_plan"]
    if isinstance(version, bool) or version != VERSION:
        raise DataError(f"{path}: is a plan of version {version!r}; this Headstart reads version {VERSION}. Make the plan again")
    return _Entry(f"{path}: ", values).only(_KEYS)


class _Places:
    """The positions of images in the data, by name."""

    def __init__(self, dataset: Dataset, made_for: str) -> None:
        self._made_for, self._source = made_for, dataset.source
        self._rows = defaultdict[str, list[int]](list)
        for row, name in enumerate(dataset.names()):
            self._rows[name].append(row)

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
            f"the plan labels {path!r} as {unknown[0]!r}, which is not a class of the data.{nearest(unknown[0], dataset.classes)} "
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


def _entry_json(entry: Relabel | LookAt) -> dict[str, Any]:
    values = {key: round(value, 4) if isinstance(value, float) else value for key, value in entry._asdict().items() if value is not None}
    return {key: value[0] if isinstance(value, tuple) and len(value) == 1 else value for key, value in values.items()}


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

    Dropped: files that cannot be read; exact copies of another image with the same labels; copies and near copies that are in a later
    part than the image that they are like (in the test part: the model has seen them). Kept together: near copies within a
    part. To be looked at: copies and near copies with different labels, and labels that are probably wrong.

    `near_copies` are positions in `dataset`, a sequence for each picture; `rows` int64 (n,) the positions of the targets that
    `rank_label_errors` ranked, by default all in order.
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
