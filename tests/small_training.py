"""A training of a small network on drawn images, for the tests of the training loop. Import it after ``importorskip("timm")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from conftest import draw
from headstart.backbones.records import Stage
from headstart.metrics.link import SOFTMAX
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import Augmentation
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.history import Epoch
from headstart.training.inputs import ImageInputs, Pixels
from headstart.training.job import TrainingJob
from headstart.training.labels import LabelTraining, make_loss
from headstart.training.loop import Training
from headstart.training.network import Network, weights_digest
from headstart.training.preparation import Trainable
from headstart.training.schedule import Phase, rates

IMAGES = np.stack([draw(index % 3, index, side=32) for index in range(45)])
LABELS = np.arange(45) % 3


class Small(nn.Module):
    """A backbone of three stages in the shape of a `Tail`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.model = nn.Sequential()
        for name, before, after in (("one", 3, 6), ("two", 6, 8), ("three", 8, 8)):
            layers = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
            self.model.add_module(name, nn.Sequential(*layers))

    def forward(self, value: Any) -> tuple[Any, Any]:
        last_map = self.model(value)
        return last_map.mean((2, 3)), last_map

    @property
    def stages(self) -> tuple[Stage, ...]:
        entries = list(self.model.state_dict())
        return tuple(
            Stage(name, 0, 0, name, tuple(entry for entry in entries if entry.startswith(name + "."))) for name in ("one", "two", "three")
        )


ALL = ("one", "two", "three")


def training(
    plan: FineTuning | None = None, *, phases: tuple[Phase, ...] = (Phase(0, ALL),), trained: tuple[str, ...] = ALL, validation: int = 9,
    weights: Any = None, augment: str = "none", on_epoch: Callable[[Epoch], None] | None = None, **more: Any,
) -> Training:  # fmt: skip
    plan, tail, augmentation = plan or FineTuning(epochs=3, batch_size=8, lr=0.01, layer_decay=1.0), Small(), Augmentation.parse(augment)
    loss = make_loss(plan, link=SOFTMAX, classes=3, class_weights=weights)
    task = LabelTraining(indicators=np.eye(3, dtype=np.float32)[LABELS], classes=np.arange(3), loss=loss)
    network = Network(tail, task.head(8, plan, seed=1))  # type: ignore[arg-type]
    pixels = Pixels(IMAGES, preprocessing=Preprocessing(32), augmentation=augmentation, seed=1, memory=1 << 24)
    inputs = ImageInputs(pixels, normalise=lambda images: images.permute(0, 3, 1, 2).float() / 128 - 1, device="cpu")
    rows = np.arange(len(IMAGES))
    job = TrainingJob(plan=plan, task=task, images=IMAGES, train=rows[validation:], validation=rows[:validation], seed=1, **more)
    model = Trainable(network=network, inputs=inputs, stages=tail.stages, augmentation=augmentation, device="cpu")
    return Training(job, model, phases=phases, rates=rates(plan, trained), on_epoch=on_epoch)


def digest(one: Training) -> str:
    return weights_digest(one.network.state_dict())


class Told(Listener):
    """Keeps what it is told, and does something after a step of the training."""

    def __init__(self, *, after: int = 0, then: Callable[[], Any] = lambda: None) -> None:
        self.steps, self.after, self.then = 0, after, then
        self.said: list[str] = []
        self.warned: list[str] = []

    def detail(self, text: str) -> None:
        self.steps += 1
        if self.steps == self.after:
            self.then()

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)
