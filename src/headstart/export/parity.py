"""Whether an exported file gives the same outputs as its run: parity in float32, the accuracy gate in int8.

Both are given the same decoded arrays. From a file, `Preprocessing` decodes a large JPEG at a reduced scale; an exported model is given
all pixels, decoded by whoever uses it. The difference that this makes is measured as well: see `Parity.from_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.export.formats import Outputs
from headstart.export.onnx_file import NOVELTY
from headstart.export.sample import Sample
from headstart.metrics.link import Link, link_of
from headstart.run import Run

PROBABILITY = 1e-3
"""By more than this, no probability of an exported file may differ from that of the run in the same engine."""

SCORE = 0.1
"""The same for the novelty score, of which 1 is about the spread over the training images."""

MAX_DROP = 0.005
AGREEMENT = 0.98
"""Share of images that must keep their label in int8, whatever the accuracy: a model that errs on other images is another model."""


class Reference:
    """The outputs of the run itself for a sample, each computed once."""

    def __init__(self, run: Run, sample: Sample) -> None:
        self.run, self.sample = run, sample
        self._computed: dict[str, Outputs] = {}

    @cached_property
    def default_engine(self) -> str:
        """The engine that the run chooses itself."""
        return Run(self.run.path, self.run.manifest).engine.name

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
        found = Run(self.run.path, self.run.manifest, engine=engine).predict(images)
        if len(found) < len(self.sample):
            raise ParameterError(f"{found.refused[0]}: an image that the export is compared on.")
        judgement = found.judgement
        scores = None if judgement is None else judgement.unlikeness
        return {"probabilities": found.probabilities, **({} if scores is None else {NOVELTY: scores})}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported file is from the run, over all images.

    Attributes:
        engine: runs both; ``litert`` runs the file only, and the default engine the run.
        part, images: which images of the run, and how many.
        same: share of them with the same label, or labels.
        difference: the largest difference of a probability; `median`: over the images, of the largest of each.
        novelty: the largest difference of the novelty score; None for files without one.
        same_novelty: share of the images that are on the same side of its threshold; None likewise.
        default_engine, against_default: the run's own engine, and the largest difference of a probability from the run in that one.
        from_files: the same when the run decodes the files itself, which may reduce large JPEGs; reported, with no limit. And
            `same_from_files`: share of the same labels.
    """

    engine: str
    part: str
    images: int
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
        link = link_of(reference.sample.targets)
        values = outputs["probabilities"]
        own, default, from_files = (
            found["probabilities"] for found in (reference.outputs(engine), reference.outputs(), reference.from_files)
        )
        novelty = same_novelty = None
        trust, scores = reference.run.trust, reference.outputs(engine).get(NOVELTY)
        if NOVELTY in outputs and scores is not None and trust is not None and trust.novelty is not None:
            novelty = _largest(np.abs(outputs[NOVELTY] - scores))
            same_novelty = float(((outputs[NOVELTY] > trust.novelty.threshold) == (scores > trust.novelty.threshold)).mean())
        differences = np.abs(values - own).max(axis=1)
        return cls(
            engine=engine, part=reference.sample.part, images=len(reference.sample), same=agreement(values, own, link),
            difference=_largest(differences), median=float(np.median(differences)), novelty=novelty, same_novelty=same_novelty,
            default_engine=reference.default_engine, against_default=_largest(np.abs(values - default)),
            from_files=_largest(np.abs(values - from_files)), same_from_files=agreement(values, from_files, link),
        )  # fmt: skip

    def faults(self) -> tuple[str, ...]:
        """The reasons not to write a file in float32; none for one that agrees with the run."""
        found = []
        if self.same < 1.0:
            found.append(f"{1 - self.same:.1%} of {self.images} images get another label")
        if not self.difference <= PROBABILITY:
            found.append(f"a probability differs by {self.difference:.2g}, more than {PROBABILITY:g}")
        if self.novelty is not None and not self.novelty <= SCORE:
            found.append(f"the novelty score differs by {self.novelty:.2g}, more than {SCORE:g}")
        return tuple(found)

    def summary(self) -> str:
        """One line for the user."""
        same = "all" if self.same == 1 else f"{self.same:.1%}"
        default = f", and by {self.against_default:.1e} from the run in {self.default_engine}" if self.default_engine != self.engine else ""
        return (
            f"{self.engine}: same label for {same} of {self.images} {self.part} images; probabilities differ by at most "
            f"{self.difference:.1e} (median {self.median:.1e}){default}. With the run's own decoding, which may reduce large JPEGs: "
            f"{self.from_files:.1e}, same label for {self.same_from_files:.1%}."
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
