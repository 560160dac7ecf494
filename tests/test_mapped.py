"""Maps before the head: what is tried and chosen, that scores stay out of sample, and runs with a map in all that is done with runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from conftest import draw
from headstart import FineTuning, FitSettings, TransferClassifier, fit, load
from headstart.backbones import Layer
from headstart.errors import ParameterError, RunError
from headstart.heads import HEADS, KernelRidgeHead, LogisticHead, NearestCentroidHead
from headstart.maps import KINDS, MAPS, FeatureMap, LinearDiscriminants
from headstart.onnx_graph import OnnxGraph
from headstart.selection import Candidate, HeadPipeline, choose_head, learning_curve, unfitted
from headstart.selection.mapped import CHOICES
from headstart.settings.fit import MAPS as ASKED

LAYERS = (Layer("first", 0, 16), Layer("last", 16, 40))
SLOW_DEEP = [pytest.param(kind, marks=pytest.mark.slow) if kind == "deep" else kind for kind in KINDS]
SMALL = {"mlp": {"epochs": 3, "hidden": 12}, "nystroem": {"components": 30}, "fourier": {"components": 60}}


def correlated(count: int, seed: int, *, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 40) of classes that differ little against a spread that they have in common, and labels."""
    generator, fixed = np.random.default_rng(seed), np.random.default_rng(5)
    centres, common = fixed.normal(size=(classes, 40)), fixed.normal(size=(25, 40)) * 3
    labels = np.arange(count) % classes
    features = centres[labels] + generator.normal(size=(count, 25)) @ common + 0.6 * generator.normal(size=(count, 40))
    return features.astype(np.float32), labels


def products(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 15), and the sign of the product of two of them: what a learned projection is for."""
    features = np.random.default_rng(seed).normal(size=(count, 15)).astype(np.float32)
    return features, (features[:, 3] * features[:, 11] > 0).astype(int)


def test_the_settings_name_all_kinds() -> None:
    assert ASKED == CHOICES == ("none", *KINDS, "auto")


def test_a_map_is_chosen_where_it_is_shown_to_gain() -> None:
    X, y = products(400, 0)
    other, truth = products(1000, 1)
    layers = (Layer("last", 0, 15),)
    plain, found = (choose_head(X, y, layers=layers, map=map_) for map_ in ("none", "auto"))
    best = found.evidence[0]
    assert (best.map, best.chosen) == ("gradients", True)
    assert {row.map for row in found.evidence} == {"none", *MAPS}
    assert {row.map for row in plain.evidence} == {"none"}
    assert next(row for row in found.evidence if row.map == "none").accuracy == pytest.approx(plain.evidence[0].accuracy)
    before, after = ((one.estimator.predict(other) == truth).mean() for one in (plain, found))
    assert after > before + 0.05
    assert best.accuracy == pytest.approx(after, abs=0.06)
    assert (found.out_of_sample.argmax(axis=1) == y).mean() == pytest.approx(best.accuracy, abs=0.03)
    assert "on a learned projection of the last layer" in found.reason


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_map_is_chosen_where_none_is_shown_to_gain(seed: int) -> None:
    generator = np.random.default_rng(seed)
    y = np.arange(150) % 3
    X = (np.eye(3, 40)[y] * 3 + generator.normal(size=(150, 40))).astype(np.float32)
    found = choose_head(X, y, layers=LAYERS, map="auto")
    assert found.evidence[0].map == "none"
    noise = choose_head(X, generator.integers(0, 2, 150), layers=LAYERS, map="auto")
    assert noise.evidence[0].map == "none"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_is_chosen(kind: str) -> None:
    X, y = correlated(120, 0)
    found = choose_head(X, np.array(["a", "b", "c", "d"])[y], layers=LAYERS, map=kind)
    assert found.evidence[0].map in KINDS[kind]
    assert {row.map for row in found.evidence} == {"none", *KINDS[kind]}
    assert set(found.estimator.predict(X)) == {"a", "b", "c", "d"}
    assert Candidate(**{**found.evidence[0].to_dict(), "layers": found.evidence[0].layers}) == found.evidence[0]


def test_a_head_that_is_asked_for_is_the_one_on_the_map() -> None:
    X, y = correlated(120, 0)
    found = choose_head(X, y, layers=LAYERS, map="linear", head="ridge")
    assert {row.head for row in found.evidence} == {"ridge"}
    assert type(found.estimator.head_) is HEADS["ridge"]


@pytest.mark.parametrize("kind", ["linear", pytest.param("deep", marks=pytest.mark.slow)])
def test_labels_that_have_nothing_to_do_with_the_features_cannot_be_told(kind: str) -> None:
    """With more features than images, what such a map makes of the images it has seen tells any labels apart."""
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(200, 300)).astype(np.float32), np.arange(200) % 2
    found = choose_head(X, y, layers=(Layer("last", 0, 300),), map=kind)
    for row in found.evidence:
        assert abs(row.accuracy - 0.5) < 0.12, row
        assert row.log_loss > 0.66
    assert abs((found.out_of_sample.argmax(axis=1) == y).mean() - 0.5) < 0.12
    assert (found.estimator.predict(X) == y).mean() > 0.9 or kind == "linear"
    assert np.abs(found.estimator.predict_proba(generator.normal(size=(50, 300)).astype(np.float32)) - 0.5).max() < 0.3


@pytest.mark.parametrize("name", MAPS)
def test_groups_never_stand_on_both_sides(name: str) -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 4)
    X = (generator.normal(size=(40, 24))[patients] + 0.1 * generator.normal(size=(160, 24))).astype(np.float32)
    y = generator.integers(0, 2, 40)[patients]
    head = LogisticHead()
    found = HeadPipeline(head=head, feature_map=MAPS[name](**SMALL.get(name, {})))
    right = {
        known: (found.clone().fit(X, y, groups=patients if known else None).out_of_sample_logits_.argmax(axis=1) == y).mean()
        for known in (True, False)
    }
    assert right[True] < 0.7
    assert right[False] > right[True] + 0.12


@pytest.mark.parametrize("kind", SLOW_DEEP)
def test_several_labels_and_class_weights(kind: str) -> None:
    X, y = correlated(200, 0)
    labels = np.stack([y == 0, y > 1, X[:, 0] > 0], axis=1)
    found = choose_head(X, labels, layers=LAYERS, map=kind, groups=np.arange(200) // 2)
    assert found.out_of_sample.shape == (200, 3)
    assert found.estimator.predict(X).shape == (200, 3)
    assert (found.estimator.predict(X) == labels).mean() > 0.75
    rare = np.flatnonzero((y == 0) | (np.arange(200) % 12 == 1))
    plain, balanced = (
        choose_head(X[rare], (y[rare] == 0).astype(int), layers=LAYERS, map=kind, class_weight=weight) for weight in (None, "balanced")
    )
    other, truth = correlated(400, 1)
    shares = [one.estimator.predict_proba(other[truth != 0])[:, 0].mean() for one in (plain, balanced)]
    assert shares[1] > shares[0]  # the rare class counts more


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("head", [LogisticHead(), KernelRidgeHead()], ids=["logistic", "kernel_ridge"])
def test_onnx_and_state_of_a_pipeline_give_the_same(name: str, head: LogisticHead) -> None:
    X, y = correlated(90, 0)
    fitted = HeadPipeline(head=head, feature_map=MAPS[name](**SMALL.get(name, {}))).fit(X, y)
    other = correlated(40, 1)[0]
    graph = OnnxGraph()
    graph.node("Identity", fitted.write_onnx(graph, "features"), output="logits")
    model = graph.model(inputs={"features": (np.float32, ["N", 40])}, outputs={"logits": (np.float32, ["N", 4])})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = fitted.logits(other)
    found = session.run(None, {"features": other})[0]
    np.testing.assert_allclose(found, expected, atol=1e-3 * max(1.0, float(np.abs(expected).max())))
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    settings, arrays = fitted.state()
    np.testing.assert_array_equal(HeadPipeline.from_state(json.loads(json.dumps(settings)), arrays).logits(other), expected)
    if name in ("lda", "gradients", "mlp"):
        assert settings["calibration"][0] > 0
        undone = fitted.uncalibrated(expected)
        assert undone is not None
        np.testing.assert_allclose(fitted.head_.logits(fitted.feature_map_.transform(fitted.map_.transform(other))), undone, atol=1e-9)


def test_folds_of_a_pipeline_calibrate_it() -> None:
    """A map that has seen the labels makes its head far too sure; by folds its confidence is what it is right about."""
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(300, 150)).astype(np.float32), np.arange(300) % 2
    X[:, 0] += y * 2
    other, truth = generator.normal(size=(2000, 150)).astype(np.float32), np.arange(2000) % 2
    other[:, 0] += truth * 2
    sure, known = (HeadPipeline(feature_map=LinearDiscriminants(shrinkage=0.1), folds=folds).fit(X, y) for folds in (0, 5))
    assert not hasattr(sure, "out_of_sample_logits_")
    assert (sure.predict(other) == known.predict(other)).mean() > 0.97  # but for a shift
    right = (known.predict(other) == truth).mean()
    assert known.predict_proba(other).max(axis=1).mean() == pytest.approx(right, abs=0.07)  # of which less in the folds
    assert sure.predict_proba(other).max(axis=1).mean() > right + 0.1


def test_weights_of_images_are_those_of_the_map_too() -> None:
    X, y = correlated(80, 0)
    weights = np.where(np.arange(80) < 60, 1.0, 0.0)
    some = HeadPipeline(head=NearestCentroidHead(), feature_map=LinearDiscriminants()).fit(X, y, weights)
    few = HeadPipeline(head=NearestCentroidHead(), feature_map=LinearDiscriminants()).fit(X[:60], y[:60])
    assert some.out_of_sample_logits_.shape == (60, 4)
    # the layers are standardised on all rows, as without a map
    assert (some.predict(X) == few.predict(X)).mean() > 0.95


def test_a_learning_curve_of_a_mapped_head() -> None:
    X, y = correlated(240, 0)
    choice = choose_head(X, y, layers=LAYERS, map="linear")
    curve = learning_curve(X, y, choice=choice, layers=LAYERS)
    assert curve.images[-1] == 192 if choice.evidence[0].in_folds else 240
    assert curve.accuracy[-1] > curve.accuracy[0]
    again = unfitted(choice.evidence[0], layers=LAYERS).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), choice.estimator.predict(X))


def test_a_saved_pipeline_with_an_unknown_map_is_refused() -> None:
    X, y = correlated(60, 0)
    settings, arrays = HeadPipeline(feature_map=LinearDiscriminants()).fit(X, y).state()
    settings["feature_map"]["name"] = "swirl"
    with pytest.raises(RunError, match="The saved map is 'swirl'; this version reads"):
        HeadPipeline.from_state(settings, arrays)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"map=.* is for the features of a frozen backbone, so it cannot be combined with a training"):
        FitSettings(map="linear", fine_tuning=FineTuning())
    with pytest.raises(ParameterError, match=r"map must be one of none, linear, kernel, deep, auto, got 'linaer'\. Did you mean linear"):
        FitSettings(map="linaer")
    images = np.stack([draw(kind % 2, kind) for kind in range(8)])
    with pytest.raises(ParameterError, match="cannot be combined with a training"):
        TransferClassifier(map="deep", fine_tuning=FineTuning()).fit(images, np.arange(8) % 2)


def test_a_mistyped_map_or_one_with_a_training_is_told_in_a_sentence(cli: Callable[..., SimpleNamespace], pictures: Path) -> None:
    done = cli("fit", pictures, "--map", "kernal")
    assert done.code == 2
    assert "--map must be one of none, linear, kernel, deep, auto, got 'kernal'. Did you mean kernel" in " ".join(done.err.split())
    done = cli("fit", pictures, "--map", "auto", "--strategy", "partial")
    assert done.code == 2
    assert "--map is for the features of a frozen backbone, so it cannot be combined with a training." in " ".join(done.err.split())


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=pytest.mark.slow) if kind != "kernel" else kind for kind in KINDS])
def mapped_run(request: pytest.FixtureRequest, pictures: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind of map; its folder has the name of the kind."""
    folder = tmp_path_factory.mktemp("mapped") / request.param
    fit(pictures, out=folder, settings=FitSettings(map=request.param, folds=2, class_weight="balanced", cache=cache))
    return folder


def test_a_run_with_a_map_is_a_run(mapped_run: Path) -> None:
    run, images = load(mapped_run), [draw(kind, 500 + kind) for kind in range(3)]
    with safe_open(mapped_run / "head.safetensors", framework="numpy") as opened:
        again = HeadPipeline.from_state(json.loads(opened.metadata()["head"]), load_file(mapped_run / "head.safetensors"))
    assert isinstance(again.feature_map_, FeatureMap)
    found = run.predict(images)
    features = np.stack([row for _, _, row in run.engine.run(iter(map(run.preprocessing, images)))])
    np.testing.assert_allclose(found.probabilities, again.predict_proba(features.astype(np.float32)), atol=1e-3)
    assert list(found.labels) == ["rings", "stripes", "checks"]
    kind, story = mapped_run.name, json.loads((mapped_run / "manifest.json").read_text(encoding="utf-8"))["story"]
    assert {row["map"] for row in story["evidence"]} == {"none", *KINDS[kind]}
    assert story["evidence"][0]["map"] == again.feature_map_.name
    assert again.feature_map_.title in story["head"]
    page = (mapped_run / "report.html").read_text(encoding="utf-8")
    assert all(f"{MAPS[name].title} of" in page for name in KINDS[kind])


def test_a_run_with_a_map_is_exported_and_explained(mapped_run: Path, tmp_path: Path) -> None:
    from headstart import explain
    from headstart.export import export

    export(load(mapped_run), tmp_path / "model.onnx")
    report = json.loads((tmp_path / "model.onnx.parity.json").read_text(encoding="utf-8"))
    assert len(report["compared"]) == 2
    assert all(one["same"] == 1.0 and one["difference"] < 1e-3 for one in report["compared"])
    (found,) = explain(mapped_run, [draw(0, 77)])
    assert found.heat.max() == 1.0


def test_an_estimator_with_a_map(cache: Path) -> None:
    images, labels = np.stack([draw(kind % 3, kind) for kind in range(36)]), np.array(["rings", "stripes", "checks"])[np.arange(36) % 3]
    made = TransferClassifier(map="linear", cache=cache).fit(images, labels)
    assert made.choice_.evidence[0].map in KINDS["linear"]
    assert made.score(np.stack([draw(kind % 3, 300 + kind) for kind in range(12)]), np.resize(["rings", "stripes", "checks"], 12)) > 0.9


def test_each_of_several_columns_of_labels_has_its_map(pictures: Path, cache: Path, tmp_path: Path) -> None:
    rows = [(path, path.parent.name, "round" if path.parent.name == "rings" else "straight") for path in sorted(pictures.glob("*/*.png"))]
    listed = tmp_path / "two.csv"
    listed.write_text("path,shape,form\n" + "\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
    result = fit(listed, out=tmp_path / "run", settings=FitSettings(labels=("shape", "form"), map="linear", cache=cache))
    chosen = {row.column: row.map for row in result.choice.evidence if row.chosen}
    assert chosen.keys() == {"shape", "form"}
    assert set(chosen.values()) <= set(KINDS["linear"])
    images = [path for path, _, _ in rows[::7]]
    found = load(tmp_path / "run").predict(images).labels
    assert np.mean([label == path.parent.name for label, path in zip(found["shape"], images, strict=True)]) > 0.8
    assert set(found["form"]) <= {"round", "straight"}


def test_a_map_is_kept_when_adapting() -> None:
    from headstart.adaptation.adapt import Source, adapt
    from headstart.heads.labels import encode

    X, y = correlated(160, 0)
    other, truth = correlated(120, 1)
    choice = choose_head(X, y, layers=LAYERS, map="linear")
    source = Source(features=X, targets=encode(y), choice=choice, layers=LAYERS)
    found = adapt(source, other * 2 + 3, method="coral")
    assert found.record.methods == ("coral",)
    assert (found.choice.estimator.predict(other * 2 + 3) == truth).mean() > 0.6
