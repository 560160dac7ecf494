"""Outliers: what does not belong to its class is ranked first, clean data have few, and a few strangers cannot hide one another."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from headstart.audit.outliers import find_outliers, rank_outliers, standardised
from headstart.backbones import Layer
from headstart.data import Dataset, class_targets
from headstart.errors import ParameterError


def two_classes(count: int = 150, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of two classes in 40 dimensions, of unequal spread."""
    random = np.random.default_rng(seed)
    first, second = random.normal(0, 1, (count, 40)), random.normal(4, 0.3, (count, 40))
    return np.concatenate([first, second]).astype(np.float32), np.repeat([0, 1], count)


def dataset(targets: np.ndarray) -> Dataset:
    images = np.zeros((len(targets), 8, 8, 3), np.uint8)
    return Dataset(images, class_targets(targets, ("cat", "dog")), np.array([""] * len(targets)))


@pytest.mark.parametrize("seed", range(5))
def test_clean_data_have_next_to_none(seed: int) -> None:
    assert len(rank_outliers(*two_classes(seed=seed)).rows) <= 1


def test_strangers_come_first_though_there_are_several_of_a_kind() -> None:
    features, targets = two_classes()
    features[[3, 40, 77, 149]] = 12 + np.random.default_rng(1).normal(0, 0.01, (4, 40))
    features[200] = -3
    assert set(rank_outliers(features, targets).rows[:5].tolist()) == {3, 40, 77, 149, 200}


def test_each_class_has_its_own_measure() -> None:
    features, targets = two_classes()
    features[160] = 4 + np.random.default_rng(2).normal(0, 1, 40)  # ordinary in the wide class, strange in the narrow one
    assert rank_outliers(features, targets).rows[0] == 160


def test_distances_are_those_of_scikit_learn() -> None:
    features, targets = two_classes(1200)
    outliers = rank_outliers(features, targets)
    for label in (0, 1):
        rows = np.flatnonzero(targets == label)
        distances, _ = NearestNeighbors(n_neighbors=10).fit(standardised(features)[rows]).kneighbors()
        logs = np.log(distances.mean(axis=1))
        upper = (logs - np.median(logs))[logs >= np.median(logs)]
        np.testing.assert_allclose(outliers.score[rows], (logs - np.median(logs)) / (1.4826 * np.median(upper)), atol=2e-2)


def test_layers_count_the_same_and_leave_the_other_columns_out() -> None:
    random = np.random.default_rng(3)
    features = random.normal(size=(100, 12)).astype(np.float32)
    layers = [Layer("a", 0, 2), Layer("b", 2, 10)]
    values = standardised(features, layers)
    assert values.shape == (100, 10)
    np.testing.assert_allclose(values[:, :2].var(axis=0).sum(), 1, rtol=1e-4)
    np.testing.assert_allclose(values[:, 2:].var(axis=0).sum(), 1, rtol=1e-4)
    features[:, 10:] *= 1000
    np.testing.assert_array_equal(standardised(features, layers), values)
    assert np.isfinite(standardised(np.ones((5, 3), np.float32))).all()


def test_small_classes_are_passed_over() -> None:
    features, targets = two_classes()
    targets[:10] = 1
    targets[10:150] = np.repeat(np.arange(2, 16), 10)
    score = rank_outliers(features, targets).score
    assert np.isnan(score[10:150]).all()
    assert np.isfinite(score[150:]).all()


def test_equal_images() -> None:
    assert len(rank_outliers(np.ones((50, 4), np.float32), np.zeros(50, int)).rows) == 0


def test_the_finding() -> None:
    features, targets = two_classes()
    assert all(finding.count <= 1 for finding in find_outliers(dataset(targets), features))
    features[200] = -9
    features[20] = 30
    finding = find_outliers(dataset(targets), features)[0]
    assert (finding.kind, finding.severity) == ("outliers", "note")
    assert finding.count >= 2
    assert {example.split(":")[0] for example in finding.examples[:2]} == {"array[20] (cat)", "array[200] (dog)"}
    assert "images are unlike the rest of their class" in finding.message


def test_several_labels_are_one_class() -> None:
    features = two_classes()[0][:150]
    features[7] = 20
    several = np.zeros((150, 2), bool)
    finding = find_outliers(dataset(several), features)[0]
    assert "unlike the other images" in finding.message
    assert finding.examples[0].startswith("array[7]:")


def test_what_does_not_fit() -> None:
    features, targets = two_classes()
    with pytest.raises(ParameterError, match="features of 300 images and targets of 299"):
        rank_outliers(features, targets[1:])
    with pytest.raises(ParameterError, match="layer last has the columns 30 to 50, but there are 40"):
        rank_outliers(features, targets, layers=[Layer("last", 30, 50)])
