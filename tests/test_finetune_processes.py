"""Trainings that are killed and go on, and trainings that are shared by two processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch

import forked
from fine_tuner import NAME, main, train
from headstart.backbones import Backbone, load_backbone
from headstart.training.job import Processes


@pytest.fixture(scope="module")
def small(cache: Path) -> Backbone:
    return load_backbone(NAME, cache=cache, weights="random", announce=lambda message: None)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return dict(found)


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(small: Backbone, cache: Path, tmp_path: Path) -> None:
    changes = {"augment": "flip=0.5,crop=0.7,mixup=0.2", "views": 2, "dropout": 0.2, "epochs": 4, "unfreeze": "gradual", "average": 2}
    generator = random.Random()
    kills = [generator.randint(1, 3 * left) for left in (2, 1)]  # of three steps an epoch
    forked.called(main, cache, tmp_path, {"killed": changes, "undisturbed": changes}, kills)
    found, expected = arrays(tmp_path / "killed.npz"), arrays(tmp_path / "undisturbed.npz")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), (name, kills)


TOGETHER: dict[str, dict[str, Any]] = {
    "stored": {
        "augment": "flip=0.5,mixup=0.3",
        "views": 2,
        "dropout": 0.3,
        "retain": "distill",
        "retain_strength": 300,
        "lr": 0.2,
        "batch_size": 9,
    },
    "whole": {"strategy": "full", "unfreeze": "gradual", "retain": "l2sp", "augment": "mixup=0.3"},
}


@pytest.mark.slow
def test_two_processes_come_to_the_weights_of_one(small: Backbone, cache: Path, tmp_path: Path) -> None:
    """21 images in batches of 9, the last of 3; or of 10, the last of one, so that one process has none of it. Classes have weights."""
    trainings = {
        name: {"batch_size": 10, "dropout": 0.3, "optimizer": "sgd", "lr": 0.02, "precision": "fp32", **changes}
        for name, changes in TOGETHER.items()
    }
    forked.called(main, cache, tmp_path, trainings, processes=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, changes in trainings.items():
            train(cache, tmp_path / f"{name} alone", changes)
    finally:
        torch.set_num_threads(threads)
    for training in trainings:
        found, expected = arrays(tmp_path / f"{training}.npz"), arrays(tmp_path / f"{training} alone.npz")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-6, err_msg=f"{training}: {name}")
        second = arrays(tmp_path / f"{training}1.npz")
        assert all(np.array_equal(second[name], value) for name, value in found.items())  # every process has the same


def test_a_process_that_ended_interrupts_those_that_wait_for_it() -> None:
    """Which of them ends first at Ctrl-C is chance; none may call the others' end a bug."""
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:40718")
    for processes, error, raised in [
        (Processes(0, 2), closed, KeyboardInterrupt),
        (Processes(), closed, RuntimeError),
        (Processes(0, 2), RuntimeError("shapes differ"), RuntimeError),
    ]:
        with pytest.raises(raised), processes.ending_together():
            raise error
