"""The architectures of a detection head: a table, read without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from headstart.backbones import hub_detectors
from headstart.backbones.composed import Specification
from headstart.backbones.hub_detectors import HubDetector, names_detector
from headstart.backbones.stage_maps import MapLayer
from headstart.errors import ParameterError, setting
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
        start: a whole detector of this architecture, where the training is to begin with what it knows.
    """

    title: str
    paper: str
    implementation: str
    licence: str
    network: str
    recipe: MapRecipe
    finest: int = 8
    start: HubDetector | None = None

    def maps(self, layers: tuple[MapLayer, ...], side: int) -> tuple[str, ...]:
        """The maps that it takes, the deepest of each size, the finest first."""
        return one_of_each_size(layers, finest=self.finest, side=side)

    @property
    def on_hub(self) -> bool:
        """Whether whole detectors of it are on the Hugging Face Hub, in the layout that `HubDetector` reads."""
        return self.implementation == "transformers"

    def made(self, layers: Sequence[MapLayer], classes: int, settings: FitSettings, *, names: Sequence[str] = ()) -> Detector:
        """The network at the start of the training, for classes with these `names`."""
        module, name = self.network.split(":")
        network: Any = getattr(import_module(module), name)
        begun: dict[str, Any] = {} if self.start is None else {"start": self.start, "names": names}
        if (weights := detector_weights(settings)) is not None:  # of this architecture: `published.resolved` has seen to that
            begun["weights"] = weights
        made: Detector = network(layers, classes, side=side_of(settings), seed=settings.seed, **begun)
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
        network="headstart.training.torchvision_detectors:Fcos", recipe=recipe(lr=1e-3, epochs=20, batch=8),
    ),
    "retinanet": Architecture(
        title="RetinaNet", paper="Lin et al. 2017, arXiv:1708.02002", implementation="torchvision", licence="BSD-3-Clause",
        network="headstart.training.torchvision_detectors:Retinanet", recipe=recipe(lr=1e-3, epochs=20, batch=8),
    ),
    "ssd": Architecture(
        title="SSD", paper="Liu et al. 2016, arXiv:1512.02325", implementation="torchvision", licence="BSD-3-Clause",
        network="headstart.training.torchvision_detectors:Ssd", recipe=recipe(lr=5e-3, epochs=40, batch=8),
    ),
    "faster_rcnn": Architecture(
        title="Faster R-CNN", paper="Ren et al. 2015, arXiv:1506.01497", implementation="torchvision", licence="BSD-3-Clause",
        network="headstart.training.faster_rcnn:FasterRcnn", recipe=recipe(lr=1e-3, epochs=20, batch=8), finest=4,
    ),
    "d_fine": Architecture(
        title="D-FINE", paper="Peng et al. 2024, arXiv:2410.13842", implementation="transformers", licence="Apache-2.0",
        network="headstart.training.query_detectors:DFine", recipe=recipe(lr=5e-4, epochs=60), finest=16,
    ),
    "rt_detr": Architecture(
        title="RT-DETR", paper="Zhao et al. 2024, arXiv:2304.08069", implementation="transformers", licence="Apache-2.0",
        network="headstart.training.query_detectors:RTDetr", recipe=recipe(lr=2e-4, epochs=60),
    ),
}  # fmt: skip


def architecture_of(settings: FitSettings) -> Architecture:
    """The one that the settings name, by default ``light``; at the detector that they name as weights, where it begins at one."""
    found = ARCHITECTURES[settings.architecture or "light"]
    if found.on_hub and settings.weights is not None and names_detector(settings.weights):
        start = HubDetector.find(settings.weights)
        return replace(found, start=start, finest=start.finest)
    return found


def with_own_backbone(given: FitSettings) -> FitSettings:
    """The settings with the backbone of the detector that they name as weights, at the size of its input; ParameterError where they name
    another backbone, or an architecture that cannot begin at one. MissingExtraError where the architecture's package is missing.
    """
    name, weights = given.architecture or "light", given.weights
    if ARCHITECTURES[name].on_hub:
        hub_detectors.require(f"The architecture {name}")
    if weights is None or not names_detector(weights):
        return given
    if not ARCHITECTURES[name].on_hub:
        able = " or ".join(f"--architecture {one}" for one, architecture in ARCHITECTURES.items() if architecture.on_hub)
        raise ParameterError(f"{setting('weights', str(weights))} is a whole detector, not a file: give {able}, whichever it is.")
    own, asked = hub_detectors.backbone_name(weights), Specification.parse(given.backbone)
    if asked.names not in ((own,), (FitSettings().backbone,)):
        raise ParameterError(f"{setting('weights', str(weights))} has a backbone of its own: leave --backbone out.")
    return replace(given, backbone=str(replace(asked, names=(own,), size=asked.size or hub_detectors.side_of(weights))))
