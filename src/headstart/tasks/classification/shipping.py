"""Which model a training gives: the frozen backbone's head (the probe), the trained network, or the mean of both.

They are compared on the validation images, from which neither the network nor, for this comparison, the probe has learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.features.table import FeatureTable
from headstart.heads.calibration import calibrate
from headstart.heads.labels import EncodedLabels
from headstart.selection import Candidate, Choice, HeadPipeline, unfitted
from headstart.selection.candidates import Scored
from headstart.selection.mean import mean_of_logits
from headstart.selection.tried import unbeatable

Floats = npt.NDArray[np.float64]

PROBE, TRAINED, MEAN = "probe", "trained", "mean"
CALIBRATED_FROM = 10
"""Least number of validation images for fitting a temperature."""


@dataclass(frozen=True, eq=False)
class Contender(Scored):
    """A model that may be shipped, by what it says of the validation images."""

    name: str
    logits: Floats  # (m, k), divided by the temperature
    targets: EncodedLabels  # of these m images
    temperature: float = 1.0

    @classmethod
    def calibrated(cls, name: str, logits: Floats, targets: EncodedLabels) -> Contender:
        """With a temperature fitted on these images, where there are enough of them."""
        if len(targets) < CALIBRATED_FROM:
            return cls(name, logits, targets)
        scale = calibrate(logits, targets.indicators, link=targets.link, weights=targets.weights, shifts=False).scale
        return cls(name, logits * scale, targets, 1 / scale)

    def candidate(self, like: Candidate, *, chosen: bool) -> Candidate:
        """The contender as evidence, described `like` this."""
        return replace(like, chosen=chosen, **self.scores())


@dataclass(frozen=True, eq=False)
class Rival:
    """The probe fitted again on those training images alone that the network learns from."""

    teaching: Floats  # probabilities (n, k) of these images, each from a fit that did not see it
    held: Floats  # logits (m, k) of the validation images

    @classmethod
    def of(
        cls, probe: Choice, table: FeatureTable, rows: npt.NDArray[np.int64], held: npt.NDArray[np.int64], *, class_weight: Any, seed: int
    ) -> Rival:  # fmt: skip
        """Layers, head and hyperparameters are those of the probe; `rows` and `held` are rows of the table."""
        chosen = next(candidate for candidate in probe.evidence if candidate.chosen)
        pipeline = unfitted(chosen, layers=table.layers, class_weight=class_weight, seed=seed)
        pipeline.fit(table.features(rows), table.targets[rows], groups=table.groups_among(rows))
        return cls(probabilities_of(pipeline, pipeline.out_of_sample_logits_), pipeline.logits(table.features(held)))


def probabilities_of(pipeline: HeadPipeline, logits: Floats) -> Floats:
    """Probabilities (n, k) from logits (n, k)."""
    return pipeline.link_.probabilities(logits)


def contenders(
    probe: Floats, trained: npt.NDArray[np.floating[Any]] | None, targets: EncodedLabels, *, mean: bool
) -> Mapping[str, Contender]:
    """The models that may be shipped, by name, from the logits (m, k) of the validation images.

    `trained` is None where no epoch was better than the beginning; `mean` says whether both can be in one model.
    """
    logits = {PROBE: probe}
    if trained is not None:
        logits[TRAINED] = trained.astype(np.float64)
        if mean:
            logits[MEAN] = mean_of_logits([probe, Contender.calibrated(TRAINED, logits[TRAINED], targets).logits], targets.link)
    return {name: Contender.calibrated(name, values, targets) for name, values in logits.items()}  # all of them, to be fair


def no_rival(probe: Floats, targets: EncodedLabels) -> str:
    """Why no training could be shown to be better than a probe with these logits (m, k) of the validation images; empty where one could."""
    few = unbeatable(Contender(PROBE, probe, targets))
    return few and f"the head on the frozen backbone is wrong about {few} validation images"


def best_of(found: Mapping[str, Contender]) -> Contender:
    """The one with the lowest criterion; the first of equal ones."""
    return min(found.values(), key=lambda contender: round(contender.criterion, 9))


def reason_of(found: Mapping[str, Contender], shipped: Contender) -> str:
    """Why that one is shipped, in a sentence."""
    titles = {PROBE: "the head on the frozen backbone", TRAINED: "the trained network", MEAN: "the mean of both"}
    others = [f"{titles[name]} {contender.correct.mean():.1%}" for name, contender in found.items() if contender is not shipped]
    said = f"{titles[shipped.name]}: {shipped.correct.mean():.1%} right on {len(shipped.targets)} validation images"
    if shipped.name == PROBE:
        said = f"the training was asked for, and did not pay; what is kept is {said}"
    return f"{said}, against {' and '.join(others)}" if others else f"{said}; no epoch was better than the first head"
