"""Whether an exported file gives the same outputs as its run: parity in float32, the accuracy gate in int8, and the images for both.

The images are the run's own, found by name, confirmed by digest and decoded one at a time, as the programs of `--snippet` decode them. Run
and file are given the same arrays. From a file, `Preprocessing` decodes a large JPEG at a reduced scale; an exported model is given all
pixels, decoded by whoever uses it. The difference that this makes is measured as well, and has wider limits: see `Parity.from_files`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.data import labels_in
from headstart.errors import DataError, ImageError, ParameterError
from headstart.export.formats import Outputs
from headstart.export.onnx_file import NOVELTY
from headstart.metrics.link import SOFTMAX, Link, link_of
from headstart.modalities.image import Levels, image_digest, read_image, source_bytes
from headstart.pixels.interpolation import class_map
from headstart.run import Run
from headstart.tasks.task import Disagreement

TOLERANCE = 1e-3  # by more, no probability of a file may differ from that of the run in the same engine; of a number, as a share
_BEYOND = 0.0011  # the first number of two digits above it
SCORE = 0.1  # the same for the novelty score, of which 1 is about the spread over the training images
MAX_DROP = 0.005
FROM_FILES = 0.01  # the median difference from the run that decodes the files itself: photographs have 1e-5, and a few of them 0.1
PIXEL_CLASS = "pixel class"
SAME_PIXELS = 0.999  # share of the pixels that must have the same class; the others lie where two classes are as likely
CLASS_MAP, SIZES = "classes", "sizes"  # what an exported file calls the classes of pixels; height and width of the images of the run
AGREEMENT = 0.98  # share of images that must keep their label in int8, whatever the accuracy: one that errs on others is another model


@dataclass(frozen=True, eq=False)
class Sample(Sequence[npt.NDArray[np.uint8]]):
    """Images of one part of a run, ``train`` or ``test``; `targets` are int64 (n,), or bool (n, k) for several labels an image.

    They are decoded at full size, as the programs of `headstart.export.snippets` do, each time they are accessed: a few hundred photographs
    would not fit into memory.
    """

    part: str
    paths: Sequence[Path]
    targets: npt.NDArray[Any]
    levels: Levels = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        from headstart.modalities.image.rgb import read_rgb

        data = source_bytes(self.paths[index])
        assert isinstance(data, bytes)
        return read_rgb(data, self.levels)


def sample_of(run: Run, part: str, count: int, *, data: Path | None = None) -> Sample:
    """At most `count` images of a run, spread evenly over the part, as far as they are there, unchanged by their SHA-256, and can be read.

    `data` is the folder of the data, if the images have been moved since.
    """
    names, arrays = (run.test_names, run.tested) if part == "test" else (run.training_names, run.reference)
    digests, targets = arrays.get("digests"), arrays.get("targets")
    if digests is None or targets is None or not 0 < len(names) == len(digests) == len(targets):
        return Sample(part, (), np.zeros(0, dtype=np.int64))
    fitted_on = run.manifest.provenance.get("data")
    roots = [root for root in (data, Path(fitted_on) if isinstance(fitted_on, str) else None) if root is not None and root.is_dir()]
    order = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)).tolist()
    found = {row: path for row in order if (path := _found(run.path / names[row], names[row], roots, digests[row].tobytes()))}
    return Sample(part, list(found.values()), targets[list(found)], run.preprocessing.levels)


def some_sample_of(run: Run, count: int, *, data: Path | None = None) -> Sample:
    """Test images, or training images where no test image is left. Raises DataError where none of either are left."""
    for part in ("test", "train"):
        if found := sample_of(run, part, count, data=data):
            return found
    raise DataError(
        f"None of the images of {run.path} are where they were when it was fitted, and an export is compared on them. "
        "Give their folder with --data."
    )


def _found(path: Path, name: str, roots: Sequence[Path], digest: bytes) -> Path | None:
    """The file with these bytes: at its old place, or below one of the folders by the end of its name."""
    parts = PurePosixPath(name).parts
    ends = [PurePosixPath(*parts[begin:]) for begin in range(len(parts)) if ".." not in parts[begin:]]
    for place in (path, *(root / end for root in roots for end in ends)):
        with suppress(ImageError, OSError, ValueError):
            if place.is_file() and image_digest(source_bytes(place)) == digest:
                read_image(place)
                return place
    return None


@dataclass(frozen=True)
class Comparison:
    """How outputs of two graphs are compared: probabilities by their difference and by the decision that follows from them by the link.

    `parts` are these outputs with their links, of which there are several where several columns of labels are predicted. Numbers, which
    have no link, are compared by their difference as a share of the largest number. Logits of maps (k, h, w) decide about `pixels`: what
    differs is the mean probability of a class over the map, and the decisions are the classes of all pixels of the images. Some tasks
    compare outputs themselves: those of `run`.
    """

    parts: tuple[tuple[str, Link | None], ...]
    pixels: bool = False
    run: Run | None = None

    @classmethod
    def of(cls, run: Run) -> Self:
        """Of the outputs of the run that rank classes, or else the first number. Raises ParameterError where it has none of them."""
        if run.task.compared:
            return cls((), run=run)
        if classes := run.class_outputs:
            return cls(tuple((one.probabilities, one.link) for one in classes))
        for output in run.manifest.outputs:
            if output.kind == "logits" and len(output.shape) == 3:
                return cls(((output.name, SOFTMAX),), pixels=True)
            if output.kind == "number":
                return cls(((output.name, None),))
        kinds = ", ".join(output.kind for output in run.manifest.outputs)
        raise ParameterError(
            f"{run.path} has no output that an export could be compared by: neither probabilities nor numbers, but {kinds}."
        )

    @property
    def output(self) -> str:
        """The names of what is compared."""
        if self.run is not None:
            return " and ".join(output.name for output in self.run.manifest.outputs)
        return "probabilities" if self.pixels else " and ".join(name for name, _ in self.parts)

    @property
    def decision(self) -> str:
        """What must be the same: the label, the class of each pixel, the value itself, or what the task calls it."""
        if self.run is not None:
            return self.run.task.compared
        return PIXEL_CLASS if self.pixels else "value" if self.parts[0][1] is None else "label"

    def keep(self, outputs: Outputs) -> Outputs:
        """What is kept of the outputs of an exported file for one image: all, but of its pixels the classes alone, packed."""
        if not self.pixels:
            return outputs
        kept = {self.parts[0][0], NOVELTY}
        packed = np.empty((), dtype=object)
        packed[()] = _Packed.of(outputs[CLASS_MAP])
        return {name: values for name, values in outputs.items() if name in kept} | {CLASS_MAP: packed}

    def disagreement(self, file: Outputs, own: Outputs) -> Disagreement:
        """What the task says of an exported file."""
        assert self.run is not None
        return self.run.task.disagreement(file, own, own[SIZES], self.run.manifest.state)

    def differences(self, one: Outputs, other: Outputs) -> npt.NDArray[Any]:
        """The largest of each image, float (n,)."""
        if self.run is not None:
            return self.disagreement(one, other).differences
        if self.pixels:
            name = self.parts[0][0]
            return np.array([_probability_difference(a, b) for a, b in zip(one[name], other[name], strict=True)])
        found = []
        for name, link in self.parts:
            first, second = one[name], other[name]
            away = np.abs(first - second).reshape(len(first), -1).max(axis=1)
            found.append(np.asarray(away / (max(float(np.abs(second).max()), 1e-12) if link is None else 1.0)))
        return np.asarray(np.max(found, axis=0))

    def same(self, one: Outputs, other: Outputs) -> float:
        """Share of the images with the same label, all the same labels, or the same number within `TOLERANCE`; or of their pixels."""
        if self.run is not None:
            found = self.disagreement(one, other)
            return float(found.same.sum() / found.decisions.sum()) if found.decisions.any() else 1.0
        if self.pixels:
            name, equal, total = self.parts[0][0], 0, 0
            for row in range(len(one[name])):
                first, second = (_class_map(outputs, name, row, other) for outputs in (one, other))
                equal, total = equal + int((first == second).sum()), total + first.size
            return equal / total
        if self.decision == "value":
            return float((self.differences(one, other) <= TOLERANCE).mean())
        decided = [link.correct(link.decisions(one[name]), link.decisions(other[name])) for name, link in self.parts if link is not None]
        return float(np.all(decided, axis=0).mean())


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
        if run.task.compared:
            own = reference.outputs()
            unit, score, lowered = run.task.gate(outputs, own, own[SIZES], targets, run.manifest.state)
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


def rounded_up(value: float) -> float:
    """To two significant digits, never below the value; infinity and 0 are themselves."""
    if not 0 < value < math.inf:
        return value
    digits = 1 - math.floor(math.log10(value))
    return round(math.ceil(value * 10.0**digits) / 10.0**digits, digits)


@dataclass(frozen=True)
class _Packed:
    """A class map, compressed: some hundred of those of photographs would not fit into memory."""

    data: bytes
    size: tuple[int, ...]

    @classmethod
    def of(cls, classes: npt.NDArray[np.uint8]) -> Self:
        return cls(zlib.compress(np.ascontiguousarray(classes).data, 1), classes.shape)

    def open(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.size)


def _class_map(outputs: Outputs, name: str, row: int, sized: Outputs) -> npt.NDArray[np.uint8]:
    """The class of each pixel: as an exported file gives them, or as they follow from the logits of a run."""
    if CLASS_MAP in outputs:
        packed: _Packed = outputs[CLASS_MAP][row]
        return packed.open()
    height, width = (outputs if SIZES in outputs else sized)[SIZES][row].tolist()
    return class_map(outputs[name][row], (height, width))


def _probability_difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """The mean over a map of the largest difference between the probabilities of two maps of logits (k, h, w)."""
    first, second = (np.exp(logits - logits.max(axis=0)) for logits in (one.astype(np.float64), other.astype(np.float64)))
    return float(np.abs(first / first.sum(axis=0) - second / second.sum(axis=0)).max(axis=0).mean())


def _largest(values: npt.NDArray[Any]) -> float:
    """The largest; infinite if one is not a number, which a maximum of Python's might pass over."""
    return float(values.max()) if np.isfinite(values).all() else float("inf")
