"""The numbers of a training, epoch by epoch: what the loop writes down, and checkpoints, run folders and reports keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from headstart.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images.

    Attributes:
        number: from 1.
        loss: mean over the training images, in the course of the epoch; nan or infinite where the training diverged.
        accuracy: share of the training images named rightly, in the course of the epoch.
        val_loss: mean over the validation images, after the epoch; None without validation images.
        val_accuracy: share of the validation images named rightly, after the epoch; None without validation images.
        lr: the highest learning rate of any parameter, at the end of the epoch.
        seconds: what the epoch took, validation included.
        trained: names of the stages of the backbone that were trained in it, in the backbone's order; none where the head alone was.
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
            raise ParameterError(f"The number of an epoch is a whole number of at least 1, got {self.number!r}.")
        if isinstance(self.trained, str):
            raise ParameterError(f"trained is a list of names of stages, got the text {self.trained!r}.")
        object.__setattr__(self, "trained", tuple(self.trained))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. What JSON has no number for becomes the text ``nan``, ``inf`` or ``-inf``; None means not measured."""
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
        best: number of the epoch whose weights are kept; None where no single epoch was chosen.
        stopped: a sentence: why the training ended. Empty while it runs.
        watched: which images were looked at after each epoch: ``validation``, held out of the training images to choose the best epoch; or
            ``test``, on which nothing was chosen.
    """

    epochs: tuple[Epoch, ...] = ()
    best: int | None = None
    stopped: str = ""
    watched: str = "validation"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", tuple(self.epochs))
        numbers = [epoch.number for epoch in self.epochs]
        if sorted(set(numbers)) != numbers:
            raise ParameterError(f"The numbers of the epochs must rise, got {numbers}.")
        if self.best is not None and self.best not in numbers:
            raise ParameterError(f"best must be the number of one of the epochs ({numbers}) or None, got {self.best!r}.")

    @property
    def kept(self) -> Epoch | None:
        """The epoch with the number `best`."""
        return next((epoch for epoch in self.epochs if epoch.number == self.best), None)

    @property
    def seconds(self) -> float:
        """What all epochs took together."""
        return math.fsum(epoch.seconds for epoch in self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; see `Epoch.to_dict` on numbers that are not finite."""
        return {"epochs": [epoch.to_dict() for epoch in self.epochs], "best": self.best, "stopped": self.stopped, "watched": self.watched}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ParameterError where an entry is missing or is not what it must be."""
        try:
            epochs, best, stopped = values["epochs"], values["best"], values["stopped"]
        except (KeyError, TypeError) as error:
            raise ParameterError(f"The history of a training needs epochs, best and stopped; got {values!r:.200}") from error
        watched = str(values.get("watched", "validation"))
        return cls(epochs=tuple(map(Epoch.from_dict, epochs)), best=best, stopped=str(stopped), watched=watched)
