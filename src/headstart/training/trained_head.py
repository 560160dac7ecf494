"""`TrainedHead`: the head after a training, for predicting, saving and writing into ONNX (NumPy only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, RunError
from headstart.heads.head import LogitClassifier
from headstart.matrix import RowView, blocks, first_not_finite
from headstart.metrics.link import Link, saved_link
from headstart.onnx_graph import OnnxGraph

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

NAME = "trained"
"""As in `state`."""

_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "classes": list, "label_dtype": str, "features": int, "columns": list, "temperature": (int, float), "layers": int,
}  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedHead(LogitClassifier):
    """Dense ReLU layers and a linear output on some columns of the features, with the interface of a fitted head.

    ``dataclasses.replace(head, temperature=...)`` gives the same head with another temperature.
    """

    weights: tuple[npt.NDArray[np.float32], ...]  # of each layer, (outputs, inputs), the output layer last
    biases: tuple[npt.NDArray[np.float32], ...]  # of each layer, (outputs,)
    classes_: Array  # the labels, in the order of the logits; the column numbers where an image may have several
    link_: Link  # `SOFTMAX` for one label an image, `SIGMOID` for any number of labels
    columns: tuple[int, int]  # (start, stop): the features that are used
    n_features_in_: int  # length D of the whole feature vector
    label_dtype_: np.dtype[Any]  # of the labels that `predict` gives
    temperature: float = 1.0  # the logits are divided by it (Guo et al. 2017)

    def __post_init__(self) -> None:
        start, stop = self.columns
        if not 0 <= start < stop <= self.n_features_in_:
            raise ParameterError(f"columns must lie within the {self.n_features_in_} features, got {start} to {stop}.")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ParameterError(f"temperature must be a finite number above 0, got {self.temperature!r}.")
        if self.classes_.ndim != 1 or len(self.classes_) < (1 if self.link_.independent else 2):
            raise ParameterError(
                f"classes must be a list of labels, at least two where each image has one; got {self.classes_.tolist()!r}."
            )
        inputs = stop - start
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight.ndim != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
                raise ParameterError(
                    f"the weights {weight.shape} and biases {bias.shape} of layer {number} do not fit its {inputs} inputs."
                )
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise ParameterError(f"layer {number} holds values that are not finite. If a training made them, lower its learning rate.")
            inputs = len(bias)
        if inputs != len(self.classes_) and not (inputs == 1 and len(self.classes_) == 2 and not self.link_.independent):
            raise ParameterError(f"the output layer gives {inputs} values for {len(self.classes_)} classes.")

    @classmethod
    def of(
        cls, network_state: Mapping[str, npt.ArrayLike], classes: npt.ArrayLike, link: Link, *, columns: tuple[int, int],
        temperature: float = 1.0, features: int | None = None, label_dtype: npt.DTypeLike | None = None,
    ) -> Self:  # fmt: skip
        """The head of a trained network, from arrays ``dense.0.weight``, ``dense.0.bias``, ``dense.1.weight``, ... of `HeadNetwork.arrays`.

        The classes are in the order of the outputs; a single output for two classes is the log-odds of the second. By default the whole
        feature vector, of length `features`, ends with these columns, and `label_dtype` is that of the classes, or int64 where an image may
        have several labels. Raises KeyError for a missing array, and ParameterError for arrays, classes and columns that do not belong
        together.
        """
        count = max(1, sum(name.endswith(".weight") for name in network_state))
        weights, biases = (
            tuple(np.array(network_state[f"dense.{number}.{part}"], dtype=np.float32, order="C") for number in range(count))
            for part in ("weight", "bias")
        )
        labels = np.asarray(classes)
        return cls(
            weights=weights, biases=biases, classes_=labels, link_=link, columns=(int(columns[0]), int(columns[1])),
            n_features_in_=int(columns[1] if features is None else features), temperature=float(temperature),
            label_dtype_=np.dtype((np.int64 if link.independent else labels.dtype) if label_dtype is None else label_dtype),
        )  # fmt: skip

    @property
    def single_sigmoid(self) -> bool:
        """Whether two exclusive classes are told apart by one output, the log-odds of the second."""
        return not self.link_.independent and len(self.biases[-1]) == 1

    def logits(self, X: npt.ArrayLike | RowView) -> Floats:
        """Logits (n, k), divided by the temperature, of the whole features (n, D), which must be finite: else ValueError."""
        features = X if isinstance(X, RowView) else np.asarray(X, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != self.n_features_in_:
            raise ValueError(f"X must be features of the shape (n, {self.n_features_in_}), got {features.shape}.")
        if first_not_finite(features)[0]:
            raise ValueError("X holds NaN or infinity.")
        layers = [(weight.T.astype(np.float64), bias.astype(np.float64)) for weight, bias in self._hidden()]
        last, shift = self._output()
        found = np.empty((len(features), len(self.classes_)))
        for rows in blocks(len(features)):
            value = features[rows][:, slice(*self.columns)].astype(np.float64)
            for weight, bias in layers:
                value = np.maximum(value @ weight + bias, 0)
            found[rows] = value @ last.T + shift
        return found

    def _hidden(self) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        return list(zip(self.weights[:-1], self.biases[:-1], strict=True))

    def _output(self) -> tuple[Floats, Floats]:
        """Weights (k, inputs) and biases (k,) of the output layer, divided by the temperature; one sigmoid z becomes (-z/2, z/2)."""
        weight, bias = (layer[-1].astype(np.float64) / self.temperature for layer in (self.weights, self.biases))
        if self.single_sigmoid:
            return np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        return weight, bias

    def uncalibrated(self, logits: Floats) -> Floats:
        """The logits (n, k) without the temperature."""
        return logits * self.temperature

    def write_onnx(self, graph: OnnxGraph, features: str) -> str:
        """Append the head to a graph: `features` names a float32 value (N, D). Returns the name of the logits, float32 (N, k)."""
        value = features
        if self.columns != (0, self.n_features_in_):
            value = graph.node("Slice", features, *(graph.integers(number) for number in (*self.columns, 1)))
        for weight, bias in self._hidden():
            value = graph.node("Relu", graph.node("Gemm", value, graph.constant(weight), graph.constant(bias), transB=1))
        last, shift = self._output()
        return graph.node("Gemm", value, graph.constant(last), graph.constant(shift), transB=1)

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Everything needed to make the head again: JSON values, and arrays named as in `of`."""
        settings: dict[str, Any] = {
            "head": NAME, "classes": self.classes_.tolist(), "link": self.link_.name, "label_dtype": self.label_dtype_.str,
            "features": self.n_features_in_, "columns": list(self.columns), "temperature": self.temperature, "layers": len(self.weights),
        }  # fmt: skip
        arrays: dict[str, Array] = {f"dense.{number}.weight": weight for number, weight in enumerate(self.weights)}
        return settings, arrays | {f"dense.{number}.bias": bias for number, bias in enumerate(self.biases)}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: Mapping[str, Array]) -> Self:
        """Make a head from what `state` gave. Raises RunError where an entry is missing, or they do not belong together."""
        for key, kind in _KINDS.items():
            if not isinstance(settings.get(key), kind):
                raise RunError(f"The saved head ({NAME}) is damaged: {key!r} is missing or wrong. Fit it again.")
        try:
            link, (start, stop), dtype = saved_link(settings), settings["columns"], np.dtype(settings["label_dtype"])
            parts = ((number, part) for number in range(settings["layers"]) for part in ("weight", "bias"))  # the first missing one ends it
            weights = {f"dense.{number}.{part}": arrays[f"dense.{number}.{part}"] for number, part in parts}
            return cls.of(
                weights, np.array(settings["classes"], dtype=None if link.independent else dtype), link,
                columns=(start, stop), temperature=settings["temperature"], features=settings["features"], label_dtype=dtype,
            )  # fmt: skip
        except KeyError as error:
            raise RunError(f"The saved head ({NAME}) is damaged: {error} is missing or wrong. Fit it again.") from error
        except (TypeError, ValueError) as error:
            raise RunError(f"The saved head ({NAME}) is damaged: {str(error).rstrip('.')}. Fit it again.") from error
