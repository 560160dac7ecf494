"""Scores of anomaly detection against scikit-learn, a plain reference of AUPRO, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import f1_score, roc_auc_score

from headstart.metrics.anomaly import PixelStatistics, best_f1, bin_edges, pixel_intervals

RANDOM = np.random.default_rng(0)


def made(count: int = 12, side: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks of images, every third of which is good, with a few defects of different sizes."""
    masks = np.stack([gaussian_filter(RANDOM.normal(size=(side, side)), 3) > 0.13 for _ in range(count)])
    masks[::3] = False
    maps = np.stack([gaussian_filter(RANDOM.normal(size=(side, side)) + 2.5 * mask, 1.5) for mask in masks])
    return maps, masks


def statistics(maps: np.ndarray, masks: np.ndarray) -> PixelStatistics:
    return PixelStatistics.of(zip(maps, masks, strict=True), edges=bin_edges(maps[~masks], maps[masks]))


def reference_pro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """The definition, threshold by threshold."""
    regions = [label(mask, np.ones((3, 3))) for mask in masks]
    curve = [(0.0, 0.0)]
    for threshold in np.sort(np.unique(maps))[::-1]:
        above = maps >= threshold
        shares = [above[i][of == k].mean() for i, (of, count) in enumerate(regions) for k in range(1, count + 1)]
        curve.append((above[~masks].mean(), np.mean(shares)))
        if curve[-1][0] > limit:
            break
    x, y = np.transpose(curve)
    end = np.interp(limit, x, y)
    x, y = np.append(x[:-1], limit), np.append(y[:-1], end)
    return float(np.trapezoid(y, x) / limit)


def test_areas_are_those_of_references() -> None:
    maps, masks = made()
    found = statistics(maps, masks)
    assert found.roc_auc()[0] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-4)
    for limit in (0.3, 0.05):
        assert found.region_overlap(limit=limit)[0] == pytest.approx(reference_pro(maps, masks, limit), abs=2e-4)
    assert found.defects.tolist() == [label(mask, np.ones((3, 3)))[1] for mask in masks]


def test_a_small_defect_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[2:12, 2:12], mask[17, 17] = True, True
    found = statistics((0.1 * RANDOM.random((20, 20)) + np.pad(np.ones((10, 10)), ((2, 8), (2, 8))))[None], mask[None])
    assert 0.5 <= found.region_overlap()[0] < 0.5 + 0.5 * 0.3  # the large one at once, the small one by chance
    assert found.roc_auc()[0] > 0.98


def test_perfect_and_reversed_maps() -> None:
    _, masks = made(4)
    for sign, auc, overlap in ((1.0, 1.0, 1.0), (-1.0, 0.0, 0.0)):
        found = statistics(sign * masks.astype(float), masks)
        assert found.roc_auc()[0] == pytest.approx(auc)
        assert found.region_overlap()[0] == pytest.approx(overlap, abs=1e-9)


def test_scores_that_say_nothing_are_at_the_diagonal() -> None:
    _, masks = made(4)
    found = statistics(np.ones(masks.shape), masks)
    assert found.roc_auc()[0] == pytest.approx(0.5)
    assert found.region_overlap()[0] == pytest.approx(0.15)


def test_without_defects_areas_are_undefined() -> None:
    maps, masks = made(3)
    found = statistics(maps, np.zeros_like(masks))
    assert np.isnan(found.roc_auc()[0])
    assert np.isnan(found.region_overlap()[0])
    assert pixel_intervals(found, replicates=20) == {}
    nothing = PixelStatistics(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, np.int64))
    assert pixel_intervals(nothing) == {}


def test_an_image_that_counts_twice_is_an_image_twice() -> None:
    maps, masks = made()
    found = statistics(maps, masks)
    weights = RANDOM.integers(0, 3, (12, 4))
    for column, (auc, overlap) in enumerate(zip(found.roc_auc(weights), found.region_overlap(weights), strict=True)):
        rows = np.repeat(np.arange(12), weights[:, column])
        assert auc == pytest.approx(found.take(rows).roc_auc()[0])
        assert overlap == pytest.approx(found.take(rows).region_overlap()[0])


def test_intervals_hold_the_value_and_shrink_with_more_images() -> None:
    few, many = statistics(*made(9)), statistics(*made(90))
    widths = []
    for found in (few, many):
        intervals = pixel_intervals(found, replicates=300)
        low, high = intervals["pixel_roc_auc"]
        assert low < found.roc_auc()[0] < high
        assert intervals["aupro"][0] < found.region_overlap()[0] < intervals["aupro"][1]
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]
    assert pixel_intervals(few, replicates=50, seed=1) == pixel_intervals(few, replicates=50, seed=1)


def test_the_best_f1_is_that_of_the_best_threshold() -> None:
    positive = RANDOM.random(60) < 0.4
    scores = np.round(RANDOM.normal(size=60) + positive, 1)
    f1, threshold = best_f1(positive, scores)
    assert f1 == pytest.approx(max(f1_score(positive, scores >= one) for one in np.unique(scores)))
    assert f1_score(positive, scores >= threshold) == pytest.approx(f1)
    assert best_f1(np.array([False, True]), np.array([1.0, 2.0])) == (1.0, 2.0)
    assert np.isnan(best_f1(np.zeros(3, np.bool_), np.arange(3.0))).all()
