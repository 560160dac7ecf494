"""The network in training: the tail of the backbone, pooling and the head; folded BatchNorm; the optimizer (PyTorch)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from headstart.backbones.records import Stage
from headstart.backbones.stages import Tail, watched
from headstart.errors import ParameterError
from headstart.settings import FineTuning
from headstart.training.convolutions import convolve

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Endings of the names of BatchNorm's buffers."""


class HeadNetwork(nn.Module):  # type: ignore[misc]
    """Dense ReLU layers and a linear output: features (N, inputs) to logits (N, outputs). Once trained it becomes a `TrainedHead`.

    Weights are initialised Glorot-uniform (Glorot and Bengio 2010), biases with 0. `layers` are the widths of the dense layers before the
    output, and `dropout` the share of the inputs of each layer, the output layer included, that is dropped in training (Srivastava et al.
    2014); the others are scaled up, so that the expectation stays. Raises ParameterError for widths below 1, or a dropout outside 0 to 1.
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
        # PyTorch's own initialisation would be discarded, and would draw from the global generator.
        self.dense = nn.ModuleList(nn.utils.skip_init(nn.Linear, before, after) for before, after in pairwise(widths))
        self._masks: list[torch.Tensor] | None = None
        self.register_buffer("mean", torch.zeros(inputs), persistent=False)  # features are standardised before the first layer
        self.register_buffer("scale", torch.ones(inputs), persistent=False)
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        for layer in self.dense:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def draw(self, seed: int, step: int, rows: slice, count: int, *, targets: Any = None) -> None:
        """Draw the dropout masks of a batch of `count` images, of which this process has `rows`; they hold until they are drawn again.

        Other heads may draw for the `targets` of these rows, too, as `headstart.training.own_loss` does.

        The masks of each layer are drawn on the CPU for the whole batch from (seed, step, number of the layer), and the rows of this
        process taken: each image gets the same mask however the batch is divided, and on whatever device.
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
        """Logits (N, outputs) of features (N, inputs). Dropout only in training mode, after a `draw` for as many rows (else ValueError)."""
        masks = self._masks if self.training else None
        if masks is not None and len(masks[0]) != len(features):
            raise ValueError(f"Dropout was drawn for {len(masks[0])} images, got {len(features)}. Call draw before each batch.")
        value = (features - self.mean) / self.scale
        for number, layer in enumerate(self.dense):
            if number:
                value = functional.relu(value)
            if masks is not None:
                value = value * masks[number].to(value.dtype) / (1 - self.dropout)
            value = layer(value)
        return value

    def standardise(self, mean: npt.ArrayLike, scale: npt.ArrayLike) -> None:
        """Learn from (features - mean) / scale from now on; both are (inputs,)."""
        self.mean.copy_(torch.from_numpy(np.array(mean, dtype=np.float32)))
        self.scale.copy_(torch.from_numpy(np.array(scale, dtype=np.float32)))

    def start_from(self, coef: npt.ArrayLike, intercept: npt.ArrayLike) -> None:
        """Initialise with a fitted linear head of coefficients (k, inputs) and an intercept (k,), as of `LogisticHead`.

        They are of standardised features, see `standardise`. With one output for two classes, with the log-odds of the second. Raises
        ParameterError for other shapes, or if this head has dense layers.
        """
        if len(self.dense) > 1:
            raise ParameterError("A head with dense layers cannot start from a linear one. Give start='random', or no head_layers.")
        rows, bias = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
        output = self.dense[0]
        if output.out_features == 1 and len(rows) == 2:
            rows, bias = rows[1:] - rows[:1], bias[1:] - bias[:1]
        shape = tuple(output.weight.shape)
        if rows.shape != shape or bias.shape != shape[:1]:
            raise ParameterError(
                f"A head of {output.in_features} features and {output.out_features} outputs cannot start from coefficients "
                f"{np.shape(coef)} and an intercept {np.shape(intercept)}."
            )
        with torch.no_grad():
            output.weight.copy_(torch.from_numpy(rows))
            output.bias.copy_(torch.from_numpy(bias))

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights as `TrainedHead.of` takes them: copies, float32, by the names of ``state_dict``, for features as they are."""
        found = {name: weights.detach().cpu().double().numpy() for name, weights in self.state_dict().items()}
        weight = found["dense.0.weight"] / self.scale.cpu().double().numpy()
        found |= {"dense.0.weight": weight, "dense.0.bias": found["dense.0.bias"] - weight @ self.mean.cpu().double().numpy()}
        return {name: value.astype(np.float32) for name, value in found.items()}


class Network(nn.Module):  # type: ignore[misc]
    """Stored activations, or images, to (outputs of the head, last feature map).

    `tail` is the backbone after its frozen part, None where all of it is frozen. The head may have a method `draw`, see `HeadNetwork.draw`.
    """

    def __init__(self, tail: Tail | None, head: Any) -> None:
        super().__init__()
        self.tail, self.head = tail, head

    def forward(self, value: Any) -> Any:
        """The outputs of the head, and the last feature map."""
        if self.tail is None:
            return self.head(value), value
        features, last_map = self.tail(value)
        return self.head(features), last_map


def mapped(outputs: Any, change: Callable[[Any], Any]) -> Any:
    """What a network gives, a tensor or tensors in dictionaries, lists and tuples, with each of them changed."""
    if isinstance(outputs, torch.Tensor):
        return change(outputs)
    if isinstance(outputs, Mapping):
        return {name: mapped(value, change) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(mapped(value, change) for value in outputs)
    return outputs


def set_mode(network: Network, trained: Sequence[Stage], *, batchnorm: str) -> None:
    """Let the head and the `trained` stages learn and nothing else; BatchNorm keeps its statistics unless `batchnorm` is ``train``."""
    network.eval().requires_grad_(False)
    network.head.train().requires_grad_(True)
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
    """The optimizer over the head and all stages that are ever trained, with a group (`name`, `highest` rate) or two for each.

    Weight decay spares one-dimensional parameters: biases, and factors of normalisations. With L2-SP there is none: that term has it for
    the head, and pulls the backbone towards its start.
    """
    groups = []
    strength = 0.0 if plan.retain == "l2sp" else plan.weight_decay
    members = {"head": list(network.head.parameters())}
    if network.tail is not None:
        named = dict(network.tail.model.named_parameters())
        members |= {stage.name: [named[entry] for entry in stage.entries if entry in named] for stage in stages if stage.name in rates}
    for name, parameters in members.items():
        for decayed in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == decayed]
            if chosen:
                decay = strength if decayed else 0.0
                groups.append({"params": chosen, "name": name, "highest": rates[name], "lr": rates[name], "weight_decay": decay})
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    if plan.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, alpha=0.9, eps=1e-7)  # Keras's defaults
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[plan.optimizer](groups)


def frozen_digest(model: Any, trained: Iterable[Stage], *, batchnorm: str) -> str:
    """SHA-256 over all of a network that must not change in a training, hexadecimal.

    That is the stages that are not `trained`, and unless `batchnorm` is ``train`` the statistics of every BatchNorm.
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


# BatchNorm in inference mode is a factor and an offset for each channel. Multiplied into the weights of the convolution before it, it costs
# nothing per pixel, forwards or backwards. The product is computed anew in each step, so gradients reach the convolution's weights and
# BatchNorm's factor and offset as before.


def fold_batchnorm(network: nn.Module, run: Callable[[], Any], *, half: bool = False) -> int:
    """Compute every BatchNorm in inference mode that directly follows a convolution inside that convolution; returns how many there were.

    Parameters, buffers and their names stay as they are. If the result of `run`, which runs the network once, changes by more than
    rounding, the network is restored. With `half`, 1x1 convolutions are trained in bfloat16, see `convolve`.
    """
    with torch.inference_mode():
        expected = run()
    pairs = _pairs(network, run)
    for convolution, norm in pairs:
        convolution.forward = _Folded(convolution, norm, half)
        norm.forward = _Remainder(norm)
    with torch.inference_mode():
        found = run()
    if not (found - expected).abs().max() <= 1e-3 * expected.abs().max():
        unfold(network)
        return 0
    return len(pairs)


def unfold(network: nn.Module) -> None:
    """Undo `fold_batchnorm`; the weights keep their present values."""
    for module in network.modules():
        if isinstance(vars(module).get("forward"), _Folded | _Remainder):
            del module.forward


def _pairs(network: nn.Module, run: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Convolutions with the BatchNorm that takes their output, found by following the tensors of one pass."""
    made: dict[int, tuple[Any, Any]] = {}  # holds the tensor, so that its id is not reused
    found: list[tuple[Any, Any]] = []

    def made_by(_name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        if type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame":
            made[id(output)] = (module, output)

    def taken_by(_name: str, module: nn.Module, inputs: Any) -> None:
        follows = isinstance(module, nn.BatchNorm2d) and not module.training and module.affine and module.track_running_stats
        if follows and id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], module))

    with torch.inference_mode(), watched(network, before=taken_by, after=made_by):
        run()
    counts = Counter(module for pair in found for module in pair)
    return [(convolution, norm) for convolution, norm in found if counts[convolution] == counts[norm] == 1]


class _Folded:
    """The forward pass of a convolution together with the BatchNorm after it."""

    def __init__(self, convolution: Any, norm: Any, half: bool) -> None:
        self.convolution, self.norm, self.half = convolution, norm, half

    def __call__(self, value: Any) -> Any:
        layer, norm = self.convolution, self.norm
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = layer.weight * factor.view(-1, 1, 1, 1)
        offset = norm.bias - norm.running_mean * factor
        if layer.bias is not None:
            offset = offset + layer.bias * factor
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
            return convolve(value, weight, offset, layer.stride, layer.padding, layer.dilation, layer.groups, half=self.half)
        if type(layer) is nn.Conv2d:
            return layer._conv_forward(value, weight, offset)
        from timm.layers.padding import pad_same

        padded = pad_same(value, weight.shape[-2:], layer.stride, layer.dilation)
        return convolve(padded, weight, offset, layer.stride, (0, 0), layer.dilation, layer.groups, half=self.half)


class _Remainder:
    """What timm's BatchNorm does besides normalising: dropout and activation. PyTorch's does nothing else."""

    def __init__(self, norm: Any) -> None:
        self.parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]

    def __call__(self, value: Any) -> Any:
        for part in self.parts:
            value = part(value)
        return value
