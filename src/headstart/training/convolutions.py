"""Convolutions whose gradients a CPU computes sooner than PyTorch's own: wide depthwise ones, and 1x1 ones in bfloat16 (PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

_WIDEST = 3
"""Columns of a depthwise kernel for whose gradient oneDNN has fast code; for wider ones it computes 16 times as many products."""

_backward = torch.ops.aten.convolution_backward
_NO_PADDING, _ONE = (0, 0), (1, 1)


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16, at twice the rate of float32."""
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capable.get("avx512_bf16") or capable.get("amx_bf16"))


def convolve(
    value: Any, weight: Any, offset: Any, stride: Sequence[int], padding: Any, dilation: Sequence[int], groups: int, *, half: bool = False
) -> Any:  # fmt: skip
    """As `torch.nn.functional.conv2d`; where gradients are computed on a CPU, sooner.

    With `half`, the products of 1x1 convolutions are those of bfloat16 values, forwards and backwards; sums, and all else, are float32.
    """
    learning = torch.is_grad_enabled() and weight.requires_grad and value.device.type == "cpu" and value.dtype == torch.float32
    if learning and not torch.is_autocast_enabled("cpu") and not isinstance(padding, str) and tuple(dilation) == _ONE:
        if groups == weight.shape[0] == value.shape[1] and weight.shape[3] > _WIDEST:
            return _Depthwise.apply(value, weight, offset, tuple(stride), tuple(padding))
        if half and groups == 1 and tuple(weight.shape[2:]) == _ONE and tuple(padding) == _NO_PADDING:
            return _Pointwise.apply(value, weight, offset, tuple(stride))
    return functional.conv2d(value, weight, offset, stride, padding, dilation, groups)


class _Depthwise(torch.autograd.Function):  # type: ignore[misc]
    """A depthwise convolution; the gradient of its kernel is that of a few narrower kernels side by side."""

    @staticmethod
    def forward(context: Any, value: Any, weight: Any, offset: Any, stride: tuple[int, int], padding: tuple[int, int]) -> Any:
        context.save_for_backward(value, weight)
        context.stride, context.padding = stride, padding
        return functional.conv2d(value, weight, offset, stride, padding, 1, weight.shape[0])

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        (value, weight), stride, padding = context.saved_tensors, context.stride, context.padding
        channels, wanted = weight.shape[0], context.needs_input_grad
        of_value = of_weight = None
        if wanted[0]:
            of_value = _backward(
                gradient, value, weight, [channels], stride, padding, _ONE, False, _NO_PADDING, channels, [True, False, False]
            )[0]
        if wanted[1]:
            of_weight = _of_kernel(gradient, value, weight, stride, padding)
        return of_value, of_weight, gradient.sum((0, 2, 3)) if wanted[2] else None, None, None


def _of_kernel(gradient: Any, value: Any, weight: Any, stride: tuple[int, int], padding: tuple[int, int]) -> Any:
    """The gradient of a depthwise kernel (channels, 1, height, width)."""
    channels, span, parts = weight.shape[0], (gradient.shape[3] - 1) * stride[1], []
    for start in range(0, weight.shape[3], _WIDEST):
        part = weight[..., start : start + _WIDEST]
        left = start - padding[1]  # the first column that these columns of the kernel see
        seen = functional.pad(value, (-left, left + span + part.shape[3] - value.shape[3]))
        parts.append(
            _backward(
                gradient, seen, part, [channels], stride, (padding[0], 0), _ONE, False, _NO_PADDING, channels, [False, True, False]
            )[1]
        )  # fmt: skip
    return torch.cat(parts, dim=3)


class _Pointwise(torch.autograd.Function):  # type: ignore[misc]
    """A 1x1 convolution of values that are rounded to bfloat16."""

    @staticmethod
    def forward(context: Any, value: Any, weight: Any, offset: Any, stride: tuple[int, int]) -> Any:
        short, kernel = value.bfloat16(), weight.bfloat16()
        context.save_for_backward(short, kernel)
        context.stride = stride
        made = functional.conv2d(short, kernel, None, stride).float()
        return made if offset is None else made.add_(offset.view(1, -1, 1, 1))

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        (short, kernel), wanted = context.saved_tensors, context.needs_input_grad
        of_value, of_weight, _ = _backward(
            gradient.bfloat16(), short, kernel, [kernel.shape[0]], context.stride, _NO_PADDING, _ONE, False, _NO_PADDING, 1,
            [wanted[0], wanted[1], False],
        )  # fmt: skip
        return (
            None if of_value is None else of_value.float(),
            None if of_weight is None else of_weight.float(),
            gradient.sum((0, 2, 3)) if wanted[2] else None,
            None,
        )
