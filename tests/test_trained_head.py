"""The head that a training leaves, against its formula, scikit-learn's conventions, and ONNX Runtime. Without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load, save
from scipy.special import expit, softmax

from headstart.errors import ParameterError, RunError
from headstart.heads import LogisticHead
from headstart.metrics.link import SIGMOID, SOFTMAX
from headstart.onnx_graph import OnnxGraph
from headstart.training.trained_head import TrainedHead

Array = np.ndarray[Any, Any]
D, START, STOP = 30, 4, 24


def features(n: int = 40, *, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(1, 2, (n, D)).astype(np.float32)


def network(outputs: int, layers: tuple[int, ...] = (), *, seed: int = 1) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    widths = (STOP - START, *layers, outputs)
    arrays = {}
    for number, (before, after) in enumerate(pairwise(widths)):
        arrays[f"dense.{number}.weight"] = random.normal(0, before**-0.5, (after, before)).astype(np.float32)
        arrays[f"dense.{number}.bias"] = random.normal(size=after).astype(np.float32)
    return arrays


def made(kind: str, *, temperature: float = 1.0, columns: tuple[int, int] = (START, STOP), **given: Any) -> TrainedHead:
    outputs, classes, layers = {
        "linear": (3, np.array(["cat", "dog", "élan"]), ()),
        "dense": (3, np.array([3, 5, 9]), (16, 8)),
        "two": (2, np.array(["no", "yes"]), ()),
        "sigmoid": (1, np.array(["no", "yes"]), ()),
        "dense sigmoid": (1, np.array([False, True]), (8,)),
        "several": (4, np.arange(4), ()),
        "dense several": (4, np.arange(4), (8,)),
        "one label": (1, np.arange(1), ()),
    }[kind]
    link = SIGMOID if kind in ("several", "dense several", "one label") else SOFTMAX
    return TrainedHead.of(
        network(outputs, layers), classes, link, columns=columns, temperature=temperature,
        **{"features": D, **given},
    )  # fmt: skip


KINDS = ["linear", "dense", "two", "sigmoid", "dense sigmoid", "several", "dense several", "one label"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def raw(kind: str, X: Array) -> Array:
    """What the network gives, in float64."""
    head = made(kind)
    value = X[:, START:STOP].astype(np.float64)
    for number, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        value = (np.maximum(value, 0) if number else value) @ weight.astype(np.float64).T + bias
    return value


def run_onnx(head: TrainedHead, X: Array) -> Array:
    graph = OnnxGraph()
    graph.node("Identity", head.write_onnx(graph, "features"), output="logits")
    model = graph.model(inputs={"features": (np.float32, ["N", X.shape[1]])}, outputs={"logits": (np.float32, ["N", len(head.classes_)])})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"features": X})[0])


@every_kind
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_are_those_of_the_network(kind: str, temperature: float) -> None:
    X = features()
    head, z = made(kind, temperature=temperature), raw(kind, X) / temperature
    if head.link_.independent:
        expected = expit(z)
    else:
        expected = np.concatenate([expit(-z), expit(z)], axis=1) if z.shape[1] == 1 else softmax(z, axis=1)
    np.testing.assert_allclose(head.predict_proba(X), expected, rtol=1e-10)
    assert head.logits(X).dtype == np.float64
    assert head.logits(X).shape == (40, len(head.classes_))


@every_kind
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_onnx_gives_the_same_logits(kind: str, temperature: float) -> None:
    head, X = made(kind, temperature=temperature), features(seed=5)
    np.testing.assert_allclose(run_onnx(head, X), head.logits(X), rtol=1e-5, atol=1e-5)


def test_onnx_without_columns_to_leave_out() -> None:
    head, X = made("dense", columns=(0, STOP - START), features=STOP - START), features()[:, : STOP - START]
    np.testing.assert_allclose(run_onnx(head, X), head.logits(X), rtol=1e-5, atol=1e-5)


@every_kind
def test_predictions_follow_from_the_probabilities(kind: str) -> None:
    X, head = features(), made(kind)
    probable = head.predict_proba(X)
    if head.link_.independent:
        np.testing.assert_array_equal(head.predict(X), probable >= 0.5)
        np.testing.assert_array_equal(head.decision_function(X), head.logits(X))
        return
    np.testing.assert_array_equal(head.predict(X), head.classes_[probable.argmax(axis=1)])
    if len(head.classes_) == 2:
        scores = head.decision_function(X)
        np.testing.assert_allclose(scores, np.log(probable[:, 1] / probable[:, 0]), rtol=1e-9)
        np.testing.assert_array_equal(head.predict(X) == head.classes_[1], scores > 0)
    else:
        np.testing.assert_array_equal(head.decision_function(X), head.logits(X))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("k", [2, 3])
def test_it_means_what_a_fitted_head_means(k: int, several: bool) -> None:
    """A linear head made into a trained one answers alike, dtypes included."""
    X = features(80)
    y: Array = np.array(["a", "b", "c"])[np.arange(80) % k]
    if several:
        y = (np.random.default_rng(0).uniform(size=(80, k)) < 0.5).astype(np.uint8)
    X[:, :k] += 2 * (y if several else y[:, None] == np.unique(y))
    fitted = LogisticHead().fit(X, y)
    arrays = {"dense.0.weight": fitted.coef_, "dense.0.bias": fitted.intercept_}
    head = TrainedHead.of(arrays, fitted.classes_, fitted.link_, columns=(0, D), label_dtype=y.dtype)
    for method in ("logits", "predict_proba", "decision_function"):
        np.testing.assert_allclose(getattr(head, method)(X), getattr(fitted, method)(X), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(head.predict(X), fitted.predict(X))
    assert head.predict(X).dtype == fitted.predict(X).dtype
    assert (head.n_features_in_, head.link_) == (fitted.n_features_in_, fitted.link_)


@every_kind
def test_state_makes_the_same_head_again(kind: str) -> None:
    head = made(kind, temperature=1.7)
    settings, arrays = head.state()
    again = TrainedHead.from_state(json.loads(json.dumps(settings, allow_nan=False)), load(save(arrays)))
    np.testing.assert_array_equal(again.logits(features()), head.logits(features()))
    np.testing.assert_array_equal(again.predict(features()), head.predict(features()))
    assert again.predict(features()).dtype == head.predict(features()).dtype
    assert again.classes_.dtype == head.classes_.dtype
    assert again.state()[0] == settings
    older = {name: value for name, value in settings.items() if name != "link"} | {"multilabel": head.link_.independent}
    assert TrainedHead.from_state(older, arrays).state()[0] == settings


def test_the_dtype_of_labels_is_kept() -> None:
    head = made("several", label_dtype=bool)
    assert head.predict(features()).dtype == bool
    assert TrainedHead.from_state(*head.state()).predict(features()).dtype == bool
    assert made("several").predict(features()).dtype == np.int64


def test_another_temperature_scales_the_logits() -> None:
    head = made("dense sigmoid")
    np.testing.assert_allclose(replace(head, temperature=4.0).logits(features()), head.logits(features()) / 4)


def test_other_columns_do_not_count() -> None:
    X, head = features(), made("dense")
    other = X.copy()
    other[:, :START], other[:, STOP:] = 7, -7
    np.testing.assert_array_equal(head.logits(other), head.logits(X))


def test_it_keeps_its_own_copy() -> None:
    arrays = network(3)
    head = TrainedHead.of(arrays, ["a", "b", "c"], SOFTMAX, columns=(START, STOP))
    before = head.logits(features()[:, :STOP])
    arrays["dense.0.weight"][:] = 0
    np.testing.assert_array_equal(head.logits(features()[:, :STOP]), before)
    assert head.n_features_in_ == STOP


@pytest.mark.parametrize("key", sorted(made("dense").state()[0].keys() - {"head"}))
def test_a_missing_or_wrong_entry_is_told(key: str) -> None:
    settings, arrays = made("dense").state()
    for damaged in ({name: value for name, value in settings.items() if name != key}, settings | {key: None}):
        with pytest.raises(RunError, match=f"The saved head .trained. is damaged: '{key}' is missing or wrong. Fit it again"):
            TrainedHead.from_state(damaged, arrays)


@pytest.mark.parametrize("key", sorted(made("dense").state()[1]))
def test_a_missing_or_wrong_array_is_told(key: str) -> None:
    settings, arrays = made("dense").state()
    with pytest.raises(RunError, match=f"is damaged: '{key}' is missing or wrong. Fit it again"):
        TrainedHead.from_state(settings, {name: value for name, value in arrays.items() if name != key})
    with pytest.raises(RunError, match=r"is damaged: the weights .* of layer \d do not fit its \d+ inputs"):
        TrainedHead.from_state(settings, arrays | {key: arrays[key][..., :-1]})
    with pytest.raises(RunError, match=r"is damaged: layer \d holds values that are not finite"):
        TrainedHead.from_state(settings, arrays | {key: np.full_like(arrays[key], np.nan)})
    with pytest.raises(RunError, match="is damaged"):
        TrainedHead.from_state(settings, arrays | {key: np.array(["a"])})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": [1, 2]}, "output layer gives 3 values for 2 classes"),
        ({"classes": [1]}, "at least two where each image has one"),
        ({"classes": [[1], [2], [3]]}, "a list of labels"),
        ({"classes": ["a", "b", "c"]}, "invalid literal"),
        ({"label_dtype": "colour"}, "colour"),
        ({"columns": [4, 40]}, "columns must lie within the 30 features, got 4 to 40"),
        ({"columns": [4]}, "not enough values"),
        ({"columns": [5, 24]}, "layer 0 do not fit its 19 inputs"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"layers": 2}, "output layer gives 8 values for 3 classes"),
        ({"layers": 0}, "'dense.0.weight' is missing"),
        ({"layers": 10**15}, "'dense.3.weight' is missing"),
    ],
)
def test_entries_that_do_not_belong_together_are_told(change: dict[str, Any], said: str) -> None:
    settings, arrays = made("dense").state()
    with pytest.raises(RunError, match=f"is damaged: .*{said}.*Fit it again"):
        TrainedHead.from_state(settings | change, arrays)


def test_a_training_that_ran_away_is_told() -> None:
    arrays = network(3)
    arrays["dense.0.bias"][1] = np.inf
    with pytest.raises(ParameterError, match=r"layer 0 holds values that are not finite. If a training made them, lower its learning rate"):
        TrainedHead.of(arrays, ["a", "b", "c"], SOFTMAX, columns=(START, STOP))
    assert TrainedHead.of(network(1), ["a", "b"], SOFTMAX, columns=(START, STOP)).single_sigmoid
    assert not TrainedHead.of(network(1), [0], SIGMOID, columns=(START, STOP)).single_sigmoid


def test_features_are_checked() -> None:
    head, X = made("linear"), features()
    with pytest.raises(ValueError, match=r"X must be features of the shape \(n, 30\), got \(40, 29\)"):
        head.logits(X[:, 1:])
    with pytest.raises(ValueError, match=r"got \(30,\)"):
        head.predict(X[0])
    X[3, 0] = np.nan
    with pytest.raises(ValueError, match="X holds NaN or infinity"):
        head.predict_proba(X)


def test_it_needs_no_torch() -> None:
    code = "import sys, headstart.training.trained_head; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
