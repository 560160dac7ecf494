"""How outputs of an exported file are compared with those of its run: differences, and the decisions that follow from them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.export.formats import Outputs
from headstart.export.onnx_file import NOVELTY
from headstart.metrics.link import SOFTMAX, Link
from headstart.pixels.interpolation import class_map
from headstart.run import Run
from headstart.tasks.outputs import Disagreement, FileComparison

AGREEMENT = 0.98  # share of images that must keep their label where it may change: a file that errs on others is another model
TOLERANCE = 1e-3  # by more, no probability of a file may differ from that of the run in the same engine; of a number, as a share
PIXEL_CLASS = "pixel class"
CLASS_MAP, SIZES = "classes", "sizes"  # what an exported file calls the classes of pixels; height and width of the images of the run


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
        if run.task.comparison() is not None:
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
    def task(self) -> FileComparison | None:
        """What compares the outputs of a task that does so itself."""
        return None if self.run is None else self.run.task.comparison()

    @property
    def output(self) -> str:
        """The names of what is compared."""
        if self.run is not None:
            return " and ".join(output.name for output in self.run.manifest.outputs)
        return "probabilities" if self.pixels else " and ".join(name for name, _ in self.parts)

    @property
    def decision(self) -> str:
        """What must be the same: the label, the class of each pixel, the value itself, or what the task calls it."""
        if self.task is not None:
            return self.task.decision
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
        assert self.task is not None
        assert self.run is not None
        return self.task.disagreement(file, own, own[SIZES], self.run.manifest.state)

    def differences(self, one: Outputs, other: Outputs) -> npt.NDArray[Any]:
        """The largest of each image, float (n,)."""
        if self.task is not None:
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
        if self.task is not None:
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
