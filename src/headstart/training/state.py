"""All that changes in a training, and how it becomes a checkpoint and comes back from one (PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from headstart.training.checkpoint import Checkpoint
from headstart.training.history import History

Weights = dict[str, Any]


@dataclass
class State:
    """All that changes in a training, besides weights.

    Attributes:
        step: steps done, of the whole training.
        loss, weight, right, seen: sums over the images of the current epoch: losses, their weights, right answers, and how many.
        seconds: that the current epoch took before an interruption.
        best_loss, best: what the best epoch was chosen by, and its number; 0 for the beginning.
        waited: epochs since the best.
        window: mean losses of the last steps.
        history: of the epochs done.
    """

    step: int = 0
    loss: float = 0.0
    weight: float = 0.0
    right: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best: int | None = None
    waited: int = 0
    window: list[float] = field(default_factory=list)
    history: History = field(default_factory=History)


def packed(state: State, weights: Mapping[str, Weights], optimizer: Any) -> Checkpoint:
    """A checkpoint of a state, of some sets of weights by their name, and of an optimizer."""
    tensors = {f"{name}/{entry}": value for name, entries in weights.items() for entry, value in entries.items()}
    numbers = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            if torch.is_tensor(value):
                tensors[f"optimizer/{index}/{slot}"] = value
            elif value is not None:
                numbers[f"{index}/{slot}"] = value
    plain = {**vars(state), "history": state.history.to_dict(), "best_loss": repr(state.best_loss)}
    return Checkpoint(tensors, {"state": plain, "optimizer": numbers})


def unpacked(checkpoint: Checkpoint, optimizer: Any, *, device: str) -> tuple[State, dict[str, Weights]]:
    """The state and the sets of weights of a checkpoint; the optimizer takes up its own."""
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
