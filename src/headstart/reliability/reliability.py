"""`Reliability`: when the predictions of a run can be trusted; and `ReliabilityTest`: how well that held on the test images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.matrix import FeatureMatrix
from headstart.metrics import accuracy_interval, link_of
from headstart.reliability.guarantees import Abstention, PredictionSets
from headstart.reliability.novelty import Novelty
from headstart.reliability.shift import Shift
from headstart.text import percent

if TYPE_CHECKING:
    from headstart.backbones import Layer

COVERAGE = 0.95
"""Target share of images whose prediction set contains the true class."""

ACCURACIES = (0.95, 0.98, 0.99, 0.995)
"""Accuracies for which a threshold is tested."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Reliability:
    """What a run can say about its predictions; each part is None where there was nothing to fit it on.

    Where several columns of labels are learned, `columns` has what is known of each; novelty is of all of them together.
    """

    sets: PredictionSets | None = None
    abstention: Abstention | None = None
    novelty: Novelty | None = None
    columns: Mapping[str, Reliability] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, features: FeatureMatrix, targets: npt.NDArray[Any], logits: npt.NDArray[np.float64], *, layers: Sequence[Layer],
        groups: npt.NDArray[Any] | None = None, coverage: float = COVERAGE, by_class: bool = False, seed: int = 0,
    ) -> Self:  # fmt: skip
        """Fit it on features (n, D) and targets, int64 (n,) or bool (n, k), of the training images.

        The logits (n, k) are out of sample; nan for images that the backbone was trained on. Coverage is the target of the prediction sets.
        """
        novelty = Novelty.fit(features, targets, layers=layers, logits=logits, groups=groups, seed=seed)
        return replace(cls.promising(targets, logits, coverage=coverage, by_class=by_class), novelty=novelty)

    @classmethod
    def promising(
        cls, targets: npt.NDArray[Any], logits: npt.NDArray[np.float64], *, coverage: float = COVERAGE, by_class: bool = False
    ) -> Self:  # fmt: skip
        """As `fit`, without novelty, which is all that needs features."""
        probabilities = link_of(targets).probabilities(logits)
        known = np.isfinite(probabilities).all(axis=1)
        sets = abstention = None
        if known.any():
            labelled = targets.ndim == 1 or bool(targets[known].any())
            sets = PredictionSets.fit(probabilities[known], targets[known], coverage=coverage, by_class=by_class) if labelled else None
            abstention = Abstention.fit(*confidence(probabilities[known], targets[known]))
        return cls(sets=sets, abstention=abstention)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values, and the arrays of the novelty model."""
        settings, arrays = (None, {}) if self.novelty is None else self.novelty.state()
        sets, abstention = (None if part is None else part.to_dict() for part in (self.sets, self.abstention))
        columns = {name: one.state()[0] for name, one in self.columns.items()}
        return {"sets": sets, "abstention": abstention, "unlike": settings, **({"columns": columns} if columns else {})}, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where a part is damaged."""
        sets, abstention, unlike = (settings.get(name) for name in ("sets", "abstention", "unlike"))
        return cls(
            sets=None if sets is None else PredictionSets.from_dict(sets),
            abstention=None if abstention is None else Abstention.from_dict(abstention),
            novelty=None if unlike is None else Novelty.from_state(unlike, arrays),
            columns={name: cls.from_state(one, {}) for name, one in settings.get("columns", {}).items()},
        )


def confidence(probabilities: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The confidence of each prediction, and whether it is correct; with several labels an image, each yes or no is a prediction."""
    link = link_of(targets)
    sure = np.maximum(probabilities, 1 - probabilities).ravel() if link.independent else probabilities.max(axis=1)
    return sure.astype(np.float64), (link.decisions(probabilities) == targets).ravel()


@dataclass(frozen=True, kw_only=True)
class ThresholdTest:
    """A threshold guaranteed to give the accuracy `wanted`: it answers a `share` of the test images, and of these a share is `right`."""

    wanted: float
    threshold: float
    share: float
    right: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ReliabilityTest:
    """How well the guarantees held on images with known labels; None where there are no prediction sets, or novelty is unknown."""

    images: int
    asked: float | None = None  # target coverage of the prediction sets
    coverage: float | None = None  # share of images whose set has the true class (of several labels: all, of the images that have any)
    coverage_interval: tuple[float, float] | None = None  # 95 %, Wilson
    size: float | None = None  # mean number of classes in a set
    single: float | None = None  # share of sets with one class
    unlike: float | None = None  # share of images flagged as unlike the training images
    answered: tuple[ThresholdTest, ...] = ()  # for some accuracies, without those that training could not guarantee
    shift: Shift = field(default_factory=Shift)  # whether the images come from another world than the training images
    columns: Mapping[str, ReliabilityTest] = field(default_factory=dict)  # of each column of labels, where several are learned

    @classmethod
    def of_columns(
        cls, columns: Mapping[str, ReliabilityTest], novelty: Novelty | None, unlike: npt.NDArray[np.bool_] | None, *, images: int
    ) -> Self:  # fmt: skip
        """Of several columns of labels, each tested on the images that have a label there; `unlike`, bool (m,), is of all images."""
        novel = None if novelty is None or unlike is None else novelty.rate(int(unlike.sum()), len(unlike))
        missed = next((one.shift.missed for one in columns.values() if one.shift.found), None)
        share = None if unlike is None else float(unlike.mean())
        return cls(images=images, unlike=share, shift=Shift(novel=novel, missed=missed), columns=dict(columns))

    @classmethod
    def of(
        cls, reliability: Reliability, probabilities: npt.NDArray[Any], targets: npt.NDArray[Any], unlike: npt.NDArray[np.bool_] | None
    ) -> Self:
        """Test it on the probabilities (m, k) and targets of other images; `unlike`, bool (m,), is what `Novelty` says of them."""
        count = len(probabilities)
        found: dict[str, Any] = {"images": count, "unlike": None if unlike is None else float(unlike.mean())}
        novel = missed = None
        if unlike is not None and reliability.novelty is not None:
            novel = reliability.novelty.rate(int(unlike.sum()), len(unlike))
        if reliability.sets is not None:
            sets = reliability.sets(probabilities, never_empty=True)
            # of several labels, the guarantee is about images that have any
            held = (sets | ~targets)[targets.any(axis=1)].all(axis=1) if targets.ndim == 2 else sets[np.arange(count), targets]
            sizes = sets.sum(axis=1)
            found |= {"asked": reliability.sets.coverage, "size": float(sizes.mean()), "single": float((sizes == 1).mean())}
            if len(held):
                found |= {"coverage": float(held.mean()), "coverage_interval": accuracy_interval(int(held.sum()), len(held))}
                missed = reliability.sets.rate(int((~held).sum()), len(held))
        if reliability.abstention is not None:
            found["answered"] = _threshold_tests(reliability.abstention, probabilities, targets)
        return cls(**found, shift=Shift(novel=novel, missed=missed))

    def sentences(self, images: str = "images") -> tuple[str, ...]:
        """How prediction sets and novelty did on the `images`, as sentences."""
        said = []
        if self.coverage is not None:
            low, high = self.coverage_interval or (math.nan, math.nan)
            interval = "" if math.isnan(low) else f" (95 % interval {percent(low)} to {percent(high)})"
            size = "" if self.size is None else f"mean size {self.size:.2f}, "
            asked = "" if self.asked is None else f"; {percent(self.asked)} was asked for"
            single = "" if self.single is None else f" A single class for {percent(self.single)} of them."
            said.append(f"Prediction sets: {size}coverage {percent(self.coverage)} of the {images}{interval}{asked}.{single}")
        if self.unlike is not None:
            expected = self.shift.novel
            usual = "" if expected is None else f"; of images like the training images, {percent(expected.promised)} are expected to be"
            said.append(f"{percent(self.unlike)} of the {images} are flagged as novel{usual}.")
        return (*(f"{name}: {sentence}" for name, one in self.columns.items() for sentence in one.sentences(images)), *said)

    def threshold_sentences(self) -> tuple[str, ...]:
        """How the thresholds did, a sentence each."""
        return tuple(
            f"At a confidence of at least {row.threshold:.3f}, chosen for an accuracy of {percent(row.wanted)}, the model answers "
            f"{percent(row.share)} of the images with an accuracy of {percent(row.right)} "
            f"(95 % interval {percent(row.interval[0])} to {percent(row.interval[1])})."
            for row in self.answered
        ) + tuple(f"{name}: {sentence}" for name, one in self.columns.items() for sentence in one.threshold_sentences())

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        columns = {name: one.to_dict() for name, one in self.columns.items()}
        found = asdict(replace(self, columns={})) | {"shift": self.shift.to_dict()}
        return {**{name: value for name, value in found.items() if name != "columns"}, **({"columns": columns} if columns else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        rows = tuple(ThresholdTest(**{**row, "interval": tuple(row["interval"])}) for row in values.get("answered", ()))
        interval, shift = values.get("coverage_interval"), Shift.from_dict(values.get("shift"))
        columns = {name: cls.from_dict(one) for name, one in values.get("columns", {}).items()}
        found = {"answered": rows, "coverage_interval": None if interval is None else tuple(interval), "shift": shift, "columns": columns}
        return cls(**{**values, **found})


def _threshold_tests(abstention: Abstention, probabilities: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[ThresholdTest, ...]:
    sure, right = confidence(probabilities, targets)
    sure = sure.astype(np.float32)  # as the thresholds were, so that what was equal to one stays equal
    rows: list[ThresholdTest] = []
    for wanted in ACCURACIES:
        found = abstention.threshold_for(wanted)
        if found is None:
            continue
        kept = sure >= found[0]
        if not kept.any() or any(row.threshold == found[0] for row in rows):
            continue
        rows.append(
            ThresholdTest(
                wanted=wanted, threshold=found[0], share=float(kept.mean()), right=float(right[kept].mean()),
                interval=accuracy_interval(int(right[kept].sum()), int(kept.sum())),
            )
        )  # fmt: skip
    return tuple(rows)
