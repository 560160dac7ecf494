"""The accuracy gate: whether an int8 file is right about as often as its run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.data import labels_in
from headstart.errors import ParameterError
from headstart.export.comparison import AGREEMENT, SIZES
from headstart.export.formats import Outputs
from headstart.export.parity import Reference
from headstart.export.sample import Sample
from headstart.metrics.link import Link, link_of

MAX_DROP = 0.005


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The accuracy gate: an int8 file is written only if it is right about as often as the run on images with known labels.

    Attributes:
        before, after: accuracy of the run and of the file; with several labels an image, the share of labels rightly assigned or not.
        agreement: share of the images that keep their label.
        lost, gained: how many only the run, or only the file, gets right.
        max_drop: how much `before` may exceed `after`.
        column: of labels, where there are several; all others are no worse.
        unit: what is counted, or the name of a score that `before` and `after` are; of ``pixels``, those count as right that have the class
            that the run gives them: no more of them can be lost.
        in_float, layers: how many layers are left in float32, of how many.
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
    column: str = ""
    unit: str = "images"

    @classmethod
    def worst(cls, reference: Reference, outputs: Outputs, **settings: Any) -> Self:
        """Compare the outputs of a file with those of the run; of several columns of labels, that in which it comes off worst.

        `settings` are as of `of`.
        """
        run, sample, found = reference.run, reference.sample, []
        if reference.comparison.pixels:
            same = reference.comparison.same(outputs, reference.outputs())
            return cls(
                part=sample.part, images=len(sample), before=1.0, after=same, agreement=same, lost=0, gained=0, unit="pixels", **settings
            )  # fmt: skip
        targets = run.task.targets(sample.targets, run.manifest.state)
        if (task := reference.comparison.task) is not None:
            own = reference.outputs()
            unit, score, lowered = task.gate(outputs, own, own[SIZES], targets)
            same = reference.comparison.same(outputs, own)
            return cls(
                part=sample.part, images=len(sample), before=score, after=lowered, agreement=same, lost=0, gained=0, unit=unit, **settings
            )  # fmt: skip
        for one in run.class_outputs:
            rows, labels = labels_in(targets, one.column)
            if not len(rows):
                continue
            part = replace(sample, paths=[sample.paths[row] for row in rows.tolist()], targets=labels)
            before, after = (of[one.probabilities][rows] for of in (reference.outputs(), outputs))
            found.append(replace(cls.of(before, after, part, **settings), column=one.column))
        return max(found, key=lambda gate: (not gate.passed, gate.before - gate.after))

    @classmethod
    def of(cls, before: npt.NDArray[Any], after: npt.NDArray[Any], sample: Sample, **settings: Any) -> Self:
        """Compare probabilities (n, k) of the run and of the file on a sample; `settings` are `max_drop`, `in_float` and `layers`."""
        link = link_of(sample.targets)
        first, second = ((link.decisions(values) == sample.targets).ravel() for values in (before, after))
        return cls(
            part=sample.part, images=len(sample.targets), before=float(first.mean()), after=float(second.mean()),
            agreement=agreement(before, after, link), lost=int(np.sum(first & ~second)), gained=int(np.sum(second & ~first)), **settings,
        )  # fmt: skip

    @property
    def passed(self) -> bool:
        """Whether the file may be written."""
        return self.before - self.after <= self.max_drop + 1e-12 and (self.scored or self.agreement >= AGREEMENT)

    @property
    def scored(self) -> bool:
        """Whether `before` and `after` are a score of the task and not a share of what is counted; `unit` is then its name."""
        return self.unit not in ("images", "pixels")

    def summary(self) -> str:
        """One sentence for the user."""
        in_float = f", {self.in_float} of {self.layers} layers in float32" if self.in_float else ""
        of, outcome = f" of {self.column!r}" if self.column else "", "passed" if self.passed else "failed"
        if self.unit == "pixels":
            return (
                f"int8{in_float}: {self.agreement:.2%} of the pixels of {self.images} {self.part} images keep the class that the run gives "
                f"them (at least {max(AGREEMENT, 1 - self.max_drop):.2%}), so that no more than the others can be lost: {outcome}."
            )
        if self.scored:
            return (
                f"int8{in_float}: {self.unit} {self.after:.4f} against {self.before:.4f} of the run on {self.images} {self.part} images "
                f"(drop {self.before - self.after:+.4f}, allowed {self.max_drop:.4f}): {outcome}."
            )
        return (
            f"int8{in_float}: accuracy{of} {self.after:.2%} against {self.before:.2%} of the run on {self.images} {self.part} images "
            f"(drop {self.before - self.after:+.2%}, allowed {self.max_drop:.2%}); {self.agreement:.1%} keep their label "
            f"(at least {AGREEMENT:.0%}): {outcome}."
        )


def read_drop(text: str) -> float:
    """A share such as ``0.5%`` or ``0.005``. Raises ParameterError for anything that is not from 0 to 1."""
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ParameterError(f"--max-drop must be a share such as 0.5% or 0.005, got {text!r}.")
    return value


def agreement(one: npt.NDArray[Any], other: npt.NDArray[Any], link: Link) -> float:
    """Share of images for which two sets of probabilities (n, k) give the same decision."""
    return float(link.correct(link.decisions(one), link.decisions(other)).mean())
