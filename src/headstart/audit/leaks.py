"""What a leak does to the score: the accuracy with and without test images seen in training in some form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data import Dataset
from headstart.metrics import accuracy_interval

_WHOLE = "all test images"


@dataclass(frozen=True, kw_only=True)
class LeakTest:
    """The accuracy on some of the test images.

    Attributes:
        label: which, in words.
        accuracy: of the one model on them.
        interval: 95 %, Wilson.
        images: how many.
    """

    label: str
    accuracy: float
    interval: tuple[float, float]
    images: int

    @classmethod
    def of(cls, label: str, right: npt.NDArray[np.bool_]) -> LeakTest:
        """Count the right ones, of at least one image."""
        interval = accuracy_interval(int(right.sum()), len(right))
        return cls(label=label, accuracy=float(right.mean()), interval=interval, images=len(right))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def line(self) -> str:
        """In a line."""
        low, high = self.interval
        return f"accuracy {self.accuracy:.4f} [{low:.4f}, {high:.4f}] on {self.label} ({self.images})"


def known_beforehand(
    dataset: Dataset, digests: Sequence[bytes], components: Iterable[Sequence[int]] = ()
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which images of the test part training has seen in some form, bool (m,) for each way in which it has.

    Args:
        dataset: with its parts.
        digests: the SHA-256 of each image.
        components: positions of images that are the same picture.
    """
    train, test = dataset.part("train", "val"), dataset.part("test")
    seen = {digests[index] for index in train}
    found = {"copies": np.array([digests[index] in seen for index in test.tolist()], dtype=bool)}
    trained = set(train.tolist())
    near: set[int] = set()
    for component in components:
        if not trained.isdisjoint(component):
            near.update(component)
    found["near copies"] = np.isin(test, np.array(sorted(near), dtype=np.int64)) & ~found["copies"]
    if dataset.grouped:
        found["groups"] = np.isin(dataset.groups[test], dataset.groups[train])
    return {name: rows for name, rows in found.items() if rows.any()}


_WORDS = {
    "copies": "that are copies of training images",
    "near copies": "that are near copies of training images",
    "groups": "whose group is in the training part",
}


def leak_tests(right: npt.NDArray[np.bool_], known: dict[str, npt.NDArray[np.bool_]]) -> tuple[LeakTest, ...]:
    """The accuracy on all test images, on those seen in training, and on the others; nothing where none were.

    Args:
        right: bool (m,), which test images were named rightly.
        known: as `known_beforehand` gives it.
    """
    if not known:
        return ()
    unseen = ~np.logical_or.reduce(list(known.values()))
    return (
        LeakTest.of(_WHOLE, right),
        *(LeakTest.of(f"those {_WORDS[name]}", right[rows]) for name, rows in known.items()),
        *([LeakTest.of("those not seen in training in any form", right[unseen])] if unseen.any() else []),
    )
