"""What a fit learns beside the classes: prediction sets, abstention, "unlike", the learning curve, and labels that look wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.audit import Finding, find_label_errors
from headstart.classifier import TransferClassifier
from headstart.data import Dataset
from headstart.evaluate import Evaluation
from headstart.metrics import link_of
from headstart.progress import Listener
from headstart.reliability import Reliability, ReliabilityTest
from headstart.selection import LearningCurve, learning_curve
from headstart.settings import FitSettings

_FEW = 40  # training images: a curve of fewer tells nothing


@dataclass(frozen=True, eq=False, kw_only=True)
class Believed:
    """What was learned from the training images, and how well it held on the test images."""

    trust: Reliability
    test: ReliabilityTest
    curve: LearningCurve | None


def believe(
    classifier: TransferClassifier, values: npt.NDArray[np.float32], dataset: Dataset, groups: npt.NDArray[np.int64] | None,
    evaluation: Evaluation, *, settings: FitSettings, listener: Listener,
) -> Believed:  # fmt: skip
    """Learn it.

    Args:
        classifier: fitted on the training part.
        values: float32 (n, D), features of all images, as the fitted backbone gives them.
        dataset: of which they are, with its parts.
        groups: of the images.
        evaluation: on the test part.
        settings: of the fit.
        listener: is told how it goes.
    """
    train, test = dataset.part("train"), dataset.part("test")
    choice, layers = classifier.choice_, classifier.extractor_.layers
    of_training = None if groups is None else groups[train]
    trust = Reliability.fit(
        values[train], dataset.targets[train], link_of(dataset.targets).probabilities(choice.out_of_sample), choice.out_of_sample,
        layers=layers, groups=of_training, coverage=settings.coverage, by_class=settings.coverage_by_class, seed=settings.seed,
    )  # fmt: skip
    unlike = None if trust.novelty is None else trust.novelty(values[test])
    curve = None
    if classifier.fine_tuned_ is None and len(train) >= _FEW:
        curve = learning_curve(
            values[train], dataset.targets[train], choice=choice, layers=layers,
            class_weight=settings.class_weight, groups=of_training, seed=settings.seed, progress=listener.progress,
        )  # fmt: skip
    return Believed(
        trust=trust, test=ReliabilityTest.of(trust, evaluation.outcome.probabilities, dataset.targets[test], unlike), curve=curve
    )


def suspicious_labels(classifier: TransferClassifier, dataset: Dataset) -> list[Finding]:
    """Labels of training images that a model which had not seen the image is sure are others."""
    return find_label_errors(dataset, dataset.part("train"), classifier.choice_.out_of_sample)
