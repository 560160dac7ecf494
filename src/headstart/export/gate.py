"""The accuracy gate: an int8 file is written only if it is right about as often as the run on images with known labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.export.parity import agreement

MAX_DROP = 0.005
AGREEMENT = 0.98
"""Share of images that must keep their label, whatever the accuracy: what is wrong on other images is another model."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One comparison of an int8 file with the run.

    Attributes:
        part, images: which images, and how many.
        before, after: accuracy of the run and of the file; with several labels an image, share of the right yes and no.
        agreement: share of the images that keep their label.
        lost, gained: images that only the run, or only the file, gets right.
        max_drop: how much `before` may exceed `after`.
        in_float: how many layers are left in float32, of how many.
        layers: see there.
    """

    part: str
    images: int
    before: float
    after: float
    agreement: float
    lost: int
    gained: int
    max_drop: float
    in_float: int = 0
    layers: int = 0

    @classmethod
    def of(
        cls,
        before: npt.NDArray[Any],
        after: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        *,
        part: str,
        max_drop: float,
        in_float: int = 0,
        layers: int = 0,
    ) -> Self:
        """Compare probabilities (n, k) of the run and of the file; targets int64 (n,) or bool (n, k)."""
        multilabel = targets.ndim == 2
        if multilabel:
            first, second = (((values >= 0.5) == targets).ravel() for values in (before, after))
        else:
            first, second = (values.argmax(axis=1) == targets for values in (before, after))
        return cls(
            part=part, images=len(targets), before=float(first.mean()), after=float(second.mean()),
            agreement=agreement(before, after, multilabel=multilabel), lost=int(np.sum(first & ~second)),
            gained=int(np.sum(second & ~first)), max_drop=max_drop, in_float=in_float, layers=layers,
        )  # fmt: skip

    @property
    def passed(self) -> bool:
        """Whether the file may be written."""
        return self.before - self.after <= self.max_drop + 1e-12 and self.agreement >= AGREEMENT

    def sentence(self) -> str:
        """In words."""
        kept = f", {self.in_float} of {self.layers} layers left in float32" if self.in_float else ""
        return (
            f"int8{kept}: accuracy {self.after:.2%} after {self.before:.2%} on {self.images} {self.part} images "
            f"(drop {self.before - self.after:+.2%}, allowed {self.max_drop:.2%}), {self.agreement:.1%} keep their label "
            f"(at least {AGREEMENT:.0%}): {'passed' if self.passed else 'failed'}."
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "passed": self.passed}


def read_drop(text: str) -> float:
    """A share such as ``0.5%`` or ``0.005``.

    Raises:
        ParameterError: it is none, or not from 0 to 1.
    """
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ParameterError(f"--max-drop must be a share such as 0.5% or 0.005, got {text!r}.")
    return value
