"""The network in training: the tail of the backbone, pooling, and the head; its parameters by stage (PyTorch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from headstart.backbones.stages import Stage, Tail
from headstart.errors import ParameterError
from headstart.settings import FineTuning
from headstart.training.head_network import HeadNetwork

_MOMENTUM = 0.9
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""How the names of BatchNorm's buffers end."""


class Network(nn.Module):  # type: ignore[misc]
    """Stored activations, or images, to (logits, last feature map).

    Args:
        tail: the backbone from the place where the frozen part ends; None where that is its end.
        head: takes the features.
        flatten: give the head every position of the last feature map, instead of the pooled features.
    """

    def __init__(self, tail: Tail | None, head: HeadNetwork, *, flatten: bool) -> None:
        super().__init__()
        self.tail, self.head, self.flatten = tail, head, flatten

    def features(self, last_map: Any) -> Any:
        """What the head takes (N, D), from the last feature map."""
        if self.tail is None:
            return last_map
        return self.tail.flat(last_map) if self.flatten else self.tail.pooled(last_map)

    def forward(self, value: Any) -> Any:
        """The logits (N, outputs), and the last feature map."""
        last_map = value if self.tail is None else self.tail(value)
        return self.head(self.features(last_map)), last_map


def set_mode(network: Network, trained: Sequence[Stage], *, batchnorm: str) -> None:
    """Let the head and the `trained` stages learn and nothing else; BatchNorm keeps its statistics unless it is to be trained too."""
    network.eval()
    network.head.train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in network.head.parameters():
        parameter.requires_grad_(True)
    if network.tail is None:
        return
    entries = {entry for stage in trained for entry in stage.entries}
    for name, parameter in network.tail.model.named_parameters():
        parameter.requires_grad_(name in entries)
    if batchnorm == "train":
        for name, module in network.tail.model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and f"{name}.running_mean" in entries:
                module.train()


def make_optimizer(network: Network, stages: Sequence[Stage], plan: FineTuning, rates: Mapping[str, float]) -> Any:
    """The optimizer over the head and all stages that are ever trained, a group for each; `rates` has their highest learning rates.

    Each group carries its `name` and `highest`. Weight decay spares what has one dimension: biases, and factors of normalisations; with
    L2-SP there is none: that term has it for the head, and holds the backbone elsewhere.
    """
    groups = []
    wanted = 0.0 if plan.retain == "l2sp" else plan.weight_decay
    members = {"head": [parameter for _, parameter in network.head.named_parameters()]}
    if network.tail is not None:
        named = dict(network.tail.model.named_parameters())
        for stage in stages:
            if stage.name in rates:
                members[stage.name] = [named[entry] for entry in stage.entries if entry in named]
    for name, parameters in members.items():
        for decayed in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == decayed]
            if chosen:
                decay = wanted if decayed else 0.0
                groups.append({"params": chosen, "name": name, "highest": rates[name], "lr": rates[name], "weight_decay": decay})
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=_MOMENTUM)
    if plan.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, alpha=0.9, eps=1e-7)  # as Keras has them
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}.get(plan.optimizer)
    if kind is None:
        raise ParameterError(f"There is no optimizer {plan.optimizer!r}.")
    return kind(groups)


def frozen_digest(model: Any, trained: Iterable[Stage], *, batchnorm: str) -> str:
    """SHA-256 over all that must not change in a training, hexadecimal: frozen stages, and the statistics of every BatchNorm.

    Args:
        model: the whole network without classifier.
        trained: the stages that may change.
        batchnorm: ``train`` where the statistics of trained stages may change as well.
    """
    may_change = {entry for stage in trained for entry in stage.entries}
    if batchnorm == "inference":
        may_change = {entry for entry in may_change if not entry.endswith(STATISTICS)}
    return weights_digest({name: value for name, value in model.state_dict().items() if name not in may_change})


def weights_digest(entries: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes and values, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(entries.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
