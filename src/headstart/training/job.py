"""`TrainingJob`: what is to be trained on which images; `TrainingTask`: what the one training loop asks of a task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone
from headstart.features import Images
from headstart.modalities.image import Preprocessing
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.checkpoint import CheckpointFolder
from headstart.training.processes import Processes

if TYPE_CHECKING:
    from headstart.backbones import Layer
    from headstart.training.trained_head import TrainedHead

Rows = npt.NDArray[np.int64]
StartFeatures = Callable[[int], npt.NDArray[np.float32] | None]
"""From the image size to the frozen features of the training rows before the classifier (m, D), or None."""


@dataclass(frozen=True)
class Resumable:
    """Where the state of a training is saved, and the processes that share it.

    Attributes:
        checkpoints: the folder; None is a temporary one.
        resume: continue from its checkpoint.
        processes: that train together.
        events: folder for TensorBoard's event files, if the plan asks for them.
    """

    checkpoints: CheckpointFolder | None = None
    resume: bool = False
    processes: Processes = field(default_factory=Processes)
    events: Path | None = None


@dataclass(frozen=True, eq=False)
class Validation:
    """The network on images that it does not learn from.

    Attributes:
        loss, accuracy: None without images.
        criterion: what the best epoch is selected by; the lower the better.
        predictions: float32 (n, *shape), see `TrainingTask`.
    """

    loss: float | None = None
    accuracy: float | None = None
    criterion: float = math.inf
    predictions: npt.NDArray[np.float32] | None = None


class TaskLoss(Protocol):
    """The loss of each image, since several processes may share a batch; the mean is the sum of losses over the sum of weights."""

    def __call__(self, outputs: Any, targets: Any, /) -> Any:
        """The loss of each image (N,), times its weight."""
        ...

    def weights(self, targets: Any) -> Any:
        """The weight of each image (N,)."""
        ...


class TrainingTask(Protocol):
    """A task as the training loop sees it.

    *Outputs* are those of the head network; *predictions* are made of them and compared with *targets*.
    """

    @property
    def loss(self) -> TaskLoss:
        """From outputs and targets to losses."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the predictions for one image."""
        ...

    def head(self, features: int, plan: FineTuning, *, seed: int) -> Any:
        """The head network, randomly initialised: features (N, D) to outputs, with a method `draw` as of `HeadNetwork`."""
        ...

    def fit_head(self, head: Any, features: npt.NDArray[np.float32], rows: Rows, *, seed: int) -> None:
        """Initialise the head by a fit on frozen features (m, D) of these rows."""
        ...

    def targets(self, rows: Rows) -> Any:
        """The targets of these rows, a tensor; MixUp and CutMix mix it linearly."""
        ...

    def guessing(self, rows: Rows) -> float:
        """The mean loss on these rows of a network that has learned nothing."""
        ...

    def predictions(self, outputs: Any) -> Any:
        """The predictions (N, *shape)."""
        ...

    def scores(self, predictions: Any, targets: Any) -> Any:
        """The score of each image (N,), from 0 to 1: for classification its accuracy."""
        ...

    def validate(self, predictions: Any, targets: Any) -> Validation:
        """The scores over all validation images."""
        ...

    def model(
        self, head: Any, layer: Layer, dim: int, predictions: npt.NDArray[np.float32] | None, rows: Rows | None
    ) -> tuple[TrainedHead, npt.NDArray[np.float64] | None]:
        """What a run stores of the trained head, and the predictions for the validation images, calibrated.

        Args:
            head: the head network.
            layer: the columns of the features that it takes.
            dim: length of the whole feature vector.
            predictions: of the validation images.
            rows: the validation images, if calibration may use them.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingJob:
    """All that a training is told.

    Attributes:
        plan: how to train.
        task: targets, loss, head and scores.
        images: all of them, training and validation images.
        train: rows that are learned from.
        validation: rows that are scored after each epoch; may be empty.
        select_best: whether the best epoch is selected on the validation rows.
        seed: of everything random.
        processes: that train together.
        checkpoints: where the state is saved after each epoch; None saves none.
        resume: continue from the checkpoint.
        events: folder for TensorBoard's event files, if the plan asks for them.
        listener: is told about progress.
    """

    plan: FineTuning
    task: TrainingTask
    images: Images
    train: Rows
    validation: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    select_best: bool = True
    seed: int = 0
    processes: Processes = field(default_factory=Processes)
    checkpoints: CheckpointFolder | None = None
    resume: bool = False
    events: Path | None = None
    listener: Listener = field(default_factory=Listener)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pretrained:
    """What a training starts from.

    Attributes:
        backbone: as `load_backbone` returned it; it is not changed.
        preprocessing: of testing; the plan's image size takes precedence.
        weights: as given to `load_backbone`.
        engine: as `open_engine` takes it, for the frozen part; or ``torch``.
        features: the frozen features that the head is fitted on at the start; None starts with a random head.
    """

    backbone: Backbone
    preprocessing: Preprocessing
    weights: str | Path | None = None
    engine: str = "auto"
    features: StartFeatures | None = None
