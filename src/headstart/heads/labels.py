"""Labels as heads learn them: one column for each class, weights of the images, and stratified subsamples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.split import folds
from headstart.errors import ParameterError
from headstart.heads.calibration import Calibration, calibrate
from headstart.metrics.link import SIGMOID, SOFTMAX, Link

ClassWeight = Mapping[Any, float] | str | None
Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class EncodedLabels:
    """Labels as columns, which image has which: bool (n, k)."""

    classes: npt.NDArray[Any]  # sorted; for independent labels the column numbers
    indicators: npt.NDArray[np.bool_]
    link: Link
    dtype: np.dtype[Any]  # of the labels as they were given
    weights: Floats | None = None  # of the images (n,); None where all count the same
    groups: Groups = None  # numbers (n,): out-of-sample scores leave out the whole group of an image; None where each is its own

    def __len__(self) -> int:
        return len(self.indicators)

    @property
    def codes(self) -> npt.NDArray[Any]:
        """What folds are stratified by: class numbers int64 (n,), or for independent labels the bool matrix (n, k)."""
        return self.link.targets(self.indicators)

    @property
    def signed(self) -> npt.NDArray[np.float32]:
        """+1 where the label is present, -1 elsewhere: float32 (n, k)."""
        return np.where(self.indicators, np.float32(1), np.float32(-1))

    def take(self, rows: npt.NDArray[np.int64]) -> EncodedLabels:
        """The labels of some images, with their weights and groups, and with all the classes."""
        weights = None if self.weights is None else self.weights[rows]
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, indicators=self.indicators[rows], weights=weights, groups=groups)

    def weighted(self, class_weight: ClassWeight) -> EncodedLabels:
        """The same with weights of the images; see `image_weights`."""
        return replace(self, weights=image_weights(self, class_weight))

    def calibrate(self, scores: npt.ArrayLike, *, shifts: bool = True, bends: bool = False) -> Calibration:
        """The calibration of out-of-sample scores (n, k); see `headstart.heads.calibration.calibrate`."""
        return calibrate(scores, self.indicators, link=self.link, weights=self.weights, shifts=shifts, bends=bends)

    def log_loss(self, logits: Floats) -> float:
        """The weighted mean log loss of logits (n, k)."""
        return float(np.average(self.link.losses(logits, self.indicators), weights=self.weights))


def encode(y: npt.ArrayLike) -> EncodedLabels:
    """Encode n labels of any type, or a matrix (n, k) of False/True or 0/1, where an image may have several labels.

    Raises ValueError, as scikit-learn expects, for targets that are no classes, or fewer than two classes.
    """
    labels: npt.NDArray[Any] = y if isinstance(y, np.ndarray) else np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] > 1:
        if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
            raise ValueError(
                "Unknown label type: a matrix of targets must hold only 0 and 1 (or False and True), one column for each label."
            )
        return EncodedLabels(np.arange(labels.shape[1]), labels.astype(bool), SIGMOID, labels.dtype)
    if labels.ndim != 1 or labels.dtype.kind not in "biuU":
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import column_or_1d

        labels = column_or_1d(labels, warn=True)
        check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"A classifier needs images of at least two classes; all {len(labels)} have the one class {classes.tolist()[0]!r}."
        )
    return EncodedLabels(classes, codes[:, None] == np.arange(len(classes)), SOFTMAX, labels.dtype)


def image_weights(targets: EncodedLabels, class_weight: ClassWeight, sample_weight: Floats | None = None) -> Floats | None:
    """Weights of the images, float64 (n,), or None where all count the same.

    ``balanced`` gives every class (of those present) the same total. Of several labels an image counts as the mean of their weights.
    """
    if class_weight is None:
        return sample_weight
    per_class = class_weights(targets, class_weight)
    member = targets.indicators.astype(np.float64)
    labels = member.sum(axis=1)
    weights = np.where(labels > 0, member @ per_class / np.maximum(labels, 1), 1.0)
    return weights if sample_weight is None else weights * sample_weight


def class_weights(targets: EncodedLabels, class_weight: Mapping[Any, float] | str) -> npt.NDArray[np.float64]:
    """The weight of each class, float64 (k,); ParameterError for one that is neither ``balanced`` nor a dictionary of positive numbers."""
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ParameterError(f"class_weight must be None, 'balanced' or a dictionary of label to weight, got {class_weight!r}.")
        counts = targets.indicators.sum(axis=0)
        return np.where(counts > 0, counts.sum() / (max(1, (counts > 0).sum()) * np.maximum(counts, 1)), 0.0)
    known = targets.classes.tolist()
    strange = [label for label in class_weight if label not in known]
    if strange:
        raise ParameterError(
            f"class_weight names the label {strange[0]!r}, which the data do not have. Their labels: {', '.join(map(repr, known[:10]))}."
        )
    weights = np.array([class_weight.get(label, 1.0) for label in known], dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ParameterError(f"class_weight must hold positive numbers, got {dict(class_weight)!r}.")
    return weights


def stratified_rows(targets: EncodedLabels, count: int, *, seed: int) -> npt.NDArray[np.int64]:
    """About `count` row numbers, ascending (all where there are no more): of each class its share, but two images if it has two."""
    n = len(targets)
    if n <= count:
        return np.arange(n)
    generator = np.random.default_rng(seed)
    if targets.link.independent:
        rarest = np.argsort(targets.indicators.sum(axis=0))
        rows = [np.flatnonzero(targets.indicators[:, column])[:2] for column in rarest]
        drawn = np.concatenate([*rows, generator.permutation(n)])
        _, first = np.unique(drawn, return_index=True)
        return np.sort(drawn[np.sort(first)][:count])
    codes = targets.codes
    chosen = []
    for code in range(len(targets.classes)):
        members = np.flatnonzero(codes == code)
        chosen.append(generator.permutation(members)[: max(2, round(len(members) * count / n))])
    return np.sort(np.concatenate(chosen))


def whole_groups(targets: EncodedLabels, count: int, *, seed: int) -> npt.NDArray[np.int64]:
    """About `count` row numbers, ascending, of groups that are whole; `stratified_rows` where every image is its own."""
    if targets.groups is None:
        return stratified_rows(targets, count, seed=seed)
    names, sizes = np.unique(targets.groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    drawn = names[order[: max(2, int(np.searchsorted(np.cumsum(sizes[order]), count)))]]
    return np.flatnonzero(np.isin(targets.groups, drawn))


def held_out_folds(targets: EncodedLabels, count: int, *, seed: int) -> list[npt.NDArray[np.int64]]:
    """Folds that hold out every image once; those that are the only ones of a class make folds of their own."""
    parts: list[npt.NDArray[np.int64]] = []
    for fewer in range(count, 1, -1):
        try:
            parts = list(folds(targets.codes, count=fewer, groups=targets.groups, seed=seed))
            break
        except ParameterError:
            continue
    rest = np.setdiff1d(np.arange(len(targets)), np.concatenate([*parts, np.empty(0, dtype=np.int64)]))
    if len(rest):
        numbers = np.arange(len(rest)) if targets.groups is None else np.unique(targets.groups[rest], return_inverse=True)[1]
        share = 1 if parts else count
        parts += [rest[numbers % share == part] for part in range(share)]
    return [part for part in parts if len(part)]
