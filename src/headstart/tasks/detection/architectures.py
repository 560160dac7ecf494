"""The architectures of a detection head: a table, read without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from headstart.backbones.stage_maps import MapLayer
from headstart.heads.decoder import one_of_each_size
from headstart.settings import FitSettings
from headstart.settings.fine_tuning import DEFAULT_BATCH
from headstart.tasks.detection.published import detector_weights
from headstart.tasks.stored_maps import MapRecipe, side_of

if TYPE_CHECKING:
    from headstart.training.boxes import Detector


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A detection head on the maps of a backbone.

    Attributes:
        title: what people call it.
        paper: where it is described.
        implementation: the package whose code it is; `licence`: that of this code.
        network: ``module:class`` of the network in training, a `headstart.training.boxes.Detector`.
        recipe: how it is trained on stored maps where the settings leave it open.
        finest: the finest map has a position for every so-many-th row and column of the input.
    """

    title: str
    paper: str
    implementation: str
    licence: str
    network: str
    recipe: MapRecipe
    finest: int = 8

    def maps(self, layers: tuple[MapLayer, ...], side: int) -> tuple[str, ...]:
        """The maps that it takes, the deepest of each size, the finest first."""
        return one_of_each_size(layers, finest=self.finest, side=side)

    def made(self, layers: Sequence[MapLayer], classes: int, settings: FitSettings) -> Detector:
        """The network at the start of the training."""
        module, name = self.network.split(":")
        network: Any = getattr(import_module(module), name)
        weights = detector_weights(settings)
        whole = {} if weights is None else {"weights": weights}  # of this architecture: `published.resolved` has seen to that
        made: Detector = network(layers, classes, side=side_of(settings), seed=settings.seed, **whole)
        return made


def recipe(*, lr: float, epochs: int, batch: int = DEFAULT_BATCH) -> MapRecipe:
    """What the architectures share; no training is shorter than 300 steps, or longer than these epochs of 1,280 images."""
    most = epochs * 1280 // batch
    return MapRecipe(views=8, light="flip=0.5,crop=0.3", lr=lr, epochs=epochs, fewest=6, steps=(300, most), batch=batch)


ARCHITECTURES: dict[str, Architecture] = {
    "light": Architecture(
        title="one-stage head", paper="in the line of FCOS", implementation="headstart", licence="Apache-2.0",
        network="headstart.training.detectors:BoxNetwork", recipe=recipe(lr=4e-3, epochs=20, batch=8),
    ),
    "fcos": Architecture(
        title="FCOS", paper="Tian et al. 2019, arXiv:1904.01355", implementation="torchvision", licence="BSD-3-Clause",
        network="headstart.training.torchvision_detectors:Fcos", recipe=recipe(lr=1e-3, epochs=30),
    ),
    "retinanet": Architecture(
        title="RetinaNet", paper="Lin et al. 2017, arXiv:1708.02002", implementation="torchvision", licence="BSD-3-Clause",
        network="headstart.training.torchvision_detectors:Retinanet", recipe=recipe(lr=1e-3, epochs=30),
    ),
    "ssd": Architecture(
        title="SSD", paper="Liu et al. 2016, arXiv:1512.02325", implementation="torchvision", licence="BSD-3-Clause",
        network="headstart.training.torchvision_detectors:Ssd", recipe=recipe(lr=5e-3, epochs=30),
    ),
    "faster_rcnn": Architecture(
        title="Faster R-CNN", paper="Ren et al. 2015, arXiv:1506.01497", implementation="torchvision", licence="BSD-3-Clause",
        network="headstart.training.faster_rcnn:FasterRcnn", recipe=recipe(lr=1e-3, epochs=30), finest=4,
    ),
}  # fmt: skip


def architecture_of(settings: FitSettings) -> Architecture:
    """The one that the settings name, by default ``light``."""
    return ARCHITECTURES[settings.architecture or "light"]
