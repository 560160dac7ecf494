"""`Trust`: everything that a run keeps to tell when it is to be believed; and `TrustTest`: how well that held on the test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from headstart.metrics import accuracy_interval, link_of
from headstart.reliability.abstention import Abstention
from headstart.reliability.prediction_sets import PredictionSets
from headstart.reliability.unlike import Unlike

if TYPE_CHECKING:
    from headstart.backbones import Layer

COVERAGE = 0.95
"""Share of images whose prediction set is to hold the right class."""

WANTED = (0.95, 0.98, 0.99, 0.995)
"""Accuracies for which a threshold is looked up."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trust:
    """What is known beside the classes; each part is None where there was nothing to learn it from.

    Attributes:
        sets: the classes that come into question for an image.
        abstention: from which confidence on the model is right how often.
        unlike: how unlike the training images an image is.
    """

    sets: PredictionSets | None
    abstention: Abstention | None
    unlike: Unlike | None

    @classmethod
    def fit(
        cls,
        features: npt.NDArray[np.float32],
        targets: npt.NDArray[Any],
        probabilities: npt.NDArray[np.float64],
        logits: npt.NDArray[np.float64],
        *,
        layers: Sequence[Layer],
        groups: npt.NDArray[Any] | None = None,
        coverage: float = COVERAGE,
        by_class: bool = False,
        seed: int = 0,
    ) -> Self:
        """Learn from the training images.

        Args:
            features: float32 (n, D).
            targets: int64 (n,), or bool (n, k) for several labels an image.
            probabilities: (n, k), out of sample; nan for images that the model has learned from.
            logits: the same before softmax or sigmoid.
            layers: slices of the features.
            groups: of the images, (n,).
            coverage: asked of the prediction sets.
            by_class: promise it within each class.
            seed: where images are drawn.
        """
        known = np.isfinite(probabilities).all(axis=1)
        sets = abstention = None
        if known.any():
            labelled = targets.ndim == 1 or bool(targets[known].any())
            sets = PredictionSets.fit(probabilities[known], targets[known], coverage=coverage, by_class=by_class) if labelled else None
            abstention = Abstention.fit(*confidence(probabilities[known], targets[known]))
        unlike = Unlike.fit(features, targets, layers=layers, logits=logits, groups=groups, seed=seed)
        return cls(sets=sets, abstention=abstention, unlike=unlike)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Everything needed to make it again: JSON values and arrays."""
        settings, arrays = (None, {}) if self.unlike is None else self.unlike.state()
        return {
            "sets": None if self.sets is None else self.sets.to_dict(),
            "abstention": None if self.abstention is None else self.abstention.to_dict(),
            "unlike": settings,
        }, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Make it again from what `state` gave.

        Raises:
            RunError: a part is damaged.
        """
        sets, abstention, unlike = (settings.get(name) for name in ("sets", "abstention", "unlike"))
        return cls(
            sets=None if sets is None else PredictionSets.from_dict(sets),
            abstention=None if abstention is None else Abstention.from_dict(abstention),
            unlike=None if unlike is None else Unlike.from_state(unlike, dict(arrays)),
        )


def confidence(probabilities: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """How sure each prediction is, and whether it is right; with several labels an image, each yes or no is a prediction."""
    link = link_of(targets)
    sure = np.maximum(probabilities, 1 - probabilities).ravel() if link.independent else probabilities.max(axis=1)
    return sure.astype(np.float64), (link.decisions(probabilities) == targets).ravel()


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A threshold that was to give the accuracy `wanted`: it answers a `share` of the test images, and of these a share is `right`."""

    wanted: float
    threshold: float
    share: float
    right: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TrustTest:
    """How well what was learned about trust held on images with known labels.

    Attributes:
        images: how many.
        asked: coverage asked of the prediction sets; `coverage`: share of images whose set held the right class (of several labels: all of
            them, among the images that have any), with its 95 % interval (Wilson); `size`: mean number of classes in a set; `single`: share
            of sets with one class. None where there are no sets.
        unlike: share of the images that were called unlike the training images; None where nothing can tell.
        answered: what became of the thresholds for some accuracies; those that training could not promise are left out.
    """

    images: int
    asked: float | None = None
    coverage: float | None = None
    coverage_interval: tuple[float, float] | None = None
    size: float | None = None
    single: float | None = None
    unlike: float | None = None
    answered: tuple[Answered, ...] = ()

    @classmethod
    def of(cls, trust: Trust, probabilities: npt.NDArray[Any], targets: npt.NDArray[Any], unlike: npt.NDArray[np.bool_] | None) -> Self:
        """Test it.

        Args:
            trust: learned from other images.
            probabilities: (m, k).
            targets: int64 (m,) or bool (m, k).
            unlike: bool (m,), as `Unlike` says; None where it was not asked.
        """
        count = len(probabilities)
        found: dict[str, Any] = {"images": count, "unlike": None if unlike is None else float(unlike.mean())}
        if trust.sets is not None:
            sets = trust.sets(probabilities, never_empty=True)
            # of several labels, the promise is about images that have any
            held = (sets | ~targets)[targets.any(axis=1)].all(axis=1) if targets.ndim == 2 else sets[np.arange(count), targets]
            found |= {
                "asked": trust.sets.coverage, "size": float(sets.sum(axis=1).mean()), "single": float((sets.sum(axis=1) == 1).mean()),
            }  # fmt: skip
            if len(held):
                found |= {"coverage": float(held.mean()), "coverage_interval": accuracy_interval(int(held.sum()), len(held))}
        return cls(**found, answered=() if trust.abstention is None else _answered(trust.abstention, probabilities, targets))

    def sentences(self) -> tuple[str, ...]:
        """In words."""
        said = []
        if self.coverage is not None and self.asked is not None and self.coverage_interval is not None:
            low, high = self.coverage_interval
            said.append(
                f"Prediction sets made to hold the right class in {self.asked:.0%} of cases held it in {self.coverage:.1%} "
                f"[{low:.1%}, {high:.1%}]; they name {self.size:.2f} classes on average, and one alone for {self.single:.0%} of the images."
            )
        said += [
            f"Answering only where its probability is at least {row.threshold:.3f}, the model answers {row.share:.0%} of the cases and is "
            f"right in {row.right:.2%} of them [{row.interval[0]:.2%}, {row.interval[1]:.2%}] ({row.wanted:.1%} was asked for)."
            for row in self.answered
        ]
        if self.unlike is not None:
            said.append(f"{self.unlike:.1%} of these images were called unlike anything seen in training.")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        rows = tuple(Answered(**{**row, "interval": tuple(row["interval"])}) for row in values.get("answered", ()))
        interval = values.get("coverage_interval")
        return cls(**{**values, "answered": rows, "coverage_interval": None if interval is None else tuple(interval)})


def _answered(abstention: Abstention, probabilities: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[Answered, ...]:
    sure, right = confidence(probabilities, targets)
    sure = sure.astype(np.float32)  # as the thresholds were, so that what was equal to one stays equal
    rows: list[Answered] = []
    for wanted in WANTED:
        found = abstention.threshold_for(wanted)
        if found is None:
            continue
        kept = sure >= found[0]
        if not kept.any() or any(row.threshold == found[0] for row in rows):
            continue
        rows.append(
            Answered(
                wanted=wanted, threshold=found[0], share=float(kept.mean()), right=float(right[kept].mean()),
                interval=accuracy_interval(int(right[kept].sum()), int(kept.sum())),
            )
        )  # fmt: skip
    return tuple(rows)
