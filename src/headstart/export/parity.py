"""Parity: whether an exported file gives the same outputs as its run, in float32.

Run and file are given the same arrays. From a file, `Preprocessing` decodes a large JPEG at a reduced scale; an exported model is given all
pixels, decoded by whoever uses it. The difference that this makes is measured as well, and has wider limits: see `Parity.from_files`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.export.comparison import AGREEMENT, PIXEL_CLASS, SIZES, TOLERANCE, Comparison
from headstart.export.formats import Outputs
from headstart.export.onnx_file import NOVELTY
from headstart.export.sample import Sample
from headstart.run import Run

_BEYOND = 0.0011  # the first number of two digits above it
SCORE = 0.1  # the same for the novelty score, of which 1 is about the spread over the training images
FROM_FILES = 0.01  # the median difference from the run that decodes the files itself: photographs have 1e-5, and a few of them 0.1
SAME_PIXELS = 0.999  # share of the pixels that must have the same class; the others lie where two classes are as likely


class Reference:
    """The outputs of the run itself for a sample, each computed once."""

    def __init__(self, run: Run, sample: Sample) -> None:
        self.run, self.sample, self.comparison = run, sample, Comparison.of(run)
        self._computed: dict[str, Outputs] = {}

    @cached_property
    def default_engine(self) -> str:
        """The engine that the run chooses itself."""
        return self.run.with_engine("auto").engine.name

    def outputs(self, engine: str | None = None) -> Outputs:
        """For the decoded arrays that the file is given, in this engine, or in the run's own where it cannot be opened in it.

        Raises ParameterError where an image could not be read.
        """
        engine = self.default_engine if engine in (None, "litert") else engine
        if engine not in self._computed:
            self._computed[engine] = self._predicted(self.sample, engine)
        return self._computed[engine]

    @cached_property
    def from_files(self) -> Outputs:
        """For the files, which the run decodes itself, in its own engine."""
        return self._predicted(self.sample.paths, self.default_engine)

    def _predicted(self, images: Any, engine: str) -> Outputs:
        found = self.run.with_engine(engine).predict(images)
        if len(found) < len(self.sample):
            raise ParameterError(f"{found.refused[0]}: an image that the export is compared on.")
        judgement = found.judgement
        scores = None if judgement is None else judgement.unlikeness
        sizes = {} if found.sizes is None else {SIZES: found.sizes}
        return {**found.outputs, **({} if scores is None else {NOVELTY: scores}), **sizes}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported file is from the run, over all images of a part.

    Attributes:
        engine: runs both; ``litert`` runs the file only, and the default engine the run.
        output, decision: which output is compared, and what follows from it; see `Comparison`.
        same: share of the images with the same label, labels or value.
        difference: the largest difference; `median`: over the images, of the largest of each.
        novelty, same_novelty: the largest difference of the novelty score, and the share of images on the same side of its threshold;
            None for files without one.
        default_engine, against_default: the run's own engine, and the largest difference from the run in that one.
        from_files, median_from_files, same_from_files: largest and median difference, and share, when the run decodes the files itself.
            Single photographs near the edge of a class may differ by a lot; the median and the share have limits.
    """

    engine: str
    part: str
    images: int
    output: str
    decision: str
    same: float
    difference: float
    median: float
    novelty: float | None
    same_novelty: float | None
    default_engine: str
    against_default: float
    from_files: float
    median_from_files: float
    same_from_files: float

    @classmethod
    def of(cls, reference: Reference, outputs: Outputs, *, engine: str) -> Self:
        """Compare the outputs of an exported file, run in `engine`, with those of the run."""
        comparison, own = reference.comparison, reference.outputs(engine)
        novelty = same_novelty = None
        reliability = reference.run.reliability
        score = None if reliability is None else reliability.novelty
        if NOVELTY in outputs and NOVELTY in own and score is not None:
            novelty = _largest(np.abs(outputs[NOVELTY] - own[NOVELTY]))
            same_novelty = float(((outputs[NOVELTY] > score.threshold) == (own[NOVELTY] > score.threshold)).mean())
        differences = comparison.differences(outputs, own)
        from_files = comparison.differences(outputs, reference.from_files)
        return cls(
            engine=engine, part=reference.sample.part, images=len(reference.sample),
            output=comparison.output, decision=comparison.decision, same=comparison.same(outputs, own),
            difference=_largest(differences), median=float(np.median(differences)), novelty=novelty, same_novelty=same_novelty,
            default_engine=reference.default_engine,
            against_default=_largest(comparison.differences(outputs, reference.outputs())),
            from_files=_largest(from_files), median_from_files=float(np.median(from_files)),
            same_from_files=comparison.same(outputs, reference.from_files),
        )  # fmt: skip

    def faults(self, max_difference: float = TOLERANCE) -> tuple[str, ...]:
        """The reasons not to write a file in float32; none for one that agrees with the run.

        Where more than `TOLERANCE` is allowed, so is another label for images whose probabilities are that close: for `1 - AGREEMENT` of
        them at most.
        """
        found = []
        of = f"the pixels of {self.images} images" if self.decision == PIXEL_CLASS else f"{self.images} images"
        exact = SAME_PIXELS if self.decision == PIXEL_CLASS else 1.0
        least = exact if max_difference <= TOLERANCE else 0.0 if self.decision == "value" else AGREEMENT
        if self.same < least:
            found.append(f"{1 - self.same:.1%} of {of} get another {'class' if self.decision == PIXEL_CLASS else self.decision}")
        if not self.difference <= max_difference:
            found.append(f"{self.output} differ by {self.difference:.2g}, more than {max_difference:g}")
        if self.novelty is not None and not self.novelty <= SCORE:
            found.append(f"the novelty score differs by {self.novelty:.2g}, more than {SCORE:g}")
        if not self.median_from_files <= max(FROM_FILES, max_difference):
            found.append(
                f"from the run on the files themselves, {self.output} differ by {self.median_from_files:.2g} in the median, more than "
                f"{max(FROM_FILES, max_difference):g}"
            )
        if self.decision == PIXEL_CLASS and self.same_from_files < AGREEMENT:
            found.append(f"{1 - self.same_from_files:.1%} of {of} get another class from the run on the files themselves")
        if self.decision == "label" and (1 - self.same_from_files) * self.images > max(1, (1 - AGREEMENT) * self.images) + 1e-6:
            found.append(f"{1 - self.same_from_files:.1%} of {self.images} images get another label from the run on the files themselves")
        return tuple(found)

    def allowing(self) -> float | None:
        """The smallest `max_difference`, of two digits, that has no faults; None where none has."""
        value = max(rounded_up(self.difference), TOLERANCE if not self.faults() else _BEYOND)
        if not self.median_from_files <= FROM_FILES:
            value = max(value, rounded_up(self.median_from_files))
        return None if value > 1 or self.faults(value) else value

    def summary(self) -> str:
        """One line for the user."""
        digits = 3 if self.decision == PIXEL_CLASS else 1
        same = "all" if self.same == 1 else f"{self.same:.{digits}%}"
        default = f", and by {self.against_default:.1e} from the run in {self.default_engine}" if self.default_engine != self.engine else ""
        of = f"{self.images} {self.part} images"
        decision, of = ("class", f"the pixels of {of}") if self.decision == PIXEL_CLASS else (self.decision, of)
        return (
            f"{self.engine}: same {decision} for {same} of {of}; {self.output} differ by at most "
            f"{self.difference:.1e} (median {self.median:.1e}){default}. With the run's own decoding, which may reduce large JPEGs: "
            f"{self.from_files:.1e}, same {decision} for {self.same_from_files:.{digits}%}."
        )


def rounded_up(value: float) -> float:
    """To two significant digits, never below the value; infinity and 0 are themselves."""
    if not 0 < value < math.inf:
        return value
    digits = 1 - math.floor(math.log10(value))
    return round(math.ceil(value * 10.0**digits) / 10.0**digits, digits)


def _largest(values: npt.NDArray[Any]) -> float:
    """The largest; infinite if one is not a number, which a maximum of Python's might pass over."""
    return float(values.max()) if np.isfinite(values).all() else float("inf")
