"""`BoxDecoder`: from the maps of a backbone's stages to boxes with the probability of each class, without PyTorch.

Every position of every map proposes one box: a one-stage head without anchors, in the line of FCOS (Tian et al. 2019). Many overlap, and
`headstart.metrics.proposals.kept_boxes` leaves one of those that show the same thing. It is trained by `headstart.training.detectors`.
Other architectures give their proposals as a set (`headstart.training.own_loss`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MIRRORED, MapLayer
from headstart.engine import open_session
from headstart.errors import damage_named
from headstart.heads.decoder import GraphDecoder
from headstart.metrics.confidence import BetaCalibration
from headstart.metrics.proposals import BOXES, CANDIDATES, PROBABILITIES, THRESHOLD
from headstart.onnx_graph import OnnxGraph

Array = npt.NDArray[np.float32]

SURE = 1e-6
"""Probabilities are calibrated as if they were at least so far from 0 and 1."""
UNCHANGED = BetaCalibration(1.0, 1.0, 0.0)


@dataclass(frozen=True, eq=False)
class BoxDecoder:
    """A trained detection head; a position of any map proposes a box, those of the finest map first, row by row.

    Attributes:
        network: from maps to logits (N, A, k + 4): of the classes, and left, top, right and bottom as shares of width and height.
        mirrored: whether the outputs of an input are joined with those of its mirror image.
        grid: whether each position of the maps has one proposal, in their order, so that it can be joined with that of the mirror image;
            otherwise proposals are a set, and the sets of both are one.
        calibration: makes of a probability the share of boxes that are right.
        threshold: lowest confidence of a box that is named.
    """

    network: GraphDecoder
    mirrored: bool = False
    calibration: BetaCalibration = UNCHANGED
    threshold: float = THRESHOLD
    grid: bool = True

    @property
    def layers(self) -> tuple[MapLayer, ...]:
        """The maps that it takes, the finest first."""
        return self.network.layers

    @property
    def classes(self) -> int:
        """How many there are, k."""
        return self.network.shape[1] - 4

    @property
    def candidates(self) -> int:
        """Proposals of an input that the outputs have, c."""
        return min(CANDIDATES, self.network.shape[0])

    def write_onnx(self, graph: OnnxGraph, maps: Mapping[str, str]) -> tuple[str, str]:
        """Append the head to a graph: `maps` names a float32 value (N, C, h, w) for each layer.

        Where it is mirrored, they have those of the mirror image too, under names that begin with `MIRRORED`. Returns the names of the
        boxes (N, c, 4), left, top, right and bottom from 0 to 1, and of the probabilities (N, c, k): of the c proposals that are the
        most probable to show something, these first.
        """
        probabilities, boxes = self._of_view(graph, maps)
        if self.mirrored:
            turned = {name.removeprefix(MIRRORED): value for name, value in maps.items() if name.startswith(MIRRORED)}
            probabilities, boxes = self._joined(graph, (probabilities, boxes), self._of_view(graph, turned))
        if (one := self.calibration) != UNCHANGED:
            inside = graph.node("Clip", probabilities, graph.constant(SURE), graph.constant(1 - SURE))
            logs = [graph.node("Log", value) for value in (inside, graph.node("Sub", graph.constant(1.0), inside))]
            terms = [graph.node("Mul", log, graph.constant(factor)) for log, factor in zip(logs, (one.rise, -one.fall), strict=True)]
            probabilities = graph.node("Sigmoid", graph.node("Add", graph.node("Add", *terms), graph.constant(one.level)))
        highest = graph.node("ReduceMax", probabilities, axes=[2], keepdims=0)
        places = graph.node("Unsqueeze", graph.top(highest, self.candidates)[1], graph.integers(2))
        boxes, probabilities = (graph.node("GatherND", value, places, batch_dims=1) for value in (boxes, probabilities))
        return graph.node("Clip", boxes, graph.constant(0.0), graph.constant(1.0)), probabilities

    def _of_view(self, graph: OnnxGraph, maps: Mapping[str, str]) -> tuple[str, str]:
        raw, classes = self.network.write_onnx(graph, maps), self.classes

        def part(start: int, stop: int) -> str:
            return graph.node("Slice", raw, graph.integers(start), graph.integers(stop), graph.integers(2))

        return graph.node("Sigmoid", part(0, classes)), part(classes, classes + 4)

    def _joined(self, graph: OnnxGraph, plain: tuple[str, str], turned: tuple[str, str]) -> tuple[str, str]:
        """The proposals of both; where they are a grid the mean, position by position, of the boxes weighted by their confidence."""
        probabilities, boxes = turned
        if self.grid:
            order = graph.constant(self._mirrored_positions(), dtype=np.int64)
            probabilities, boxes = (graph.node("Gather", value, order, axis=1) for value in turned)
        swapped = graph.node("Gather", boxes, graph.constant([2, 1, 0, 3], dtype=np.int64), axis=2)  # left and right change places
        back = graph.constant([-1.0, 1.0, -1.0, 1.0]), graph.constant([1.0, 0.0, 1.0, 0.0])
        boxes = graph.node("Add", graph.node("Mul", swapped, back[0]), back[1])
        if not self.grid:
            both = (plain[0], probabilities), (plain[1], boxes)
            return graph.node("Concat", *both[0], axis=1), graph.node("Concat", *both[1], axis=1)
        weights = [graph.node("ReduceMax", value, axes=[2], keepdims=1) for value in (plain[0], probabilities)]
        total = graph.node("Add", graph.node("Add", *weights), graph.constant(1e-9))
        weighted = [graph.node("Mul", value, weight) for value, weight in zip((plain[1], boxes), weights, strict=True)]
        mean = graph.node("Mul", graph.node("Add", plain[0], probabilities), graph.constant(0.5))
        return mean, graph.node("Div", graph.node("Add", *weighted), total)

    def _mirrored_positions(self) -> npt.NDArray[np.int64]:
        """The position of a mirror image that shows what each position shows."""
        found, start = [], 0
        for layer in self.layers:
            grid = start + np.arange(layer.height * layer.width).reshape(layer.height, layer.width)
            found.append(grid[:, ::-1].ravel())
            start += grid.size
        return np.concatenate(found)

    def model(self) -> bytes:
        """The head alone as a serialised graph: an input for each map, and the outputs `BOXES` and `PROBABILITIES`."""
        graph = OnnxGraph()
        names = {layer.name: layer for layer in self.layers}
        if self.mirrored:
            names |= {f"{MIRRORED}{layer.name}": layer for layer in self.layers}
        for value, output in zip(self.write_onnx(graph, {name: name for name in names}), (BOXES, PROBABILITIES), strict=True):
            graph.node("Identity", value, output=output)
        count = self.candidates
        made: bytes = graph.model(
            inputs={name: (np.float32, ("N", *layer.shape)) for name, layer in names.items()},
            outputs={BOXES: (np.float32, ("N", count, 4)), PROBABILITIES: (np.float32, ("N", count, self.classes))},
        ).SerializeToString()
        return made

    def __call__(self, batches: Iterator[Mapping[str, npt.NDArray[Any]]]) -> Iterator[tuple[Array, Array]]:
        """Boxes (n, c, 4) and probabilities (n, c, k) of each batch of maps (n, C, h, w), by the names of the graph's inputs."""
        session = open_session(self.model(), kind="onnxruntime", outputs=(BOXES, PROBABILITIES))
        for batch in batches:
            found = session({name: np.ascontiguousarray(value, np.float32) for name, value in batch.items()})
            yield found[BOXES], found[PROBABILITIES]

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values and arrays from which `from_state` makes it again."""
        described, arrays = self.network.state()
        own = {"mirrored": self.mirrored, "grid": self.grid, "calibration": vars(self.calibration), "threshold": self.threshold}
        return {**described, **own}, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry is missing."""
        network = GraphDecoder.from_state({**settings, "mirrored": False}, arrays)
        with damage_named("The saved detection head is"):
            return cls(
                network, bool(settings["mirrored"]), BetaCalibration(**settings["calibration"]), float(settings["threshold"]),
                bool(settings.get("grid", True)),
            )  # fmt: skip
