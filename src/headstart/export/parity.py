"""Whether an exported file gives the same outputs as its run: parity in float32, the accuracy gate in int8.

Both are given the same decoded arrays. From a file, `Preprocessing` decodes a large JPEG at a reduced scale; an exported model is given
all pixels, decoded by whoever uses it. The difference that this makes is measured as well: see `Parity.from_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.export.formats import Outputs
from headstart.export.onnx_file import NOVELTY
from headstart.export.sample import Sample
from headstart.metrics.link import Link, link_of
from headstart.run import Run

TOLERANCE = 1e-3
"""By more than this, no probability of an exported file may differ from that of the run in the same engine; of a number, as a share."""

SCORE = 0.1
"""The same for the novelty score, of which 1 is about the spread over the training images."""

MAX_DROP = 0.005
AGREEMENT = 0.98
"""Share of images that must keep their label in int8, whatever the accuracy: a model that errs on other images is another model."""


@dataclass(frozen=True)
class Comparison:
    """How an output of two graphs is compared, by its kind: numbers by their relative difference.

    Attributes:
        output: its name.
    """

    output: str
    decision: ClassVar[str] = "value"

    @classmethod
    def of(cls, run: Run) -> Comparison:
        """Of the first output of the run that can be compared: probabilities, or numbers.

        Raises:
            ParameterError: it has none.
        """
        for output in run.manifest.outputs:
            if output.kind == "probabilities" and run.link is not None:
                return ProbabilityComparison(output.name, run.link)
            if output.kind == "number":
                return Comparison(output.name)
        kinds = ", ".join(output.kind for output in run.manifest.outputs)
        raise ParameterError(
            f"{run.path} has no output that an export could be compared by: neither probabilities nor numbers, but {kinds}."
        )

    def differences(self, one: Outputs, other: Outputs) -> npt.NDArray[Any]:
        """The largest of each image, float (n,); of numbers, as a share of the largest number in `other`."""
        away = np.abs(one[self.output] - other[self.output]).reshape(len(one[self.output]), -1).max(axis=1)
        return np.asarray(away / max(float(np.abs(other[self.output]).max()), 1e-12))

    def same(self, one: Outputs, other: Outputs) -> float:
        """Share of the images for which both are the same in what counts: here, the number within `TOLERANCE`."""
        return float((self.differences(one, other) <= TOLERANCE).mean())


@dataclass(frozen=True)
class ProbabilityComparison(Comparison):
    """Probabilities: by their difference, and by the decision that follows from them.

    Attributes:
        link: what the decision is.
    """

    link: Link
    decision: ClassVar[str] = "label"

    def differences(self, one: Outputs, other: Outputs) -> npt.NDArray[Any]:
        """The largest of each image, float (n,)."""
        return np.asarray(np.abs(one[self.output] - other[self.output]).max(axis=1))

    def same(self, one: Outputs, other: Outputs) -> float:
        """Share of the images with the same label, or labels."""
        return agreement(one[self.output], other[self.output], self.link)


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

        Raises:
            ParameterError: an image could not be read.
        """
        engine = self.default_engine if engine in (None, "litert") else engine
        if engine not in self._computed:
            self._computed[engine] = self._predicted(self.sample.images, engine)
        return self._computed[engine]

    @cached_property
    def from_files(self) -> Outputs:
        """For the files, which the run decodes itself, in its own engine."""
        return self._predicted(list(self.sample.images.paths), self.default_engine)

    def _predicted(self, images: Any, engine: str) -> Outputs:
        found = self.run.with_engine(engine).predict(images)
        if len(found) < len(self.sample):
            raise ParameterError(f"{found.refused[0]}: an image that the export is compared on.")
        judgement = found.judgement
        scores = None if judgement is None else judgement.unlikeness
        return {**found.outputs, **({} if scores is None else {NOVELTY: scores})}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported file is from the run, over all images.

    Attributes:
        engine: runs both; ``litert`` runs the file only, and the default engine the run.
        part, images: which images of the run, and how many.
        output, decision: which output is compared, and whether a label follows from it or it is a value itself; see `Comparison`.
        same: share of the images with the same label, labels or value.
        difference: the largest difference; `median`: over the images, of the largest of each.
        novelty: the largest difference of the novelty score; None for files without one.
        same_novelty: share of the images that are on the same side of its threshold; None likewise.
        default_engine, against_default: the run's own engine, and the largest difference from the run in that one.
        from_files: the same when the run decodes the files itself, which may reduce large JPEGs; reported, with no limit. And
            `same_from_files`: as `same`.
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
    same_from_files: float

    @classmethod
    def of(cls, reference: Reference, outputs: Outputs, *, engine: str) -> Self:
        """Compare the outputs of an exported file, run in `engine`, with those of the run."""
        comparison, own = reference.comparison, reference.outputs(engine)
        novelty = same_novelty = None
        trust = reference.run.trust
        if NOVELTY in outputs and NOVELTY in own and trust is not None and trust.novelty is not None:
            novelty = _largest(np.abs(outputs[NOVELTY] - own[NOVELTY]))
            same_novelty = float(((outputs[NOVELTY] > trust.novelty.threshold) == (own[NOVELTY] > trust.novelty.threshold)).mean())
        differences = comparison.differences(outputs, own)
        return cls(
            engine=engine, part=reference.sample.part, images=len(reference.sample),
            output=comparison.output, decision=comparison.decision, same=comparison.same(outputs, own),
            difference=_largest(differences), median=float(np.median(differences)), novelty=novelty, same_novelty=same_novelty,
            default_engine=reference.default_engine,
            against_default=_largest(comparison.differences(outputs, reference.outputs())),
            from_files=_largest(comparison.differences(outputs, reference.from_files)),
            same_from_files=comparison.same(outputs, reference.from_files),
        )  # fmt: skip

    def faults(self) -> tuple[str, ...]:
        """The reasons not to write a file in float32; none for one that agrees with the run."""
        found = []
        if self.same < 1.0:
            found.append(f"{1 - self.same:.1%} of {self.images} images get another {self.decision}")
        if not self.difference <= TOLERANCE:
            found.append(f"{self.output} differ by {self.difference:.2g}, more than {TOLERANCE:g}")
        if self.novelty is not None and not self.novelty <= SCORE:
            found.append(f"the novelty score differs by {self.novelty:.2g}, more than {SCORE:g}")
        return tuple(found)

    def summary(self) -> str:
        """One line for the user."""
        same = "all" if self.same == 1 else f"{self.same:.1%}"
        default = f", and by {self.against_default:.1e} from the run in {self.default_engine}" if self.default_engine != self.engine else ""
        return (
            f"{self.engine}: same {self.decision} for {same} of {self.images} {self.part} images; {self.output} differ by at most "
            f"{self.difference:.1e} (median {self.median:.1e}){default}. With the run's own decoding, which may reduce large JPEGs: "
            f"{self.from_files:.1e}, same {self.decision} for {self.same_from_files:.1%}."
        )


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The accuracy gate: an int8 file is written only if it is right about as often as the run on images with known labels.

    Attributes:
        part, images: which images, and how many.
        before, after: accuracy of the run and of the file; with several labels an image, the share of labels rightly assigned or not.
        agreement: share of the images that keep their label.
        lost, gained: how many only the run, or only the file, gets right.
        max_drop: how much `before` may exceed `after`.
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
        return self.before - self.after <= self.max_drop + 1e-12 and self.agreement >= AGREEMENT

    def summary(self) -> str:
        """One sentence for the user."""
        in_float = f", {self.in_float} of {self.layers} layers in float32" if self.in_float else ""
        return (
            f"int8{in_float}: accuracy {self.after:.2%} against {self.before:.2%} of the run on {self.images} {self.part} images "
            f"(drop {self.before - self.after:+.2%}, allowed {self.max_drop:.2%}); {self.agreement:.1%} keep their label "
            f"(at least {AGREEMENT:.0%}): {'passed' if self.passed else 'failed'}."
        )


def read_drop(text: str) -> float:
    """A share such as ``0.5%`` or ``0.005``.

    Raises:
        ParameterError: it is not a number, or not between 0 and 1.
    """
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


def _largest(values: npt.NDArray[Any]) -> float:
    """The largest; infinite if one is not a number, which a maximum of Python's might pass over."""
    return float(values.max()) if np.isfinite(values).all() else float("inf")
