"""The head while it is trained: dense layers with a dropout that does not depend on how a batch is divided (PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from headstart.errors import ParameterError


class HeadNetwork(nn.Module):  # type: ignore[misc]
    """Dense ReLU layers and a linear output: features (N, inputs) to logits (N, outputs).

    Weights begin Glorot-uniform (Glorot and Bengio 2010), biases at nought. Once trained it becomes a `TrainedHead`.

    Args:
        inputs: length of the features.
        outputs: number of logits; see `Loss.outputs`.
        layers: widths of the dense layers before the output.
        dropout: share of the inputs of each layer, the output layer among them, that is left out in training (Srivastava et al. 2014);
            the others are scaled up, so that the expectation stays.
        seed: of the first weights, or a generator for them.

    Raises:
        ParameterError: widths below 1, or a dropout outside 0 to 1.
    """

    def __init__(
        self, inputs: int, outputs: int, layers: Sequence[int] = (), dropout: float = 0.0, *, seed: int | torch.Generator = 0
    ) -> None:
        super().__init__()
        widths = (inputs, *layers, outputs)
        if min(widths) < 1:
            raise ParameterError(f"The layers of a head must be at least 1 wide, got {widths}.")
        if not 0 <= dropout < 1:
            raise ParameterError(f"dropout must be at least 0 and below 1, got {dropout!r}.")
        self.dropout = float(dropout)
        # PyTorch's own first weights would be thrown away, and would draw from the generator that all share.
        self.dense = nn.ModuleList(nn.utils.skip_init(nn.Linear, before, after) for before, after in pairwise(widths))
        self._masks: list[torch.Tensor] | None = None
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        for layer in self.dense:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def draw(self, seed: int, step: int, rows: slice, count: int) -> None:
        """Set the dropout for the next batch; it holds until it is drawn again.

        The masks of each layer are drawn on the CPU for the whole batch from (seed, step, number of the layer), and the rows of this
        process taken: however a batch is divided, and on whatever device, each image meets the same mask.

        Args:
            seed: of the training.
            step: number of the step.
            rows: which rows of the batch this process has.
            count: images in the batch, over all processes.
        """
        if not self.dropout:
            return
        self._masks = []
        for number, layer in enumerate(self.dense):
            mixed = int(np.random.SeedSequence([seed, step, number]).generate_state(1, np.uint64)[0]) >> 1  # manual_seed takes 63 bits
            generator = torch.Generator().manual_seed(mixed)
            kept = torch.rand(count, layer.in_features, generator=generator)[rows] >= self.dropout
            self._masks.append(kept.to(layer.weight.device, non_blocking=True))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (N, outputs) of features (N, inputs). Dropout only in training mode, and only after `draw`.

        Raises:
            ValueError: the rows drawn are not as many as those given.
        """
        masks = self._masks if self.training else None
        if masks is not None and len(masks[0]) != len(features):
            raise ValueError(f"Dropout was drawn for {len(masks[0])} images, and {len(features)} came. Call draw before each batch.")
        value = features
        for number, layer in enumerate(self.dense):
            if number:
                value = functional.relu(value)
            if masks is not None:
                value = value * masks[number].to(value.dtype) / (1 - self.dropout)
            value = layer(value)
        return value

    def start_from(self, coef: npt.ArrayLike, intercept: npt.ArrayLike) -> None:
        """Begin with a fitted linear head.

        Args:
            coef: (k, inputs), as of `LinearHead`.
            intercept: (k,).

        With one output and two classes it becomes the log-odds of the second: the difference of the two rows.

        Raises:
            ParameterError: this head has dense layers before its output, or other shapes.
        """
        if len(self.dense) > 1:
            raise ParameterError("A head with dense layers cannot begin with a linear one. Give start='random', or no head_layers.")
        rows, bias = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
        output = self.dense[0]
        if output.out_features == 1 and len(rows) == 2:
            rows, bias = rows[1:] - rows[:1], bias[1:] - bias[:1]
        wanted = tuple(output.weight.shape)
        if rows.shape != wanted or bias.shape != wanted[:1]:
            raise ParameterError(
                f"A head of {output.in_features} features and {output.out_features} outputs cannot begin with coefficients "
                f"{np.shape(coef)} and an intercept {np.shape(intercept)}."
            )
        with torch.no_grad():
            output.weight.copy_(torch.from_numpy(rows))
            output.bias.copy_(torch.from_numpy(bias))

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights as `TrainedHead.of` takes them: copies, float32, by the names of ``state_dict``."""
        return {name: weights.detach().cpu().float().numpy().copy() for name, weights in self.state_dict().items()}
