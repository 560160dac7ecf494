"""Interrupted and resumed, a training ends with the same weights; the processes that share one."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.settings import FineTuning

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch

from headstart.progress import Listener
from headstart.training.checkpoint import CheckpointFolder, deferred_interrupt
from headstart.training.history import Epoch, History
from headstart.training.job import Processes
from headstart.training.loop import Stopped, Training
from headstart.training.schedule import Phase
from small_training import ALL, Told, digest, training

# Interrupted ----------------------------------------------------------------------------------------------------------------------------

CAREFUL = FineTuning(epochs=3, batch_size=16, lr=0.01, layer_decay=1.0, dropout=0.3, head_layers=(8,), batchnorm="train", average=2)


def careful(folder: Path | None = None, listener: Listener | None = None, **changes: Any) -> Training:
    plan = dataclasses.replace(CAREFUL, **changes)
    phases = (Phase(0, ()), Phase(1, ("three",)), Phase(2, ALL))
    saved = {} if folder is None else {"checkpoints": CheckpointFolder(folder), "resume": True}
    return training(plan, phases=phases, augment="mixup=0.3,flip=0.5,shift=0.1", listener=listener or Listener(), **saved)


def timeless(history: History) -> list[Epoch]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in history.epochs]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_interrupted_at_any_step_and_resumed_it_comes_to_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    whole = careful(optimizer=optimizer)
    expected = timeless(whole.run())
    steps = (1, 3, 5, 8, 9) if optimizer == "adamw" else (5,)  # three steps an epoch
    for step in steps:
        folder = tmp_path / str(step)
        CheckpointFolder(folder).begin({})
        one = careful(folder, Told(after=step, then=lambda: signal.raise_signal(signal.SIGINT)), optimizer=optimizer)
        if step < 9:
            with pytest.raises(Stopped):
                one.run()
            told = Told()
            one = careful(folder, told, optimizer=optimizer)
            history = one.run()
            assert told.said[0] == f"Resuming after step {step} of 9."
            assert told.steps == 9 - step
        else:  # nothing is left to be done
            history = one.run()
        assert digest(one) == digest(whole), step
        assert timeless(history) == expected
        assert all(math.isclose(epoch.seconds, 0, abs_tol=60) for epoch in history.epochs)
        assert np.array_equal(one.validation.predictions, whole.validation.predictions)


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    whole = careful()
    whole.run()
    CheckpointFolder(tmp_path / "t").begin({})
    for _ in range(4):  # one step each
        with pytest.raises(Stopped):
            careful(tmp_path / "t", Told(after=1, then=lambda: signal.raise_signal(signal.SIGINT))).run()
    one = careful(tmp_path / "t")
    one.run()
    assert digest(one) == digest(whole)
    again = careful(tmp_path / "t")  # ended, but for what comes after the loop
    again.run()
    assert digest(again) == digest(whole)


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("step", [1, 6, 8])
def test_what_was_killed_goes_on_from_the_last_epoch(tmp_path: Path, step: int) -> None:
    whole = careful()
    expected = timeless(whole.run())

    def end() -> None:
        raise Killed

    CheckpointFolder(tmp_path / "t").begin({})
    with pytest.raises(Killed):
        careful(tmp_path / "t", Told(after=step, then=end)).run()
    told = Told()
    one = careful(tmp_path / "t", told)
    history = one.run()
    assert told.steps == 9 - (step - 1) // 3 * 3
    assert digest(one) == digest(whole)
    assert timeless(history) == expected


def test_an_interruption_while_the_frozen_part_is_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "t").begin({})
    one = careful(tmp_path / "t")

    def prepare(epoch: int | None) -> None:
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(one.model.inputs, "prepare", prepare)
    with pytest.raises(Stopped):
        one.run()
    whole, resumed = careful(), careful(tmp_path / "t")
    whole.run()
    resumed.run()
    assert digest(resumed) == digest(whole)


def test_the_second_ctrl_c_is_as_usual() -> None:
    event, usual = threading.Event(), signal.getsignal(signal.SIGINT)
    with deferred_interrupt(event):
        signal.raise_signal(signal.SIGINT)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual
    with deferred_interrupt(event):
        pass
    assert signal.getsignal(signal.SIGINT) is usual

    def elsewhere() -> None:
        with deferred_interrupt(event):
            done.append(signal.getsignal(signal.SIGINT))

    done: list[Any] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [usual]


# Processes -------------------------------------------------------------------------------------------------------------------------------


def test_the_shares_of_a_batch_are_the_batch() -> None:
    for size in (1, 2, 3, 7):
        for count in (0, 1, 2, 5, 32, 33):
            shares = [range(count)[Processes(rank, size).share(count)] for rank in range(size)]
            assert [row for share in shares for row in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_processes_as_torchrun_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Processes.from_environment() == Processes(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Processes.from_environment() == Processes(0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    assert Processes.from_environment() == Processes(3, 4, 3)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Processes.from_environment() == Processes(3, 4, 1)
    assert not Processes.from_environment().is_first
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ParameterError, match=r"RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them.*'first'"):
        Processes.from_environment()


def test_a_single_process_waits_for_nobody() -> None:
    one = Processes()
    one.join("cpu")
    one.barrier()
    assert one.sum(torch.tensor(3.0)) == 3
    assert one.any(True, device="cpu")
    assert not one.any(False, device="cpu")
    with one.first_on_machine():
        pass
    one.leave()


def test_trained_batchnorm_needs_a_single_process() -> None:
    plan = FineTuning(batchnorm="train")
    Processes().check(plan)
    Processes(0, 2).check(FineTuning())
    with pytest.raises(ParameterError, match=r"batchnorm 'train' works in a single process\. Use batchnorm 'inference', or start without"):
        Processes(0, 2).check(plan)
