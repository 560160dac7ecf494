"""The training images of a run that are nearest to a new one: evidence that needs no colours."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError

REFERENCE, SPLIT = "reference.safetensors", "split.csv"
_ROWS = 4096  # compared together


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """What a run keeps of the images it was trained on.

    Attributes:
        features: float16 or float32 (n, d), the pooled features before the classifier.
        paths: of the files, as the run knows them; they may have been moved since.
        labels: in words; several are joined with ``;``.
    """

    features: npt.NDArray[np.floating]
    paths: tuple[Path, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def read(cls, run: str | Path) -> Self:
        """Read them from a run folder.

        Raises:
            RunError: the folder lacks them, or its two files do not fit each other.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        run = Path(run)
        try:
            features = load_file(run / REFERENCE)["features"]
            with (run / SPLIT).open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
            paths, labels = tuple(run / row["path"] for row in rows), tuple(row["label"] for row in rows)
        except (OSError, KeyError, ValueError, TypeError, csv.Error, SafetensorError) as error:
            raise RunError(f"{run}: its training images cannot be read ({type(error).__name__}: {error}). Copy the run again.") from None
        if len(features) != len(paths):
            raise RunError(f"{run}: {REFERENCE} has {len(features)} training images and {SPLIT} {len(paths)}. Copy the run again.")
        return cls(features, paths, labels)

    def nearest(self, features: npt.NDArray[np.floating], *, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The training images that look most alike to the network.

        Args:
            features: (m, d), of the same layer.
            count: how many of each; fewer where there are not so many.

        Returns:
            Their positions, int64 (m, count), the most alike first, and how alike they are, float32 (m, count): the cosine of the angle
            between the features, 1 for the same direction.

        Raises:
            ParameterError: features of another length.
        """
        if features.ndim != 2 or features.shape[1] != self.features.shape[1]:
            raise ParameterError(f"The training images have {self.features.shape[1]} features, got an array of shape {features.shape}.")
        asked = _directions(features)
        closeness = np.empty((len(asked), len(self.features)), np.float32)
        for start in range(0, len(self.features), _ROWS):
            closeness[:, start : start + _ROWS] = asked @ _directions(self.features[start : start + _ROWS]).T
        order = np.argsort(-closeness, axis=1, kind="stable")[:, :count].astype(np.int64)
        return order, np.take_along_axis(closeness, order, axis=1)


def _directions(features: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    rows: npt.NDArray[np.float32] = features.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    rows /= np.where(lengths > 0, lengths, np.float32(1))
    return rows
