"""Fits the tensors of a weight file into a PyTorch network: wrappers and prefixes taken off, classifiers passed over, the rest exact."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from headstart.errors import BackboneError

Array = np.ndarray[Any, np.dtype[Any]]

_TOPS = ("classifier.", "fc.", "head.", "head_dist.", "last_linear.", "pre_logits.", "AuxLogits.")  # what may be there and is not wanted
_WRAPPERS = ("state_dict.", "model_state_dict.", "model.", "module.")
_SHOWN = 5


def _prefixes(names: Iterable[str]) -> set[str]:
    """Everything that could stand in front of a parameter's own name: nothing, ``module.``, ``state_dict.module.``, ..."""
    found = {""}
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 4)))
    return found


def unwrapped(tensors: Mapping[str, Array], expected: Iterable[str]) -> dict[str, Array]:
    """The entries under the prefix that fits the most of the `expected` names, without the prefix.

    Training scripts wrap weights as ``{"state_dict": ...}`` or ``{"model": ...}`` and prefix names with ``module.``; where several
    copies fit equally (weights and their moving average), the one with the shortest prefix is taken.
    """
    wanted = set(expected)

    def fitting(prefix: str) -> tuple[int, int]:
        return (sum(prefix + name in tensors for name in wanted), -len(prefix))

    best = max(sorted(_prefixes(tensors)), key=fitting)
    if fitting(best)[0] == 0:  # other names altogether: at least the usual wrappers can be told
        best = ""
        while (wrapper := next((word for word in _WRAPPERS if any(name.startswith(best + word) for name in tensors)), None)) is not None:
            best += wrapper
    return {name.removeprefix(best): value for name, value in tensors.items() if name.startswith(best)}


def _tops(model: Any) -> tuple[str, ...]:
    told = model.pretrained_cfg.get("classifier") or ()
    return (*_TOPS, *(f"{name}." for name in ((told,) if isinstance(told, str) else told)))


def _mismatches(found: Mapping[str, Array], expected: Mapping[str, Any], tops: tuple[str, ...]) -> list[str]:
    """What is wrong, one line per entry, in the order of the network."""
    lines = []
    for name, value in expected.items():
        counter = name.endswith("num_batches_tracked")  # of no use; older files hold it as (1,) or not at all
        if name not in found:
            lines += [] if counter else [f"{name} {tuple(value.shape)} is missing"]
        elif tuple(found[name].shape) != tuple(value.shape) and not (counter and found[name].size == 1):
            lines.append(f"{name} has shape {tuple(found[name].shape)}, the network wants {tuple(value.shape)}")
    lines += [
        f"{name} {tuple(value.shape)} has no place in it"
        for name, value in found.items()
        if name not in expected and not name.startswith(tops)
    ]
    return lines


def _timm_filtered(model: Any, found: Mapping[str, Array]) -> dict[str, Array] | None:
    """The entries as timm's own conversion of foreign checkpoints renames them, where the network's module has one."""
    import torch

    module = sys.modules[type(model).__module__]
    rename = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if rename is None:
        return None
    state = {name: torch.from_numpy(value) for name, value in found.items()}
    try:
        try:
            renamed = rename(state, model)
        except TypeError:
            renamed = rename(state)
        return {name: value.numpy() for name, value in renamed.items()}
    except Exception:  # written for one kind of checkpoint, and free to fail on any other
        return None


def fit_weights(model: Any, tensors: Mapping[str, Array], *, name: str) -> None:
    """Give a network without classifier its weights.

    Args:
        model: a timm network whose classifier was taken off.
        tensors: entries of a weight file; those of a classifier are passed over, whatever their size.
        name: of the network, for the error.

    Raises:
        BackboneError: entries are missing, too many, or of another shape; the message lists the first of them.
    """
    import torch

    expected = model.state_dict()
    tops = _tops(model)
    found = unwrapped(tensors, expected)
    wrong = _mismatches(found, expected, tops)
    if wrong:
        renamed = _timm_filtered(model, found)
        if renamed is not None and not _mismatches(renamed, expected, tops):
            found, wrong = renamed, []
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise BackboneError(
            f"The weights do not fit {name}: {'; '.join(wrong[:_SHOWN])}{more}. Is this the file of another network, or with other names?"
        )
    model.load_state_dict(
        {key: torch.from_numpy(np.array(found[key])).reshape(value.shape) if key in found else value for key, value in expected.items()}
    )
