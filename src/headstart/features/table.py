"""`FeatureTable`: the inputs that could be read, with their features, digests, targets, split and groups, all in one order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.backbones import Layer
from headstart.data import Dataset
from headstart.data.split import hold_out
from headstart.errors import DataError, UnreadableError
from headstart.features.extractor import Features
from headstart.features.running import Images
from headstart.features.stage_maps import StageMaps
from headstart.matrix import FeatureMatrix, take_rows


@dataclass(frozen=True, eq=False)
class Counted:
    """Features of inputs, (n, D), with what is counted in each."""

    features: FeatureMatrix
    counts: Any

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: npt.NDArray[np.int64]) -> Counted:
        """Those of some inputs."""
        return Counted(take_rows(self.features, rows), self.counts.take(rows))


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureTable:
    """Rows of a data set with their features."""

    dataset: Dataset  # the inputs that could be read, with targets and split
    rows: npt.NDArray[np.int64]  # (n,), their positions in the data set that was read
    values: FeatureMatrix  # (n, D), their features; (n, 0) where a training starts from the pixels alone
    digests: tuple[bytes, ...]  # the SHA-256 of each input; equal digests are the same input
    groups: npt.NDArray[np.int64]
    """(n,): inputs of one number belong on the same side of every split. They hold the groups of the data and all copies of an input
    together; an input that stands alone is a group of its own."""
    layers: tuple[Layer, ...]  # the slices of `values`, a stage of the backbone each
    refused: tuple[UnreadableError, ...] = ()  # inputs that could not be read, with the reason
    maps: StageMaps | None = None  # of the stages, for tasks that learn from them
    counts: Any = None  # what is counted in each input beside its features (`headstart.modalities.Counts`), for tasks that learn from it

    @classmethod
    def of(cls, dataset: Dataset, features: Features, *, layers: Sequence[Layer]) -> Self:
        """The rows of `dataset` that have features; DataError where none has."""
        if not len(features.kept):
            raise DataError(f"None of the {len(dataset)} images can be read. The first: {next(iter(features.refused), '-')}")
        readable = dataset.take(features.kept)
        return cls(
            dataset=readable, rows=features.kept, values=features.values, digests=features.digests,
            groups=groups_of(readable, features.digests), layers=tuple(layers), refused=features.refused, maps=features.maps,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def train(self) -> npt.NDArray[np.int64]:
        """The rows to learn from."""
        return self.dataset.part("train")

    @property
    def test(self) -> npt.NDArray[np.int64]:
        """The rows to test on."""
        return self.dataset.part("test")

    def features(self, rows: npt.NDArray[np.int64]) -> FeatureMatrix:
        """The features of some rows, without a copy where that would be large; not to be written to."""
        return take_rows(self.values, rows)

    def inputs(self, rows: npt.NDArray[np.int64]) -> FeatureMatrix | StageMaps | Counted:
        """What a model of the task takes, of some rows: their maps where the table has such, else their features, with counts if any."""
        if self.maps is not None:
            return self.maps.take(rows)
        return self.features(rows) if self.counts is None else Counted(self.features(rows), self.counts.take(rows))

    @property
    def targets(self) -> npt.NDArray[Any]:
        """The targets as an array, in the order of the rows."""
        return self.dataset.targets.array

    def groups_among(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The groups of some rows, as scikit-learn takes them: None where every input of the table stands alone."""
        return None if stand_alone(self.groups) else self.groups[rows]

    def hold_out(self, rows: npt.NDArray[np.int64], *, share: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Some of the rows in two parts, the second of them with this share: stratified, inputs of one group on one side.

        Both are positions among `rows`. Errors as of `headstart.data.split.hold_out`.
        """
        return hold_out(self.dataset.targets.strata[rows], share=share, groups=self.groups_among(rows), seed=seed)

    def take(self, rows: npt.ArrayLike) -> Self:
        """The table of some rows, in that order."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        digests = tuple(self.digests[row] for row in chosen.tolist())
        return replace(
            self, dataset=self.dataset.take(chosen), digests=digests, values=self.features(chosen), rows=self.rows[chosen],
            groups=self.groups[chosen], maps=None if self.maps is None else self.maps.take(chosen),
            counts=None if self.counts is None else self.counts.take(chosen),
        )  # fmt: skip

    def tested_on(self, rows: npt.NDArray[np.int64]) -> Self:
        """The same rows with another split: `rows` to test on, all others to learn from."""
        parts = np.full(len(self), "train", dtype="U5")
        parts[rows] = "test"
        return replace(self, dataset=replace(self.dataset, parts=parts))

    def with_values(self, values: FeatureMatrix, layers: Sequence[Layer]) -> Self:
        """The same inputs with the features of another backbone."""
        return replace(self, values=values, layers=tuple(layers))


def groups_of(dataset: Dataset, digests: Sequence[bytes], *, together: Iterable[Sequence[int]] = ()) -> npt.NDArray[np.int64]:
    """Numbers of groups, int64 (n,), that hold the groups of the data, all copies of an input, and the rows in each of `together`."""
    group = np.unique(dataset.groups, return_inverse=True)[1].reshape(-1).astype(np.int64)
    if len(set(digests)) < len(digests):
        group = _joined(group, np.unique(np.array(digests, dtype="S64"), return_inverse=True)[1])
    further = np.arange(len(group))
    for rows in together:
        further[list(rows)] = rows[0]
    return _joined(group, further) if (further != np.arange(len(group))).any() else group


def stand_alone(groups: npt.NDArray[np.int64]) -> bool:
    """Whether every input is a group of its own."""
    return len(np.unique(groups)) == len(groups)


def _joined(first: npt.NDArray[np.int64], second: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The finest groups that hold together what either of two groupings does."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    other = np.unique(second, return_inverse=True)[1].reshape(-1)
    nodes = int(first.max()) + 1
    edges = coo_array((np.ones(len(first)), (first, nodes + other)), shape=(nodes + int(other.max()) + 1,) * 2)
    component = connected_components(edges, directed=False)[1]
    return np.asarray(component[first], dtype=np.int64)


def taken(images: Images, rows: npt.NDArray[np.int64]) -> Images:
    """Some of the images."""
    return images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows.tolist()]
