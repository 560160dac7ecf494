"""`Dataset`: labelled inputs (paths, an array of images, or texts), with their classes, parts and groups; and how a notebook shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.data.boxes import Boxes
from headstart.data.masks import Masks
from headstart.data.targets import LabelColumns, Targets
from headstart.errors import DataError
from headstart.modalities import IMAGE, Modality
from headstart.modalities.image import Levels
from headstart.modalities.image.levels import CommonLevels, common_levels
from headstart.text import plural, printable, visible

Images: TypeAlias = tuple[Path, ...] | npt.NDArray[np.uint8]
Inputs: TypeAlias = tuple[Any, ...] | npt.NDArray[np.uint8]
"""Images as paths or as one array (n, H, W, 3); or texts."""

PARTS = ("train", "val", "test", "")
SHOWN = 20  # classes in a table; of more, the first


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs with their targets. Pixels are never held here unless the user gave an array.

    Attributes:
        inputs: one path for each image, or uint8 (n, H, W, 3); or one string for each text.
        targets: what is to be learned: `headstart.data.targets.Labels`, ``LabelSets``, or those of another task.
        parts: unicode (n,): ``"train"``, ``"val"``, ``"test"``, or ``""`` where the data say nothing.
        groups: unicode (n,): images of one group (a patient, a scene) belong on the same side of every split. Where None is given, each
            image is a group of its own.
        grouped: whether the groups came with the data; `grouped_by`: which column or pattern they came from, if known.
        source: what the user gave.
        notes: one sentence for each thing that was met while reading and passed over, joined or guessed.
        root: the folder that `names` are relative to; None for arrays.
        given_levels: the samples of more than 8 bits that are black and white; None for what suits the images (`levels`).
        modality: what the inputs are.

    Raises:
        DataError: the fields do not fit each other in length.
    """

    inputs: Inputs
    targets: Targets
    parts: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_] = None  # type: ignore[assignment]
    grouped: bool = True
    grouped_by: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()
    root: Path | None = None
    given_levels: Levels = None
    modality: Modality = IMAGE

    def __post_init__(self) -> None:
        if self.groups is None:
            object.__setattr__(self, "groups", np.arange(len(self.inputs)).astype(np.str_))
            object.__setattr__(self, "grouped", False)
        lengths = {f"{self.noun}s": len(self.inputs), "labels": len(self.targets), "parts": len(self.parts), "groups": len(self.groups)}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"one entry per {self.noun} is needed, but there are " + ", ".join(f"{n} {what}" for what, n in lengths.items())
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def noun(self) -> str:
        """What an input is called in messages."""
        return self.modality.noun

    def __iter__(self) -> Iterator[tuple[Path | npt.NDArray[np.uint8] | str, tuple[str, ...]]]:
        """Yield (input, its labels)."""
        return ((image, self.labels(i)) for i, image in enumerate(self.inputs))

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in natural order ("9" before "10") unless they were given; empty where the task has no classes."""
        return self.targets.classes

    def take(self, indices: npt.ArrayLike) -> Dataset:
        """Return the images at `indices` (integers, or a bool mask), in that order; all classes remain."""
        chosen = np.asarray(indices)
        rows = np.arange(len(self))[chosen if chosen.size else chosen.astype(np.int64)]
        taken: Any = self.inputs[rows] if isinstance(self.inputs, np.ndarray) else tuple(self.inputs[i] for i in rows.tolist())
        return replace(self, inputs=taken, targets=self.targets.take(rows), parts=self.parts[rows], groups=self.groups[rows])

    def part(self, *names: str) -> npt.NDArray[np.int64]:
        """Return the indices (int64, ascending) of the images in any of the named parts.

        Raises:
            DataError: a name that is not a part.
        """
        wrong = [name for name in names if name not in PARTS]
        if wrong:
            raise DataError(f"{wrong[0]!r} is not a part of a data set; parts are {', '.join(map(repr, PARTS))}")
        return np.flatnonzero(np.isin(self.parts, names))

    def counts(self, *parts: str) -> dict[str, int]:
        """Return the number of images with each class, zeros included; of some parts only if any are named."""
        return (self.targets.take(self.part(*parts)) if parts else self.targets).counts()

    def labels(self, index: int) -> tuple[str, ...]:
        """Return the target of one image as text: one class name, or any number of them."""
        return self.targets.names(index)

    def of_column(self, name: str) -> tuple[npt.NDArray[np.int64], Dataset]:
        """Return the images that have a label in one of several columns, int64 (m,), and the data of these with that column alone."""
        assert isinstance(self.targets, LabelColumns)
        rows = self.targets.rows(name)
        part = self if len(rows) == len(self) else self.take(rows)
        return rows, replace(part, targets=self.targets.columns[name].take(rows))

    def by_column(self) -> Iterator[tuple[str, npt.NDArray[np.int64], Dataset]]:
        """Yield name, images and data of each column of labels; where there is one, it has no name."""
        if isinstance(self.targets, LabelColumns):
            yield from ((name, *self.of_column(name)) for name in self.targets.columns)
        else:
            yield "", np.arange(len(self)), self

    def tally(self, *parts: str) -> dict[str, int]:
        """Return `counts`; of several columns of labels all of theirs, each class after the name of its column."""
        return {f"{name}: {label}" if name else label: count for name, _, part in self.by_column()
                for label, count in part.counts(*parts).items()}  # fmt: skip

    def agree(self, indices: Sequence[int]) -> bool:
        """Return whether images have the same labels, masks or boxes; of several columns, as far as they have any there."""
        if isinstance(self.targets, Masks | Boxes):
            return self.targets.agree(indices)
        if not isinstance(self.targets, LabelColumns):
            return len({self.labels(index) for index in indices}) == 1
        rows = np.asarray(indices, np.int64)
        columns = [targets.take(rows[np.isin(rows, self.targets.rows(name))]) for name, targets in self.targets.columns.items()]
        return all(len({one.names(place) for place in range(len(one))}) <= 1 for one in columns)

    def names(self) -> tuple[str, ...]:
        """Return what to call each input: its path relative to `root` with ``/``, the row of a list, or ``array[i]``; always printable."""
        return names_of(self.inputs, self.root)

    @property
    def levels(self) -> Levels:
        """The samples of more than 8 bits that are black and white: `given_levels`, or what suits these images; see `common_levels`."""
        return self.common_levels.levels

    @cached_property
    def common_levels(self) -> CommonLevels:
        """The levels that suit these images, those of the test part aside, and which images they do not suit."""
        if isinstance(self.inputs, np.ndarray) or self.given_levels is not None:
            return CommonLevels(self.given_levels)
        rows = np.flatnonzero(self.parts != "test")
        some = (self.inputs[row] for row in (rows if len(rows) else np.arange(len(self))).tolist())
        return common_levels(one for one in some if isinstance(one, Path))

    def _repr_html_(self) -> str:
        parts = [part for part in PARTS if (self.parts == part).any()]
        link = self.targets.link
        kind = "" if link is None else f", {'several labels' if link.independent else 'one label'} {self.modality.article} {self.noun}"
        grouped = f", {len(np.unique(self.groups))} groups" if self.grouped else ""
        notes = "".join(f"<p>{html(note)}</p>" for note in self.notes)
        return (
            f"<p><strong>{plural(len(self), self.noun)}</strong>, {plural(len(self.classes), 'class')}{kind}{grouped}"
            f"{' in ' + html(self.source) if self.source else ''}</p>{counts_table({part: self.tally(part) for part in parts})}{notes}"
        )


def names_of(inputs: Inputs, root: Path | None) -> tuple[str, ...]:
    """Return what to call each input: its path relative to `root` with ``/``, the name of a text, or ``array[i]``."""
    if isinstance(inputs, np.ndarray):
        return tuple(f"array[{i}]" for i in range(len(inputs)))
    return tuple(relative_name(one, root) if isinstance(one, Path) else getattr(one, "name", f"array[{i}]") for i, one in enumerate(inputs))


def relative_name(path: Path, root: Path | None) -> str:
    """Return `path` relative to `root` (whole where it lies elsewhere) with ``/``; always printable."""
    text = path.as_posix()
    if root is not None and root != Path():
        text = text.removeprefix(root.as_posix().rstrip("/") + "/")
    return printable(text)


def html(text: str) -> str:
    """Return a text as HTML; characters that do not print become a replacement mark."""
    return escape(visible(text))


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return an HTML table of the number of images by class (rows) and part (columns; ``""`` where the data say nothing)."""
    classes = list(next(iter(counts.values()), {}))
    rows = [(html(name), *(of.get(name, 0) for of in counts.values())) for name in classes[:SHOWN]]
    if len(classes) > SHOWN:
        rest = (sum(of.get(name, 0) for name in classes[SHOWN:]) for of in counts.values())
        rows.append((f"and {len(classes) - SHOWN} more", *rest))
    if len(classes) > 1:
        rows.append(("<strong>together</strong>", *(f"<strong>{sum(of.values())}</strong>" for of in counts.values())))
    head = "".join(f"<th>{html(part or 'images')}</th>" for part in counts)
    body = "".join(f"<tr>{''.join(f'<td>{value}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><thead><tr><th>class</th>{head}</tr></thead><tbody>{body}</tbody></table>"
