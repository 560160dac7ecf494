"""BatchNorm that is trained, over the batches of all processes together, so that they compute what one alone would (PyTorch)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from headstart.training.folding import Rest
from headstart.training.team import Team


def share_batchnorm(network: nn.Module, team: Team) -> None:
    """Let every BatchNorm that is in training mode take its statistics from all processes; the network is changed in place."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.training and "forward" not in vars(module):
            module.forward = _Shared(module, team)


class _Shared:
    """The forward pass of a BatchNorm; in evaluation mode as usual."""

    def __init__(self, norm: Any, team: Team) -> None:
        self.norm, self.team, self.usual, self.rest = norm, team, norm.forward, Rest(norm)

    def __call__(self, value: Any) -> Any:
        norm = self.norm
        if not norm.training:
            return self.usual(value)
        exact = value.to(torch.promote_types(value.dtype, torch.float32))
        count = exact.new_tensor([float(exact.numel() // exact.shape[1])])
        total = _Sum.apply(torch.cat([exact.sum((0, 2, 3)), count]), self.team)
        mean, values = total[:-1] / total[-1], float(total[-1].detach())
        centred = exact - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3)), self.team) / values
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (values / max(values - 1, 1)), norm.momentum)  # the unbiased one, as usual
        factor = norm.weight * torch.rsqrt(variance + norm.eps)
        return self.rest((centred * factor.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)).to(value.dtype))


class _Sum(torch.autograd.Function):  # type: ignore[misc]
    """The sum over all processes, and of its gradients in turn."""

    @staticmethod
    def forward(context: Any, value: Any, team: Team) -> Any:
        context.team = team
        return team.add_up(value.clone())

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        return context.team.add_up(gradient.clone()), None
