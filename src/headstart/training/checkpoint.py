"""Checkpoints: the whole state of a training in one file, written atomically, so that an interrupted or killed training can be resumed.

The folder lies beside the run that is to be written and is removed when that is complete. Besides these files it has stored activations.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import RunError
from headstart.files import is_full, write_file
from headstart.training.history import History

SUFFIX = ".training"
PLAN = "plan.json"
FILE = "checkpoint.safetensors"
AGAIN = "checkpoint-refit.safetensors"
FORMAT = 1

Weights = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training at some step: tensors by name, and plain values."""

    tensors: Mapping[str, Any]
    state: Mapping[str, Any]


class CheckpointFolder:
    """The folder of a training in progress."""

    def __init__(self, path: Path, *, file: str = FILE) -> None:
        self.path, self._file = path, file

    @classmethod
    def beside(cls, run: Path) -> CheckpointFolder:
        """The folder of the training that is to become this run."""
        return cls(run.with_name(run.name + SUFFIX))

    @property
    def run(self) -> str:
        """The path of the run that the training is to become."""
        return str(self.path).removesuffix(SUFFIX)

    @property
    def activations(self) -> Path:
        """The folder of stored activations."""
        return self.path / "activations"

    @property
    def again(self) -> CheckpointFolder:
        """The same folder for the second training of the same plan, with a checkpoint of its own."""
        return CheckpointFolder(self.path, file=AGAIN)

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Start a new training; the files of an earlier one are removed. Raises RunError where the folder cannot be written."""
        with self._write_errors():
            self.remove()
            self.path.mkdir(parents=True)
            write_file(self.path / PLAN, json.dumps({"format": FORMAT, **plan}, indent=1, ensure_ascii=False).encode())

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.path / self._file).exists()

    def plan(self) -> dict[str, Any]:
        """What is being trained here, as given to `begin`. Raises RunError where there is no training, or its description is damaged."""
        try:
            found = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{self.run}: there is no interrupted training to resume (no folder {self.path}). Give the --out of the training that was "
                "interrupted, or leave --resume out to start a new one."
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / PLAN}: cannot be read ({type(error).__name__}). Start again without --resume.") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise RunError(f"{self.path / PLAN}: not written by this version of Headstart. Start again without --resume.")
        return {key: value for key, value in found.items() if key != "format"}

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint. Raises RunError where it cannot be written; the previous one is still there."""
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
        data = save(tensors, metadata={"state": json.dumps(checkpoint.state)})
        with self._write_errors():
            write_file(self.path / self._file, hashlib.sha256(data).digest() + data)

    def load(self) -> Checkpoint | None:
        """The checkpoint, or None where the training was interrupted before its first. Raises RunError where the file is damaged."""
        from safetensors.torch import load

        path = self.path / self._file
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror or error}).") from None
        digest, data = whole[:32], whole[32:]
        if hashlib.sha256(data).digest() != digest:
            raise RunError(f"{path}: is damaged (its digest differs). Start again without --resume.")
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return Checkpoint(load(data), json.loads(header["__metadata__"]["state"]))

    def remove(self) -> None:
        """Remove the folder, stored activations included."""
        shutil.rmtree(self.path, ignore_errors=not self.path.exists())

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = "the disk is full. Free some space" if is_full(error) else f"{error.strerror or error}. Choose another --out"
            raise RunError(
                f"The checkpoint cannot be saved in {self.path}: {what}, then resume from the last checkpoint: --resume {self.run}."
            ) from None


@dataclass
class State:
    """All that changes in a training, besides weights."""

    step: int = 0  # steps done, of the whole training
    loss: float = 0.0  # of the current epoch: the sum of the losses of its images,
    weight: float = 0.0  # the sum of their weights,
    right: float = 0.0  # the sum of their scores,
    seen: int = 0  # their number,
    seconds: float = 0.0  # and the time spent before an interruption
    best_loss: float = math.inf  # what the best epoch was selected by,
    best: int | None = None  # and its number; 0 for the start
    waited: int = 0  # epochs since the best
    window: list[float] = field(default_factory=list)  # mean losses of the last steps
    history: History = field(default_factory=History)  # of the epochs done


def to_checkpoint(state: State, weights: Mapping[str, Weights], optimizer: Any) -> Checkpoint:
    """A checkpoint of a state, of some sets of weights by their name, and of an optimizer."""
    tensors = {f"{name}/{entry}": value for name, entries in weights.items() for entry, value in entries.items()}
    slots = {f"{index}/{slot}": value for index, of in optimizer.state_dict()["state"].items() for slot, value in of.items()}
    tensors |= {f"optimizer/{place}": value for place, value in slots.items() if hasattr(value, "detach")}  # a tensor
    numbers = {place: value for place, value in slots.items() if value is not None and not hasattr(value, "detach")}
    plain = {**vars(state), "history": state.history.to_dict(), "best_loss": repr(state.best_loss)}
    return Checkpoint(tensors, {"state": plain, "optimizer": numbers})


def from_checkpoint(checkpoint: Checkpoint, optimizer: Any, *, device: str) -> tuple[State, dict[str, Weights]]:
    """The state and the sets of weights of a checkpoint; the optimizer's own state is loaded into it."""
    plain = dict(checkpoint.state["state"])
    history, best_loss = History.from_dict(plain.pop("history")), float(plain.pop("best_loss"))
    sets: dict[str, Weights] = {}
    for name, value in checkpoint.tensors.items():
        group, _, entry = name.partition("/")
        sets.setdefault(group, {})[entry] = value.to(device)
    slots: dict[int, dict[str, Any]] = {}
    for key, value in [*sets.pop("optimizer", {}).items(), *checkpoint.state["optimizer"].items()]:
        index, slot = key.split("/")
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return State(**plain, history=history, best_loss=best_loss), sets


@contextlib.contextmanager
def deferred_interrupt(event: threading.Event) -> Iterator[None]:
    """The first Ctrl-C sets the event instead of interrupting, so that the current step can be finished and saved; a second interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGINT)

    def defer(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, defer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
