"""What models say of inputs, whatever the task: outputs of a graph, predictions with what is known beside them, files made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from headstart.data import Targets
from headstart.errors import UnreadableError
from headstart.metrics.link import Link, PlaceLink

Outputs = Mapping[str, npt.NDArray[Any]]
"""What a model says of n inputs: an array with n rows for each of the task's outputs, by name."""

State = Mapping[str, Any]
"""What a task keeps in the manifest to decode its outputs later: class names, for instance. JSON values."""

Neighbour = Callable[[int], tuple[str, str]]
"""From the position of a training input to its name and its label; several labels are joined with ``;``."""

FEATURES = "features"
"""The output of every run's graph that holds the features, float32 (N, D)."""


@dataclass(frozen=True)
class Output:
    """One output of the graph of a run: its name, and the shape of one input's.

    `kind` is what its numbers mean (``probabilities``, ``logits``, ``number``, ``features``): a comparison of two graphs, and a program
    that uses the graph, go by it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]


ExportedOutput = tuple[npt.DTypeLike, tuple[int | str, ...]]
"""The type of an output of an exported file, and its shape, in which ``N``, ``height`` and ``width`` are those of the images."""


@dataclass(frozen=True, kw_only=True)
class ClassOutputs:
    """The outputs of the graph that rank some classes: what heat maps explain, and by which an exported file is compared.

    `column` is the column of labels whose classes they are; empty where there is only one. `background` is the position of a class that is
    explained only where it is named, or alone. `boxes` names the output with the box of each place, where that is no cell of a map; the
    link then takes it beside the logits, as of `headstart.metrics.link.joined`.
    """

    classes: tuple[str, ...]
    link: Link
    column: str = ""
    logits: str = "logits"
    probabilities: str = "probabilities"
    background: int | None = None
    boxes: str = ""

    @property
    def explained(self) -> tuple[str, ...]:
        """The outputs whose change heat maps show, joined."""
        return (self.logits, *filter(None, [self.boxes]))

    @property
    def ranked(self) -> tuple[str, ...]:
        """The outputs that `shares` takes, joined."""
        return (self.probabilities, *filter(None, [self.boxes]))

    def shares(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """How much of each of n inputs each class is, (n, k), from the outputs `ranked`: probabilities, or what a link with places says."""
        return self.link.shares(output) if isinstance(self.link, PlaceLink) else output

    def strongest(self, shares: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The class to explain of each input, int64 (n,), by how much of it each class is (n, k)."""
        counted = np.array(shares, np.float64)
        if self.background is not None:
            counted[:, self.background] *= 1e-9
        return np.asarray(counted.argmax(axis=1))


@dataclass(frozen=True, eq=False)
class Disagreement:
    """How far the outputs of an exported file are from those of its run, of n inputs.

    Attributes:
        differences: float64 (n,), the largest of each input, on a scale on which 0.001 is nothing.
        same: int64 (n,), decisions of each input that are the same, of `decisions` (n,).
    """

    differences: npt.NDArray[np.float64]
    same: npt.NDArray[np.int64]
    decisions: npt.NDArray[np.int64]


class FileComparison(ABC):
    """How a task compares an exported file with its run, where the kinds of its outputs do not say it.

    Of `file` and `own`, the outputs of the file and of the run, `sizes` (n, 2) are the heights and widths of the inputs.
    """

    decision: ClassVar[str]
    """What must be the same."""

    @abstractmethod
    def disagreement(self, file: Outputs, own: Outputs, sizes: npt.NDArray[np.int64], state: State) -> Disagreement:
        """How far the file is from the run."""

    @abstractmethod
    def gate(self, file: Outputs, own: Outputs, sizes: npt.NDArray[np.int64], targets: Targets) -> tuple[str, float, float]:
        """By what an int8 file is admitted: the name of a score, its value for the run, and that for the file."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a run says of n inputs beside its outputs; each is None where the run cannot tell.

    Attributes:
        sets: bool (n, k): the prediction set of each row, as `Task.prediction_sets` has it; they contain the right class with the stated
            coverage.
        unlikeness: float64 (n,): the higher, the more unlike the training inputs; `unlike`: bool (n,): whether it is above the threshold.
        nearest: int64 (n, c): the nearest training inputs, the nearest first, as positions in the run's `training_names`.
    """

    sets: npt.NDArray[np.bool_] | None = None
    unlikeness: npt.NDArray[np.float64] | None = None
    unlike: npt.NDArray[np.bool_] | None = None
    nearest: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """What a run says of a list of inputs.

    Attributes:
        outputs: an array for each output of the task, by name, with a row for each input that could be read.
        kept: int64 (n,): the position of each row's input among the inputs given.
        refused: an error for each input left out, in order; `refused_at` has their positions.
        digests: the SHA-256 of each row's input, as `image_digest` has it.
        judgement: prediction sets, novelty and nearest training inputs; None for runs that did not learn them.
        sample: float32 (m, D): features of rows at even distances, int64 `sampled` (m,); None where they were not asked for.
        sizes: int64 (n, 2): height and width of each input, upright; None where the task does not need them.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    kept: npt.NDArray[np.int64]
    refused: tuple[UnreadableError, ...] = ()
    refused_at: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()
    judgement: Judgement | None = None
    sample: npt.NDArray[np.float32] | None = None
    sampled: npt.NDArray[np.int64] | None = None
    sizes: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def novel(self) -> int | None:
        """How many inputs are unlike the training inputs; None where that is not known."""
        return None if self.judgement is None or self.judgement.unlike is None else int(self.judgement.unlike.sum())


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Which files of predictions are asked for.

    Attributes:
        overlay: each input with its prediction over it.
        form: a format of which each input has a file of its own, one of `Task.forms`; empty for none.
        least: lowest confidence of what is in them; None for what the run has for it.
    """

    overlay: bool = False
    form: str = ""
    least: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnHeat:
    """A heat map that is an output of the model.

    `heat` is float32 (h, w) from 0 to 1 over the whole input; `name` is what the model calls the input, `line` that with the figures, and
    `caption` says what is shown.
    """

    heat: npt.NDArray[np.float32]
    name: str
    line: str
    caption: str
