"""Unlike: Gaussians and neighbours against closed forms and scikit-learn, the threshold on fresh images, and foreign images noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from headstart.errors import ParameterError, RunError
from headstart.metrics import roc_auc
from headstart.reliability import Novelty, novelty
from headstart.reliability.novelty import Gaussian, Neighbourhood, principal_axes

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    name: str
    start: int
    stop: int


LAYERS = (Layer("early", 0, 12), Layer("middle", 12, 36), Layer("last", 36, 136))


def features(n: int, *, seed: int, world: int = 0, classes: int = 3) -> tuple[Array, Array]:
    """Features of a world of its own: classes on a subspace, with noise around it."""
    place = np.random.default_rng(1000 + world)
    centres, directions = place.normal(size=(classes, 136)) * 1.5, place.normal(size=(10, 136))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    values = centres[y] + rng.normal(size=(n, 10)) @ directions * 0.5 + rng.normal(size=(n, 136)) * 0.3
    return np.maximum(values + 1, 0).astype(np.float32), y


def area(own: Array, foreign: Array) -> float:
    labels = np.repeat([False, True], [len(own), len(foreign)])
    return float(roc_auc(labels, np.concatenate([own, foreign]))[0])


# the parts


@pytest.mark.parametrize("d", [30, 400])
def test_principal_axes_are_those_of_scikit_learn(d: int) -> None:
    """Both ways, of few features and of many; the axes' variances fall fast enough for them to be the same axes."""
    rng = np.random.default_rng(0)
    n, count = 300, 8
    values = (rng.normal(size=(n, 20)) * 0.7 ** np.arange(20)) @ np.linalg.qr(rng.normal(size=(d, 20)))[0].T
    values = (values + 0.001 * rng.normal(size=(n, d))).astype(np.float32)
    values -= values.mean(axis=0)
    found = principal_axes(values, count, seed=0)
    expected = PCA(count, svd_solver="full").fit(values).components_
    assert found.T @ found == pytest.approx(np.eye(count), abs=1e-4)
    assert np.abs((found * expected.T).sum(axis=0)) == pytest.approx(np.ones(count), abs=1e-3)


def test_axes_are_no_more_than_the_images_can_tell() -> None:
    assert principal_axes(np.random.default_rng(0).normal(size=(12, 50)).astype(np.float32), 20, seed=0).shape == (50, 4)


def test_distances_from_a_gaussian_are_mahalanobis(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all axes and hardly any floor or ridge."""
    monkeypatch.setattr(novelty, "FLOOR", 0.0)
    monkeypatch.setattr(novelty, "RIDGE", 1e-6)
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(500, 10)) @ rng.normal(size=(10, 10)) + 3).astype(np.float32)
    found = Gaussian.fit(values, 2, 8, seed=0).distances(values)
    part = values[:, 2:8].astype(np.float64)
    centred = part - part.mean(axis=0)
    expected = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(centred.T @ centred / 500), centred)
    assert found == pytest.approx(expected, rel=1e-2)
    assert found.mean() == pytest.approx(6, rel=1e-3)  # the number of features


def test_what_lies_across_the_axes_counts() -> None:
    rng = np.random.default_rng(0)
    values = np.zeros((300, 200), dtype=np.float32)
    values[:, :20] = rng.normal(size=(300, 20))
    values[:, 20:] = 0.05 * rng.normal(size=(300, 180))
    gaussian = Gaussian.fit(values, 0, 200, seed=0)
    outside = np.zeros((1, 200), dtype=np.float32)
    direction = np.random.default_rng(1).normal(size=200)
    direction -= gaussian.axes @ (gaussian.axes.T @ direction)
    outside[0] = gaussian.mean + gaussian.scale * direction / np.linalg.norm(direction) * 50
    assert gaussian.distances(outside)[0] > 3 * gaussian.distances(values).max()


def test_a_feature_that_never_varies_does_no_harm() -> None:
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    values[:, 3] = 7
    assert np.isfinite(Gaussian.fit(values, 0, 6, seed=0).distances(values)).all()
    assert np.isfinite(Gaussian.fit(values[:, 3:4], 0, 1, seed=0).distances(values[:, 3:4] + 1)).all()


def test_neighbours_are_those_of_scikit_learn_by_angle() -> None:
    """Few features: all axes are kept, and the distances are exact but for float16."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 40)).astype(np.float32)
    fresh = rng.normal(size=(30, 40)).astype(np.float32)
    places, squares, _ = Neighbourhood.fit(values, np.arange(200), 0, 40, seed=0).nearest(fresh, 4)
    distances = np.sqrt(squares)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    expected, nearest = NearestNeighbors(n_neighbors=4).fit(unit).kneighbors(fresh / np.linalg.norm(fresh, axis=1, keepdims=True))
    assert distances == pytest.approx(expected, abs=2e-3)
    assert (places == nearest).mean() > 0.95  # float16 may swap two that are equally far


def test_mean_distance_counts_what_the_axes_leave_out() -> None:
    """400 features, 128 axes at most: against the exact distances of the whole vectors."""
    rng = np.random.default_rng(0)
    values, fresh = rng.normal(size=(300, 400)).astype(np.float32), rng.normal(size=(50, 400)).astype(np.float32)
    found = Neighbourhood.fit(values, np.arange(300), 0, 400, seed=0).distances(fresh, 300)
    unit, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (values, fresh))
    expected = np.linalg.norm(other[:, None] - unit[None], axis=2).mean(axis=1)
    assert found == pytest.approx(expected, rel=0.01)


# the whole


@pytest.mark.parametrize("n", [60, 300, 1500])
def test_refuses_about_the_share_asked_for_of_fresh_images(n: int) -> None:
    """Mean over fits; distances of the images that were fitted themselves would give a threshold that refuses far more."""
    shares = []
    for seed in range(6):
        X, y = features(n, seed=seed)
        fitted = Novelty.fit(X, y, layers=LAYERS, refused_share=0.05, seed=seed)
        shares.append(fitted(features(2000, seed=100 + seed)[0]).mean())
    assert 0.015 < np.mean(shares) < 0.07


def test_another_world_is_noticed_and_noise_in_any_layer() -> None:
    X, y = features(600, seed=0)
    fitted = Novelty.fit(X, y, layers=LAYERS)
    own = features(500, seed=1)[0]
    score = fitted.score(own)
    assert area(score, fitted.score(features(300, seed=2, world=1)[0])) > 0.99
    for number, layer in enumerate(LAYERS):
        changed = own.copy()
        changed[:, layer.start : layer.stop] += np.random.default_rng(3).normal(size=(500, layer.stop - layer.start)) * 5
        assert area(fitted.parts(own)[:, number], fitted.parts(changed)[:, number]) > 0.99, layer.name
        assert area(score, fitted.score(changed)) > 0.6, layer.name
    assert (fitted(own) == (score > fitted.threshold)).all()


def test_groups_are_left_out_together() -> None:
    """Ten near-copies of each image: left out alone, every image would have its copies as neighbours, and new images would be refused."""
    rng = np.random.default_rng(0)
    base, y = features(60, seed=0)
    X = np.repeat(base, 10, axis=0) + rng.normal(size=(600, 136)).astype(np.float32) * 0.01
    groups = np.repeat([f"patient {number}" for number in range(60)], 10)
    fresh = features(1000, seed=5)[0]
    targets = np.repeat(y, 10)
    assert Novelty.fit(X, targets, layers=LAYERS, groups=groups)(fresh).mean() < 0.1
    assert Novelty.fit(X, targets, layers=LAYERS)(fresh).mean() > 0.5


def test_one_single_group_is_as_none() -> None:
    X, y = features(80, seed=0)
    one = Novelty.fit(X, y, layers=LAYERS, groups=np.array(["all"] * 80))
    assert one.threshold == Novelty.fit(X, y, layers=LAYERS).threshold


def test_images_that_the_network_was_tuned_on_do_not_set_the_threshold() -> None:
    """Their features are drawn together, as fine-tuning does; a threshold from them would refuse nearly all others."""
    X, y = features(2000, seed=0)
    tuned = np.arange(2000) < 1900
    X[tuned] = X[tuned].mean(axis=0) + 0.2 * (X[tuned] - X[tuned].mean(axis=0))
    fresh = features(500, seed=1)[0]
    logits = np.where(tuned[:, None], np.nan, np.zeros((2000, 3)))
    assert Novelty.fit(X, y, layers=LAYERS, logits=logits, refused_share=0.06)(fresh).mean() < 0.12
    assert Novelty.fit(X, y, layers=LAYERS, refused_share=0.06)(fresh).mean() > 0.5


def test_an_image_is_its_own_nearest_and_neighbours_are_of_its_class() -> None:
    X, y = features(300, seed=0)
    fitted = Novelty.fit(X, y, layers=LAYERS)
    found, distances = fitted.nearest(X, 3)
    assert (found[:, 0] == np.arange(300)).all()
    assert distances[:, 0] == pytest.approx(np.zeros(300), abs=0.002)
    assert (np.diff(distances, axis=1) >= 0).all()
    fresh, truth = features(200, seed=1)
    assert (y[fitted.nearest(fresh, 1)[0][:, 0]] == truth).mean() > 0.98


def test_positions_are_those_of_the_images_given_when_not_all_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "MOST", 100)
    X, y = features(400, seed=0)
    fitted = Novelty.fit(X, y, layers=LAYERS)
    found, distances = fitted.nearest(X, 1)
    same = distances[:, 0] < 0.002  # the rounding of float16
    assert same.sum() == 100
    assert (found[same, 0] == np.flatnonzero(same)).all()


def test_images_come_out_alike_alone_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = features(200, seed=0)
    fitted = Novelty.fit(X, y, layers=LAYERS)
    whole, places = fitted.score(X), fitted.nearest(X, 2)[0]
    monkeypatch.setattr(novelty, "BLOCK", 7)
    assert fitted.score(X) == pytest.approx(whole, rel=1e-4, abs=1e-4)
    assert (fitted.nearest(X, 2)[0] == places).mean() > 0.99
    assert fitted.score(X[:0]).shape == (0,)
    assert fitted.nearest(X[:0], 2)[0].shape == (0, 2)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_images_are_enough_to_begin_with(n: int) -> None:
    X, y = features(n, seed=0)
    fitted = Novelty.fit(X, y, layers=LAYERS)
    assert np.isfinite(fitted.score(features(20, seed=1)[0])).all()
    assert fitted.nearest(X, 50)[0].shape == (n, n)


def test_identical_images_do_no_harm() -> None:
    fitted = Novelty.fit(np.ones((40, 136), dtype=np.float32), np.zeros(40), layers=LAYERS)
    assert not fitted(np.ones((3, 136), dtype=np.float32)).any()
    assert fitted(np.random.default_rng(0).normal(size=(3, 136))).all()


def test_several_labels_an_image_are_taken() -> None:
    X, _ = features(100, seed=0)
    assert Novelty.fit(X, np.ones((100, 4), dtype=bool), layers=LAYERS)(features(400, seed=1)[0]).mean() < 0.15


def test_the_same_seed_gives_the_same() -> None:
    X, y = features(300, seed=0)
    first, second = (Novelty.fit(X, y, layers=LAYERS, seed=3).state() for _ in range(2))
    assert first[0] == second[0]
    assert all((first[1][name] == second[1][name]).all() for name in first[1])


def test_survives_being_written() -> None:
    from safetensors.numpy import load, save

    X, y = features(300, seed=0)
    fitted = Novelty.fit(X, y, layers=LAYERS)
    settings, arrays = fitted.state()
    written = load(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    again = Novelty.from_state(json.loads(json.dumps(settings)), written)
    fresh = features(100, seed=1)[0]
    assert (again.score(fresh) == fitted.score(fresh)).all()
    assert (again(fresh) == fitted(fresh)).all()
    assert all((one == two).all() for one, two in zip(again.nearest(fresh, 3), fitted.nearest(fresh, 3), strict=True))


def test_what_is_kept_of_many_images_is_small() -> None:
    rng = np.random.default_rng(0)
    layers = (Layer("a", 0, 300), Layer("last", 300, 1580))
    _, arrays = Novelty.fit(rng.normal(size=(2000, 1580)).astype(np.float32), np.zeros(2000), layers=layers).state()
    assert sum(array.nbytes for array in arrays.values()) < 2 << 20


def test_needs_nothing_but_numpy() -> None:
    code = (
        "import sys, headstart.reliability;"
        "print(*sorted({n.split('.')[0] for n in sys.modules} & {'sklearn', 'scipy', 'torch', 'onnx', 'matplotlib', 'PIL'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


# what is refused


def _state() -> tuple[dict[str, Any], dict[str, Array]]:
    X, y = features(60, seed=0)
    return Novelty.fit(X, y, layers=LAYERS).state()


@pytest.mark.parametrize("lost", ["layer0.axes", "near.points", "near.rows"])
def test_a_lost_array_is_named(lost: str) -> None:
    settings, arrays = _state()
    del arrays[lost]
    with pytest.raises(RunError, match=f"damaged: '{lost.split('.')[1]}' is missing"):
        Novelty.from_state(settings, arrays)


@pytest.mark.parametrize(
    ("entries", "arrays", "message"),
    [
        ({"threshold": None}, {}, "damaged"),
        ({"centre": [0.0]}, {}, "'centre' or 'spread'"),
        ({"layers": []}, {}, "damaged"),
        ({"features": 100}, {}, "'layers' is missing or wrong"),
        ({}, {"near.rest": np.zeros(3, np.float32)}, "the points of the nearest images"),
        ({}, {"near.mean": np.zeros(3, np.float32)}, "the axes of the nearest images"),
        ({}, {"layer1.variance": np.zeros(25, np.float32)}, "the variance of a layer"),
        ({}, {"layer1.scale": np.zeros(3, np.float32)}, "the Gaussian of a layer"),
    ],
)
def test_damage_is_named(entries: dict[str, Any], arrays: dict[str, Array], message: str) -> None:
    settings, kept = _state()
    with pytest.raises(RunError, match=message):
        Novelty.from_state(settings | entries, kept | arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((1, 136))}, "two images at least"),
        ({"features": np.zeros(136)}, "two images at least"),
        ({"features": np.full((20, 136), np.nan)}, "NaN or infinite"),
        ({"targets": np.zeros(3)}, "20 feature vectors and 3 targets"),
        ({"groups": np.zeros(3)}, "20 feature vectors and 3 groups"),
        ({"logits": np.zeros((3, 2))}, r"a row for each of 20 images, and have \(3, 2\)"),
        ({"refused_share": 3}, r"refused_share must be a number above 0 and below 1, got 3"),
        ({"layers": ()}, "at least one"),
        ({"layers": (Layer("far", 130, 140),)}, "slices of the 136 features"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    X, y = features(20, seed=0)
    given = {"features": X, "targets": y, "layers": LAYERS} | change
    with pytest.raises(ParameterError, match=message):
        Novelty.fit(given.pop("features"), given.pop("targets"), **given)


def test_refuses_features_of_another_backbone_and_no_neighbours() -> None:
    X, y = features(60, seed=0)
    fitted = Novelty.fit(X, y, layers=LAYERS)
    for call in (fitted.score, fitted, lambda values: fitted.nearest(values, 1)):
        with pytest.raises(ParameterError, match=r"\(images, 136\), as the backbone of the fit gives them, and have \(60, 100\)"):
            call(X[:, :100])
    for count in (0, True):
        with pytest.raises(ParameterError, match="count must be a whole number of at least 1, got"):
            fitted.nearest(X, count)
