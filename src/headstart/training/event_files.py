"""Writes the numbers of a training as TensorBoard event files, through torch, while it runs. Needs the extra ``tensorboard``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import TracebackType
from typing import Self

from headstart.errors import MissingExtraError
from headstart.training.history import Epoch


def require_tensorboard() -> None:
    """Make sure, before a training begins, that event files can be written. Raises MissingExtraError where they cannot."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("Writing event files for TensorBoard", extra="tensorboard")


class EventFiles:
    """A folder of event files: ``tensorboard --logdir FOLDER`` draws them. The steps are the numbers of the epochs.

    Scalars: ``loss/train``, ``loss/validation``, ``accuracy/train``, ``accuracy/validation`` and ``learning_rate``. Those of validation are
    left out where nothing was held out.
    """

    def __init__(self, folder: str | Path, *, first: int = 1) -> None:
        """Open the folder, and create it where it is missing.

        Args:
            folder: one for each training.
            first: number of the first epoch to come. Where a training goes on after a break, TensorBoard then drops what an earlier process
                wrote of this epoch and later ones.

        Raises:
            MissingExtraError: tensorboard is not installed.
            OSError: as the file system does.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("Writing event files for TensorBoard", extra="tensorboard") from error
        self._writer = SummaryWriter(str(folder), purge_step=first if first > 1 else None)

    def epoch(self, epoch: Epoch) -> None:
        """Write one epoch, through to the file, so that a training that is cut off keeps it."""
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
        """Close the file; closing twice does no harm."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
