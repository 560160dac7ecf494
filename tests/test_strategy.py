"""Choosing layers and head: what wins where it must win, honesty, determinism, and what is said."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from headstart.errors import DataError, ParameterError, RunError
from headstart.heads import Head, KernelRidgeHead, LogisticHead, NearestCentroidHead, NearestNeighboursHead, RidgeHead
from headstart.heads.labels import encode
from headstart.maps import LayerMap
from headstart.onnx_graph import OnnxGraph
from headstart.selection import HEADS, Candidate, HeadPipeline, choose_head
from headstart.selection.candidates import Trial, views
from headstart.selection.choose import pick


@dataclass(frozen=True)
class Layer:
    name: str
    start: int
    stop: int


LAYERS = (Layer("stage1", 0, 8), Layer("stage2", 8, 20), Layer("last", 20, 52))
SLICES = tuple((layer.name, layer.start, layer.stop) for layer in LAYERS)
Array = npt.NDArray[Any]


def layered(n: int, k: int, *, where: str, seed: int = 0, noise: float = 1.0) -> tuple[Array, Array]:
    """Features whose labels show in one layer only."""
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.arange(n) % k)
    X = generator.normal(size=(n, 52)) * noise
    layer = next(layer for layer in LAYERS if layer.name == where)
    centres = np.random.default_rng(99).normal(size=(k, layer.stop - layer.start)) * 2
    X[:, layer.start : layer.stop] += centres[y]
    return X.astype(np.float32), y


@pytest.mark.parametrize("where", ["stage1", "stage2", "last"])
def test_finds_the_layers_that_know(where: str) -> None:
    X, y = layered(240, 3, where=where)
    choice = choose_head(X, y, layers=LAYERS)
    names = next(candidate.layers for candidate in choice.evidence if candidate.chosen)
    assert where in names
    fresh, truth = layered(300, 3, where=where, seed=1)
    assert (choice.estimator.predict(fresh) == truth).mean() > 0.95


@pytest.mark.parametrize("head", HEADS)
def test_every_head_can_be_asked_for(head: str) -> None:
    X, y = layered(120, 3, where="stage2")
    choice = choose_head(X, np.array(["a", "b", "c"])[y], layers=LAYERS, head=head)
    assert (choice.estimator.predict(X) == np.array(["a", "b", "c"])[y]).mean() > 0.9
    assert choice.out_of_sample.shape == (120, 3)
    assert sum(candidate.chosen for candidate in choice.evidence) == 1
    assert choice.evidence[0].chosen
    if head != "auto":
        assert {candidate.head for candidate in choice.evidence} == {head}


def test_evidence_says_what_was_measured() -> None:
    X, y = layered(200, 4, where="stage1", noise=1.5)
    choice = choose_head(X, y, layers=LAYERS)
    best = choice.evidence[0]
    right = choice.out_of_sample.argmax(axis=1) == y
    assert best.images == 200
    assert best.accuracy == pytest.approx(right.mean(), abs=0.02)
    assert best.accuracy_error == pytest.approx(np.sqrt(best.accuracy * (1 - best.accuracy) / 200), rel=1e-6)
    assert best.seconds > 0
    assert f"{best.accuracy:.1%} right out of sample on 200 training images" in choice.reason
    assert choice.reason.endswith(".")
    assert Candidate(**{**best.to_dict(), "layers": best.layers, "weights": best.weights}) == best


def test_out_of_sample_scores_are_honest() -> None:
    """Labels that have nothing to do with the features cannot be told out of sample."""
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(300, 52)).astype(np.float32), generator.integers(0, 2, 300)
    choice = choose_head(X, y, layers=LAYERS)
    assert abs((choice.out_of_sample.argmax(axis=1) == y).mean() - 0.5) < 0.12


@pytest.mark.parametrize("head", ["auto", "logistic", "ridge", "neighbours"])
def test_groups_never_stand_on_both_sides(head: str) -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 4)
    y = np.repeat(generator.integers(0, 2, 60), 4)
    X = (generator.normal(size=(60, 52))[patients] * 3 + 0.05 * generator.normal(size=(240, 52))).astype(np.float32)
    loose = choose_head(X, y, layers=LAYERS, head=head)
    strict = choose_head(X, y, layers=LAYERS, head=head, groups=np.array([f"patient {p}" for p in patients]))
    assert (loose.out_of_sample.argmax(axis=1) == y).mean() > 0.95
    assert (strict.out_of_sample.argmax(axis=1) == y).mean() < 0.7


def test_the_same_seed_gives_the_same_bits() -> None:
    X, y = layered(1500, 4, where="stage2", noise=2.0)
    first, second = (choose_head(X, y, layers=LAYERS, seed=3) for _ in range(2))
    one, two = first.estimator.state()[1], second.estimator.state()[1]
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert first.out_of_sample.tobytes() == second.out_of_sample.tobytes()


def test_many_images_are_screened_on_few() -> None:
    X, y = layered(2600, 3, where="stage1", noise=2.0)
    choice = choose_head(X, y, layers=LAYERS)
    assert choice.evidence[0].images == 2000
    assert any(candidate.images < 1100 for candidate in choice.evidence)
    assert choice.out_of_sample.shape == (2600, 3)


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 1], [0, 1, 2, 3], [0, 0, 1, 1], [0] * 10 + [1], [0, 1] * 5 + [2]])
@pytest.mark.parametrize("head", HEADS)
def test_very_small_sets_work(labels: list[int], head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.heads.mlp._LEAST", 60)  # steps, for the sake of time
    X = np.random.default_rng(0).normal(size=(len(labels), 52)).astype(np.float32)
    choice = choose_head(X, labels, layers=LAYERS, head=head)
    assert np.isfinite(choice.estimator.predict_proba(X)).all()
    assert np.isfinite(choice.out_of_sample).all()


def test_constant_features_work() -> None:
    choice = choose_head(np.ones((12, 52), dtype=np.float32), [0, 1, 1] * 4, layers=LAYERS)
    np.testing.assert_allclose(choice.estimator.predict_proba(np.ones((1, 52), dtype=np.float32)).sum(), 1)


def test_one_layer_only() -> None:
    X, y = layered(90, 3, where="stage1")
    choice = choose_head(X[:, :8], y, layers=LAYERS[:1])
    assert {candidate.layers for candidate in choice.evidence} == {("stage1",)}


def test_several_labels() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(400, 52)).astype(np.float32)
    y = X[:, :3] + 0.3 * generator.normal(size=(400, 3)) > 0.4
    choice = choose_head(X[:200], y[:200], layers=LAYERS)
    assert (choice.estimator.predict(X[200:]) == y[200:]).mean() > 0.8
    assert choice.out_of_sample.shape == (200, 3)


def test_class_weights_reach_the_head() -> None:
    X, y = layered(400, 2, where="stage1", noise=4)
    kept = np.flatnonzero((y == 0) | (np.arange(400) % 10 == 0))
    plain = choose_head(X[kept], y[kept], layers=LAYERS).estimator.predict(X)
    balanced = choose_head(X[kept], y[kept], layers=LAYERS, class_weight="balanced").estimator.predict(X)
    assert balanced.sum() > plain.sum()


def test_pipeline_in_onnx_and_state() -> None:
    X, y = layered(150, 3, where="stage2")
    choice = choose_head(X, y, layers=LAYERS)
    graph = OnnxGraph()
    graph.node("Identity", choice.estimator.write_onnx(graph, "features"), output="logits")
    model = graph.model(inputs={"features": (np.float32, ["N", 52])}, outputs={"logits": (np.float32, ["N", 3])})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"features": X})[0], choice.estimator.logits(X), rtol=1e-3, atol=1e-3)
    again = HeadPipeline.from_state(*choice.estimator.state())
    np.testing.assert_array_equal(again.predict_proba(X), choice.estimator.predict_proba(X))
    with pytest.raises(RunError, match="lacks its settings"):
        HeadPipeline.from_state({}, {})


class Memory(dict[str, bytes]):
    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        return self[key] if key in self else self.setdefault(key, compute())


def test_a_cached_choice_is_the_same_again() -> None:
    X, y = layered(90, 3, where="stage2")
    labels = np.array(["a", "b", "c"])[y]
    memory = Memory()
    first = choose_head(X, labels, layers=LAYERS, cached=memory.cached)
    second = choose_head(X, labels, layers=LAYERS, cached=memory.cached)
    assert len(memory) == 1
    assert second.evidence == first.evidence
    assert second.reason == first.reason
    np.testing.assert_array_equal(second.out_of_sample, first.out_of_sample)
    np.testing.assert_array_equal(second.estimator.predict_proba(X), first.estimator.predict_proba(X))
    np.testing.assert_array_equal(second.estimator.classes_, first.estimator.classes_)


def test_the_key_of_a_cached_choice_covers_everything() -> None:
    X, y = layered(60, 3, where="stage2")
    memory = Memory()
    choose_head(X, y, layers=LAYERS, cached=memory.cached)
    other = X.copy()
    other[0, 0] += 1
    choose_head(other, y, layers=LAYERS, cached=memory.cached)
    choose_head(X, y[::-1].copy(), layers=LAYERS, cached=memory.cached)
    choose_head(X, y, layers=LAYERS, cached=memory.cached, seed=1)
    choose_head(X, y, layers=LAYERS, cached=memory.cached, head="ridge")
    choose_head(X, y, layers=LAYERS, cached=memory.cached, class_weight="balanced")
    choose_head(X, y, layers=LAYERS, cached=memory.cached, groups=np.arange(60) // 2)
    choose_head(X, y, layers=LAYERS[1:], cached=memory.cached)
    assert len(memory) == 8


def test_progress_ends_at_all() -> None:
    seen: list[tuple[int, int]] = []
    choose_head(*layered(60, 3, where="last"), layers=LAYERS, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_simpler_wins_where_the_difference_is_within_its_error() -> None:
    generator = np.random.default_rng(0)
    targets = encode(generator.integers(0, 2, 200))
    logits = np.where(targets.indicators, 1.5, -1.5) + generator.normal(size=(200, 2))
    simple, last = views(SLICES)[0], views(SLICES)[2]
    better = logits + 0.05 * generator.normal(size=logits.shape)
    kernel, linear = Trial(last, "kernel_ridge", {}, targets, logits, 0.1), Trial(simple, "logistic", {}, targets, better, 0.1)
    assert pick([kernel, linear]) is linear
    worse = Trial(simple, "logistic", {}, targets, 0.3 * logits, 0.1)
    assert pick([kernel, worse]) is kernel


def test_views_of_other_backbones() -> None:
    assert [view.name for view in views(SLICES[2:])] == ["the last layer"]
    for view in views(SLICES):
        assert view.weights is None or len(view.weights) == len(view.layers)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"head": "kernel"}, ParameterError, r"head must be one of auto, logistic.*got 'kernel'\. Did you mean kernel_ridge"),
        ({"y": [0] * 30}, DataError, "images of at least two classes; all 30 have the one class"),
        ({"y": [0, 1]}, DataError, "30 feature vectors and 2 labels"),
        ({"groups": [0, 1]}, DataError, "30 feature vectors and 2 groups"),
        ({"layers": ()}, ParameterError, "layers is empty"),
        ({"layers": (Layer("last", 0, 99),)}, ParameterError, "layer 'last' is columns 0 to 99, outside of the 52 features"),
        ({"X": np.zeros((0, 52))}, DataError, r"got the shape \(0, 52\)"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    X, y = layered(30, 3, where="last")
    arguments: dict[str, Any] = {"X": X, "y": y, "layers": LAYERS} | changes
    with pytest.raises(error, match=message):
        choose_head(arguments.pop("X"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(value: float) -> None:
    X, y = layered(30, 3, where="last")
    X[4, 7] = value
    with pytest.raises(DataError, match=r"1 of 30 feature vectors hold NaN or infinite values \(the first is number 4\)"):
        choose_head(X, y, layers=LAYERS)


def test_large_kernel_machines_are_the_same_head() -> None:
    X, y = layered(300, 3, where="stage1")
    head = KernelRidgeHead(exact_up_to=100, landmarks=80)
    assert (head.fit(X, y).predict(X) == y).mean() > 0.9


@pytest.mark.parametrize(
    "head",
    [
        LogisticHead(),
        RidgeHead(),
        pytest.param(KernelRidgeHead(landmarks=400), marks=pytest.mark.slow),
        pytest.param(NearestNeighboursHead(), marks=pytest.mark.slow),
        pytest.param(NearestCentroidHead(), marks=pytest.mark.slow),
        "ridge",
    ],
    ids=str,
)
def test_working_memory_grows_by_little_more_than_the_features(head: Head | str) -> None:
    few = 6_500 if isinstance(head, NearestNeighboursHead) else 4_000  # from where on all works in blocks
    X = np.random.default_rng(0).normal(size=(2 * few, 256)).astype(np.float32)
    y = np.arange(len(X)) % 2
    X[:, :20] += y[:, None]

    def peak(n: int) -> int:
        tracemalloc.start()
        if isinstance(head, str):
            choose_head(X[:n], y[:n], layers=[Layer("last", 0, X.shape[1])], head=head)
        else:
            HeadPipeline(LayerMap(), head).fit(X[:n], y[:n])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)  # what is imported and kept at the first call
    grown = peak(len(X)) - peak(few)
    assert grown < 1.5 * (X.nbytes - X[:few].nbytes)
