"""Terms that hold a network close to its pre-training while it is trained on (PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from headstart.errors import ParameterError


class L2SP:
    """Pulls weights towards where they started: L2-SP of Li, Grandvalet and Davoine (2018).

    The term is  alpha/2 |w - w0|^2  over the backbone, w0 being its pre-trained weights, plus  beta/2 |v|^2  over the head, which has
    none. It does not depend on the images: where processes share a batch and average their gradients, each adds the whole term once.

    Args:
        start: the pre-trained weights by name. They are copied, so that training the network does not move them.
        alpha: strength for the backbone.
        beta: strength for the head.

    Raises:
        ParameterError: a strength below 0 or not finite.
    """

    def __init__(self, start: Mapping[str, torch.Tensor], alpha: float, beta: float) -> None:
        self.alpha, self.beta = _strength("alpha", alpha), _strength("beta", beta)
        self._start = {name: weights.detach().clone() for name, weights in start.items()}

    def term(self, named_parameters: Iterable[tuple[str, torch.Tensor]], head: Iterable[torch.Tensor]) -> torch.Tensor:
        """The term, a scalar; frozen parameters (``requires_grad`` false) are left out, as they stay where they are.

        Args:
            named_parameters: of the backbone, as ``module.named_parameters()`` gives them.
            head: parameters of the head.

        Raises:
            ValueError: a parameter of the backbone that `start` does not have, or has in another shape.
        """
        parts = []
        for name, weights in named_parameters:
            if weights.requires_grad:
                parts.append(self.alpha / 2 * (weights - self._of(name, weights)).square().sum())
        parts += [self.beta / 2 * weights.square().sum() for weights in head if weights.requires_grad]
        if not parts:
            return torch.zeros(())
        return torch.stack([part.to(parts[0]) for part in parts]).sum()

    def _of(self, name: str, weights: torch.Tensor) -> torch.Tensor:
        start = self._start.get(name)
        if start is None or start.shape != weights.shape:
            found = "has no such name" if start is None else f"has the shape {tuple(start.shape)}"
            raise ValueError(f"The parameter {name!r} {tuple(weights.shape)} cannot be held at its start, which {found}.")
        if start.device != weights.device:
            start = self._start[name] = start.to(weights.device)
        return start


class Distillation:
    """Pulls features towards those of the pre-trained network: the hint loss of Romero et al. (2015), without their regressor.

    An image's loss is  strength/2 |F - F0|^2 , the squared distance summed over the channels, and averaged over the positions where the
    features are a map. The term is the mean over the images.

    Args:
        strength: factor.
        channels: the dimension of the channels: 1 for features (N, C) and maps (N, C, H, W), -1 where they come last.

    Raises:
        ParameterError: a strength below 0 or not finite.
    """

    def __init__(self, strength: float, *, channels: int = 1) -> None:
        self.strength = _strength("strength", strength)
        self._channels = channels

    def term(self, features: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The mean of `per_image`, a scalar."""
        return self.per_image(features, teacher).mean()

    def per_image(self, features: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss of each image (N,), float32 or better, for batches that processes share.

        Args:
            features: of the network in training (N, ...).
            teacher: of the pre-trained one, for the same pixels; no gradient flows into them.

        Raises:
            ValueError: the two differ in shape.
        """
        if features.shape != teacher.shape:
            raise ValueError(f"The features {tuple(features.shape)} and the teacher's {tuple(teacher.shape)} differ in shape.")
        exact = torch.promote_types(features.dtype, torch.float32)
        squares = (features.to(exact) - teacher.detach().to(exact)).square().sum(dim=self._channels)
        each = squares if squares.ndim == 1 else squares.flatten(1).mean(dim=1)
        return self.strength / 2 * each


def _strength(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ParameterError(f"{name} must be a finite number of at least 0, got {value!r}.")
    return float(value)
