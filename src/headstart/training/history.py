"""The history of a training, epoch by epoch, as checkpoints, run folders, reports and TensorBoard have it."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from headstart.errors import MissingExtraError, ParameterError

ACCURACY = "accuracy"
"""The score of a training on labels."""

_EARLIER = {"accuracy": "score", "val_accuracy": "val_score"}


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images."""

    number: int  # from 1
    loss: float  # mean over the training images, during the epoch; nan or infinite where the training diverged
    score: float  # mean of the training images, from 0 to 1, during the epoch: of labels the accuracy; see `History.score`
    val_loss: float | None = None  # the same after the epoch, over the validation images; None without them
    val_score: float | None = None
    lr: float  # the highest learning rate of any parameter, at the end of the epoch
    seconds: float  # validation included
    trained: tuple[str, ...] = ()  # names of the stages of the backbone that were trained in it, in order; empty where only the head was

    def __post_init__(self) -> None:
        if isinstance(self.number, bool) or not isinstance(self.number, int) or self.number < 1:
            raise ParameterError(f"The number of an epoch must be a whole number of at least 1, got {self.number!r}.")
        if isinstance(self.trained, str):
            raise ParameterError(f"trained must be a list of names of stages, got the text {self.trained!r}.")
        object.__setattr__(self, "trained", tuple(self.trained))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become the text ``nan``, ``inf`` or ``-inf``."""
        beyond = {name: str(value) for name, value in vars(self).items() if isinstance(value, float) and not math.isfinite(value)}
        return {**vars(self), "trained": list(self.trained), **beyond}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ParameterError where an entry is missing, unknown or not a number.

        Earlier versions called every score ``accuracy``.
        """
        try:
            values = {_EARLIER.get(name, name): value for name, value in values.items()}
            numbers = ("loss", "score", "lr", "seconds", *(name for name in ("val_loss", "val_score") if values.get(name) is not None))
            return cls(**{**values, **{name: float(values[name]) for name in numbers}})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ParameterError(f"This is not the record of an epoch ({type(error).__name__}: {error}): {values!r:.200}") from error


@dataclass(frozen=True)
class History:
    """All epochs of a training."""

    epochs: tuple[Epoch, ...] = ()  # in order
    best: int | None = None  # number of the epoch whose weights are kept; None where no single epoch was selected
    stopped: str = ""  # a sentence on why the training ended; empty while it runs
    watched: str = "validation"  # or ``test``: the images scored after each epoch, and nothing was selected on them
    score: str = ACCURACY  # what the score of the epochs is called

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", tuple(self.epochs))
        numbers = [epoch.number for epoch in self.epochs]
        if sorted(set(numbers)) != numbers:
            raise ParameterError(f"The numbers of the epochs must increase, got {numbers}.")
        if self.best is not None and self.best not in numbers:
            raise ParameterError(f"best must be the number of one of the epochs ({numbers}) or None, got {self.best!r}.")

    @property
    def kept(self) -> Epoch | None:
        """The epoch with the number `best`."""
        return next((epoch for epoch in self.epochs if epoch.number == self.best), None)

    @property
    def seconds(self) -> float:
        """Duration of all epochs."""
        return math.fsum(epoch.seconds for epoch in self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; see `Epoch.to_dict` on numbers that are not finite."""
        of_all = {"best": self.best, "stopped": self.stopped, "watched": self.watched, "score": self.score}
        return {"epochs": [epoch.to_dict() for epoch in self.epochs], **of_all}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ParameterError where an entry is missing or wrong."""
        try:
            epochs, best, stopped = values["epochs"], values["best"], values["stopped"]
        except (KeyError, TypeError) as error:
            raise ParameterError(f"The history of a training needs epochs, best and stopped; got {values!r:.200}") from error
        watched, score = str(values.get("watched", "validation")), str(values.get("score", ACCURACY))
        return cls(epochs=tuple(map(Epoch.from_dict, epochs)), best=best, stopped=str(stopped), watched=watched, score=score)


def require_tensorboard() -> None:
    """Check, before a training starts, that event files can be written. Raises MissingExtraError if they cannot."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("Writing event files for TensorBoard", extra="tensorboard")


class EventFiles:
    """A folder of event files, one for each training: ``tensorboard --logdir FOLDER`` draws them. The steps are the numbers of the epochs.

    Nothing is written before the first epoch. Scalars of validation are left out if nothing was held out. `score` is as of `History`.
    """

    def __init__(self, folder: str | Path, *, score: str = ACCURACY) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("Writing event files for TensorBoard", extra="tensorboard") from error
        self._open, self._folder, self._score = SummaryWriter, str(folder), score.replace(" ", "_")
        self._writer: Any = None

    def epoch(self, epoch: Epoch) -> None:
        """Write one epoch and flush it, so that it outlives a training that is killed. Raises OSError where the folder cannot be written.

        Where a training was resumed, TensorBoard then drops what an earlier process wrote of this epoch and later ones.
        """
        if self._writer is None:
            self._writer = self._open(self._folder, purge_step=epoch.number if epoch.number > 1 else None)
        scalars = {
            "loss/train": epoch.loss, "loss/validation": epoch.val_loss, f"{self._score}/train": epoch.score,
            f"{self._score}/validation": epoch.val_score, "learning_rate": epoch.lr,
        }  # fmt: skip
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._writer is not None:
            self._writer.close()
