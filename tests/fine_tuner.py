"""What a process does that fine-tunes a small network; the tests kill it, and start two of it that train together."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from conftest import draw
from headstart.backbones import load_backbone, timm_models
from headstart.backbones.records import Conversion
from headstart.metrics.link import SOFTMAX
from headstart.progress import Listener
from headstart.settings import FineTuning
from headstart.training.checkpoint import PLAN, CheckpointFolder
from headstart.training.job import Pretrained, Processes, TrainingJob
from headstart.training.labels import LabelTraining, make_loss
from headstart.training.tuning import fine_tune

NAME = "test_efficientnet"


class Steps(Listener):
    """Says on a pipe when a step is done."""

    def __init__(self, pipe: int | None) -> None:
        self.pipe = pipe

    def detail(self, text: str) -> None:
        if self.pipe is not None:
            os.write(self.pipe, b".")


def train(cache: Path, out: Path, changes: dict[str, Any], *, pipe: int | None = None) -> None:
    """Train, or go on; write all weights and the losses."""
    small = load_backbone(NAME, cache=cache, weights="random", announce=lambda message: None)
    plan = FineTuning(**{"epochs": 3, "batch_size": 8, "image_size": 64, "device": "cpu", "lr": 2e-3, "keep": "last", **changes})
    rows = np.arange(27)
    processes, found = Processes.from_environment(), {}

    def written(record: Any, network: Any) -> Conversion:
        found.update({name: value.numpy().copy() for name, value in network.model.state_dict().items()})
        return Conversion(network=small.network.read_bytes(), record=record, layers=small.layers, any_size=True, versions={})

    folder = CheckpointFolder.beside(out)
    resume = (folder.path / PLAN).exists()
    if not resume and processes.is_first:
        folder.begin({})
    processes.join("cpu")
    processes.barrier()
    task = LabelTraining(
        indicators=np.eye(3, dtype=np.float32)[rows % 3], classes=np.array(["rings", "stripes", "checks"]),
        loss=make_loss(plan, link=SOFTMAX, classes=3, class_weights=[1.0, 2.0, 0.5]),
    )  # fmt: skip
    job = TrainingJob(
        plan=plan, task=task, images=np.stack([draw(index % 3, index, side=64) for index in rows]), train=rows[6:], validation=rows[:6],
        processes=processes, checkpoints=folder, resume=resume, listener=Steps(pipe),
    )  # fmt: skip
    start = Pretrained(backbone=small, preprocessing=small.preprocessing, weights="random", engine="torch")
    with mock.patch.object(timm_models, "convert_module", written):
        done = fine_tune(job, start, cache=out.with_suffix(".cache"))
    _, head = done.head.state()
    losses = np.array([[epoch.loss, epoch.score, epoch.val_loss] for epoch in done.history.epochs])
    np.savez(out.with_name(f"{out.name}{processes.rank or ''}.npz"), **found, **head, losses=losses, logits=done.predictions)


def killed_after(steps: int, *arguments: Any) -> None:
    """Train in a child of this process, and kill it at some moment after it has done so many steps."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        train(*arguments, pipe=write)
        os._exit(0)
    os.close(write)
    for _ in range(steps):
        if not os.read(read, 1):
            raise RuntimeError("the training ended before it was killed")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)


def main(cache: Path, folder: Path, trainings: Mapping[str, dict[str, Any]], kills: Sequence[int] = ()) -> None:
    """Train by changes of the plan; what comes of each is written to FOLDER/NAME.npz, and NAME1.npz by a second process.

    After `kills` steps the first training is killed, and then resumed.
    """
    import torch

    torch.set_num_threads(1)
    first = next(iter(trainings))
    for count in kills:
        killed_after(count, cache, folder / first, trainings[first])
    for name, changes in trainings.items():
        train(cache, folder / name, changes)
    Processes.from_environment().leave()
