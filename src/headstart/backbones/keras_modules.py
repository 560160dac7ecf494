"""What Keras' networks compute and timm's do not, in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnetv2 import PreActBottleneck
from torch.nn import functional


class Strided(PreActBottleneck):  # type: ignore[misc]
    """The last block of a stage of ResNetV2: its shortcut is every second pixel of what enters it."""

    def forward(self, value: Any) -> Any:
        """(N, C, H, W) to half of height and width, rounded up."""
        own = self.conv1(self.norm1(value))
        own = self.conv2(self.norm2(own))
        return self.conv3(self.norm3(own)) + value[:, :, ::2, ::2]


def one_more(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before a convolution: one pixel of zeros at the right and at the bottom."""
    return (functional.pad(inputs[0], (0, 1, 0, 1)), *inputs[1:])


def without_padding(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """After an average over 3 x 3 pixels that counted the padding: as if it had not, which is TensorFlow's way."""
    shares = functional.avg_pool2d(torch.ones_like(inputs[0][:1, :1]), kernel_size=3, stride=1, padding=1)
    return (inputs[0] / shares, *inputs[1:])
