"""A timm network rewritten so that one pass gives the pooled output of every stage (PyTorch; imported only for conversion)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def stage_modules(model: Any) -> Iterator[tuple[Any, int | None]]:
    """The modules at whose output a stage ends, with their channels where known, in the order of the forward pass."""
    blocks = getattr(model, "blocks", None)
    if isinstance(blocks, nn.Sequential) and len(blocks) > 0 and all(isinstance(stage, nn.Sequential) for stage in blocks):
        for stage in blocks:  # EfficientNet and the MobileNets: feature_info names only some of the seven
            yield stage, None
        return
    told = getattr(model, "feature_info", None) or []
    for entry in getattr(told, "info", told):
        try:
            yield model.get_submodule(entry["module"]), entry.get("num_chs")
        except (AttributeError, KeyError, TypeError):
            continue  # named, but not a module of its own


class PooledStages(nn.Module):  # type: ignore[misc]
    """Images to the pooled outputs of all stages side by side, the features before the classifier last.

    Args:
        model: a timm network.
        mean, std: of the RGB channels on the scale 0..1.

    Attributes:
        sizes: after the first call, the length of each part of the output.
        kept: which stages are given; all at first.
        flat: whether every position of the last feature map follows at the end, channels last; False at first.
    """

    def __init__(self, model: Any, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1), persistent=False)
        self._skipped = int(getattr(model, "num_prefix_tokens", 0) or 0)
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._caught: dict[int, Any] = {}
        self._catching = False
        stages = list(stage_modules(model))
        self.kept = list(range(len(stages)))
        self.sizes: list[int] = []
        self.flat = False
        for index, (module, channels) in enumerate(stages):
            module.register_forward_hook(self._catcher(index, channels))
        self.eval()

    def _catcher(self, index: int, channels: int | None) -> Any:
        def catch(_module: Any, _inputs: Any, output: Any) -> None:
            if self._catching:  # a training that runs the network in parts must not keep its outputs alive
                self._caught[index] = self._pooled(output[0] if isinstance(output, tuple | list) else output, channels)

        return catch

    def _pooled(self, value: Any, channels: int | None) -> Any:
        if value.ndim == 4:
            first, last = value.shape[1] == channels, value.shape[-1] == channels
            if self._channels_last if first == last else last:
                value = value.permute(0, 3, 1, 2)
            return nn.functional.adaptive_avg_pool2d(value, 1).flatten(1)
        if value.ndim == 3:  # tokens; those in front of the patches (class, registers) are left out
            return value[:, self._skipped :].mean(dim=1)
        return value

    def last(self, value: Any) -> Any:
        """The features before the classifier (N, D), from what the network's ``forward_features`` gives."""
        if type(self.model).__name__ == "VGG":  # its head would add 120 million parameters of fully connected layers
            return self._pooled(value, None)
        return self._pooled(self.model.forward_head(value, pre_logits=True), None)

    def flattened(self, last_map: Any) -> Any:
        """Every position of what ``forward_features`` gives, channels last: (N, h * w * C)."""
        if last_map.ndim == 4 and not self._channels_last:
            last_map = last_map.permute(0, 2, 3, 1)
        return last_map.flatten(1)

    def normalised(self, images: Any) -> Any:
        """Images (uint8, N x H x W x 3) to the network's input (float32, N x 3 x H x W)."""
        return images.permute(0, 3, 1, 2).float() * self.scale - self.shift

    def forward(self, images: Any) -> Any:
        """Images (uint8, N x H x W x 3) to features (float32, N x D)."""
        self._caught.clear()
        self._catching = True
        try:
            last_map = self.model.forward_features(self.normalised(images))
            last = self.last(last_map)
        finally:
            self._catching = False
        parts = [*(self._caught[index] for index in self.kept if index in self._caught), last]
        if self.flat:
            parts.append(self.flattened(last_map))
        self._caught.clear()
        self.sizes = [int(part.shape[1]) for part in parts]
        return torch.cat(parts, dim=1)

    def drop_repeated(self, images: Any) -> None:
        """Leave out the last stage where it is the same as the features before the classifier (ResNet, DenseNet)."""
        with torch.inference_mode():
            features = self(images)
        if self.kept and self.sizes[-1] == self.sizes[-2]:
            size = self.sizes[-1]
            if torch.allclose(features[:, -size:], features[:, -2 * size : -size], rtol=1e-4, atol=1e-6):
                self.kept.pop()
                self.sizes.pop(-2)


def named_sizes(network: PooledStages) -> tuple[tuple[str, int], ...]:
    """(name, length) of each part: ``stage1``, ``stage2``, ..., ``last``, and ``map`` where it is asked for."""
    ends = ("last", "map") if network.flat else ("last",)
    stages = range(1, len(network.sizes) - len(ends) + 1)
    return tuple(zip((*(f"stage{number}" for number in stages), *ends), network.sizes, strict=True))
