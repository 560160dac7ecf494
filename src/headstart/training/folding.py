"""BatchNorm in inference mode, computed as a part of the convolution before it.

With its statistics fixed, BatchNorm is a factor and an offset for each channel. Multiplied into the weights of the convolution it costs
nothing for each pixel, forwards or backwards; gradients reach the convolution's weights and BatchNorm's factor and offset as before, since
the product is formed anew in each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def fold_batchnorm(network: nn.Module, run: Callable[[], Any]) -> int:
    """Let every BatchNorm in inference mode that directly follows a convolution be computed inside it. Returns how many were.

    Parameters, buffers and their names stay as they are.

    Args:
        network: changed in place.
        run: computes the network once; its result must not change by more than rounding, else everything is put back.
    """
    with torch.inference_mode():
        expected = run()
    pairs = _pairs(network, run)
    for convolution, norm in pairs:
        convolution.forward = _Folded(convolution, norm)
        norm.forward = Rest(norm)
    with torch.inference_mode():
        found = run()
    if not (found - expected).abs().max() <= 1e-3 * expected.abs().max():
        unfold(network)
        return 0
    return len(pairs)


def unfold(network: nn.Module) -> None:
    """Undo `fold_batchnorm`; weights stay as they have become."""
    for module in network.modules():
        if isinstance(vars(module).get("forward"), _Folded | Rest):
            del module.forward


def _pairs(network: nn.Module, run: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Convolutions with the BatchNorm that takes their output, found by following the tensors of one pass."""
    made: dict[int, tuple[Any, Any]] = {}  # the tensor is kept, so that its id is not given to another
    found: list[tuple[Any, Any]] = []

    def made_by(module: nn.Module, _inputs: Any, output: Any) -> None:
        made[id(output)] = (module, output)

    def taken_by(module: nn.Module, inputs: Any) -> None:
        if id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], module))

    handles = []
    for module in network.modules():
        if type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame":
            handles.append(module.register_forward_hook(made_by))
        elif isinstance(module, nn.BatchNorm2d) and not module.training and module.affine and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(taken_by))
    try:
        with torch.inference_mode():
            run()
    finally:
        for handle in handles:
            handle.remove()
    counts: dict[int, int] = {}
    for convolution, norm in found:
        counts[id(convolution)] = counts.get(id(convolution), 0) + 1
        counts[id(norm)] = counts.get(id(norm), 0) + 1
    return [(convolution, norm) for convolution, norm in found if counts[id(convolution)] == counts[id(norm)] == 1]


class _Folded:
    """The forward pass of a convolution together with the BatchNorm after it."""

    def __init__(self, convolution: Any, norm: Any) -> None:
        self.convolution, self.norm = convolution, norm

    def __call__(self, value: Any) -> Any:
        layer, norm = self.convolution, self.norm
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = layer.weight * factor.view(-1, 1, 1, 1)
        offset = norm.bias - norm.running_mean * factor
        if layer.bias is not None:
            offset = offset + layer.bias * factor
        if type(layer) is nn.Conv2d:
            return layer._conv_forward(value, weight, offset)
        from timm.layers.padding import pad_same

        padded = pad_same(value, weight.shape[-2:], layer.stride, layer.dilation)
        return nn.functional.conv2d(padded, weight, offset, layer.stride, (0, 0), layer.dilation, layer.groups)


class Rest:
    """What timm's BatchNorm does besides normalising: dropping and activating.

    Args:
        norm: a BatchNorm of timm or of PyTorch, which does nothing else.
    """

    def __init__(self, norm: Any) -> None:
        self.parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]

    def __call__(self, value: Any) -> Any:
        """Drop and activate."""
        for part in self.parts:
            value = part(value)
        return value
