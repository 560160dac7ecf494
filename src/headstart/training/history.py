"""The history of a training, epoch by epoch, as checkpoints, run folders, reports and TensorBoard have it."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from headstart.errors import MissingExtraError, ParameterError


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images.

    Attributes:
        number: from 1.
        loss: mean over the training images, during the epoch; nan or infinite where the training diverged.
        accuracy: share of the training images classified correctly, during the epoch.
        val_loss: mean over the validation images, after the epoch; None without validation images.
        val_accuracy: share of the validation images classified correctly, after the epoch; None without validation images.
        lr: the highest learning rate of any parameter, at the end of the epoch.
        seconds: duration of the epoch, validation included.
        trained: names of the stages of the backbone that were trained in it, in order; empty where only the head was.
    """

    number: int
    loss: float
    accuracy: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    lr: float
    seconds: float
    trained: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.number, bool) or not isinstance(self.number, int) or self.number < 1:
            raise ParameterError(f"The number of an epoch must be a whole number of at least 1, got {self.number!r}.")
        if isinstance(self.trained, str):
            raise ParameterError(f"trained must be a list of names of stages, got the text {self.trained!r}.")
        object.__setattr__(self, "trained", tuple(self.trained))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become the text ``nan``, ``inf`` or ``-inf``."""
        plain = {name: str(value) if _beyond_json(value) else value for name, value in asdict(self).items()}
        return plain | {"trained": list(self.trained)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ParameterError where an entry is missing, unknown or not a number."""
        numbers = ("loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds")
        optional = ("val_loss", "val_accuracy")
        try:
            read = {name: None if name in optional and values.get(name) is None else float(values[name]) for name in numbers}
            return cls(**{**values, **read})
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(f"This is not the record of an epoch ({type(error).__name__}: {error}): {dict(values)!r:.200}") from error


def _beyond_json(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@dataclass(frozen=True)
class History:
    """All epochs of a training.

    Attributes:
        epochs: in order.
        best: number of the epoch whose weights are kept; None where no single epoch was selected.
        stopped: a sentence on why the training ended; empty while it runs.
        watched: the images that were scored after each epoch: ``validation``, held out of the training images to select the best epoch; or
            ``test``, on which nothing was selected.
    """

    epochs: tuple[Epoch, ...] = ()
    best: int | None = None
    stopped: str = ""
    watched: str = "validation"

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
        return {"epochs": [epoch.to_dict() for epoch in self.epochs], "best": self.best, "stopped": self.stopped, "watched": self.watched}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ParameterError where an entry is missing or wrong."""
        try:
            epochs, best, stopped = values["epochs"], values["best"], values["stopped"]
        except (KeyError, TypeError) as error:
            raise ParameterError(f"The history of a training needs epochs, best and stopped; got {values!r:.200}") from error
        watched = str(values.get("watched", "validation"))
        return cls(epochs=tuple(map(Epoch.from_dict, epochs)), best=best, stopped=str(stopped), watched=watched)


def require_tensorboard() -> None:
    """Check, before a training starts, that event files can be written. Raises MissingExtraError if they cannot."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("Writing event files for TensorBoard", extra="tensorboard")


class EventFiles:
    """A folder of event files: ``tensorboard --logdir FOLDER`` draws them. The steps are the numbers of the epochs.

    Scalars: ``loss/train``, ``loss/validation``, ``accuracy/train``, ``accuracy/validation`` and ``learning_rate``. Those of validation are
    left out if nothing was held out.
    """

    def __init__(self, folder: str | Path) -> None:
        """Nothing is written before the first epoch.

        Args:
            folder: one for each training.

        Raises:
            MissingExtraError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("Writing event files for TensorBoard", extra="tensorboard") from error
        self._open, self._folder = SummaryWriter, str(folder)
        self._writer: Any = None

    def epoch(self, epoch: Epoch) -> None:
        """Write one epoch and flush it, so that it outlives a training that is killed.

        Where a training was resumed, TensorBoard then drops what an earlier process wrote of this epoch and later ones.

        Raises:
            OSError: the folder cannot be written.
        """
        if self._writer is None:
            self._writer = self._open(self._folder, purge_step=epoch.number if epoch.number > 1 else None)
        scalars = {
            "loss/train": epoch.loss,
            "loss/validation": epoch.val_loss,
            "accuracy/train": epoch.accuracy,
            "accuracy/validation": epoch.val_accuracy,
            "learning_rate": epoch.lr,
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._writer is not None:
            self._writer.close()
