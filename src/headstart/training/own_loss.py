"""Detectors with a loss of their own (PyTorch): networks of other libraries, on the maps of any backbone.

In training such a network gives what its loss takes, and in evaluation what every detector gives, so that nothing after it differs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from headstart.backbones.stage_maps import MapLayer
from headstart.heads.boxes import BoxDecoder
from headstart.metrics.proposals import CANDIDATES
from headstart.training.box_targets import DrawnViews, HasBoxes, PaddedTargets, StageViews
from headstart.training.boxes import Objective
from headstart.training.decoders import Standardised, graph_of
from headstart.training.network import mapped

_LOOKED_AT = 100  # proposals of an image that are scored in training, the most probable


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a head is told of a batch before it sees it: `targets` as of `PaddedTargets`; `seed`, `step` and `first` give what is random.

    `first` is the place in the batch of the first input of this process.
    """

    seed: int
    step: int
    first: int
    targets: Any


class DetectorNetwork(Standardised):
    """Maps, a tuple of (N, C, h, w) in the order of `layers`, to what its own loss takes; in evaluation to (N, A, k + 4).

    These are of A proposals, at most `CANDIDATES`: logits of k classes, of which the sigmoid is the probability, and left, top, right and
    bottom of a box as shares of width and height. Losses are as the library computes them, over a batch.

    Attributes:
        name: of the architecture, as it is typed.
        side: of the backbone's input, in pixels.
        drawn: of the batch to come, in training.
    """

    name: ClassVar[str]
    guessing: ClassVar[float] = 4.0

    def __init__(self, layers: Sequence[MapLayer], classes: int, *, side: int, seed: int = 0) -> None:
        self.side = side
        super().__init__(layers, classes, seed=seed)
        self.drawn: Drawn | None = None

    @abstractmethod
    def raw(self, maps: list[Any]) -> Any:
        """What the loss takes, a tensor or tensors in dictionaries, lists and tuples, of the maps, standardised."""

    @abstractmethod
    def predicted(self, raw: Any) -> Any:
        """What the network says with that: (N, A, k + 4)."""

    @abstractmethod
    def losses(self, raw: Any, targets: list[dict[str, Any]]) -> Any:
        """The loss over the batch, a scalar; `targets` are as of `listed`."""

    def draw(self, seed: int, step: int, rows: slice, count: int, *, targets: Any = None) -> None:
        """See `MapNetwork`; held until the next."""
        self.drawn = Drawn(seed, step, rows.start or 0, targets)

    def forward(self, maps: Any) -> Any:
        """See the class; always float32."""
        raw = mapped(self.raw([self.standard(number, one) for number, one in enumerate(maps)]), _as_float32)
        return raw if self.training else self.predicted(raw)

    def objective(self, targets: HasBoxes, views: StageViews | DrawnViews) -> Objective:
        """See `Detector`."""
        return Objective(PaddedTargets(targets, views), OwnLoss(self))

    def decoder(self) -> BoxDecoder:
        """What was learned, without PyTorch."""
        self.drawn = None
        return BoxDecoder(graph_of(self, self.name, self.layers, self.shape), grid=False)


@dataclass(frozen=True, eq=False)
class OwnLoss:
    """The loss of a `DetectorNetwork`: each image has that of its batch, since the libraries divide by what all images have together."""

    network: DetectorNetwork
    score: ClassVar[str] = "recall"

    @property
    def guessing(self) -> float:
        """About the loss of a head that has learned nothing."""
        return self.network.guessing

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """Float32 (N,), all alike."""
        return self.network.losses(outputs, listed(targets)).expand(len(targets))

    def weights(self, targets: Any) -> Any:
        """1 for each image."""
        return torch.ones(len(targets))

    def predictions(self, outputs: Any) -> Any:
        """(N, A, k + 4)."""
        return outputs if isinstance(outputs, torch.Tensor) else self.network.predicted(outputs)

    def scores(self, predictions: Any, targets: Any) -> Any:
        """The share of the boxes of each image (N,) that one of its first proposals overlaps by more than a half, with the right class."""
        from torchvision.ops import box_iou

        found = predictions[:, :_LOOKED_AT].float()
        labels = found[..., :-4].argmax(dim=2)
        shares = []
        for boxes, own, truth in zip(found[..., -4:], labels, listed(targets), strict=True):
            right = (box_iou(truth["boxes"], boxes) > 0.5) & (truth["labels"][:, None] == own)
            shares.append(right.any(dim=1).float().mean() if len(right) else right.new_ones((), dtype=torch.float32))
        return torch.stack(shares)

    def validation(self, predictions: Any, targets: Any) -> None:
        """The loss takes more than predictions."""


def listed(targets: Any) -> list[dict[str, Any]]:
    """Targets as of `PaddedTargets` as torchvision and transformers have them: for each image ``boxes``, float32 (m, 4), shares of width
    and height, left, top, right and bottom, and ``labels``, int64 (m,), from 0.

    Crowds are left out, as these libraries do in their own trainings.
    """
    given = targets[..., 0] >= 0
    return [{"boxes": one[some, 1:].float(), "labels": one[some, 0].long()} for one, some in zip(targets, given, strict=True)]


def surest(logits: Any, boxes: Any, count: int) -> Any:
    """Of proposals with logits (N, A, k) and boxes (N, A, 4) those that are the most probable to show something, these first.

    (N, c, k + 4), with c = `count` or all.
    """
    best = logits.max(dim=2).values
    places = best.topk(min(count, best.shape[1]), dim=1).indices[..., None]
    return torch.cat([one.gather(1, places.expand(-1, -1, one.shape[2])) for one in (logits, boxes)], dim=2)


def candidates(proposals: int) -> int:
    """How many of so many proposals an output has."""
    return min(CANDIDATES, proposals)


def _as_float32(value: Any) -> Any:
    return value.float() if value.is_floating_point() else value
