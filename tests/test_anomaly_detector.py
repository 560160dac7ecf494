"""`AnomalyDetector`: scikit-learn's conventions for outlier detectors, on images."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError

from headstart import AnomalyDetector
from headstart.errors import DataError, ParameterError

SIDE = 64


def tile(seed: int, *, defect: bool = False) -> np.ndarray:
    """A square with a bright bar, and a dark blot where it has a defect."""
    random = np.random.default_rng(seed)
    picture = random.normal(110, 6, (SIDE, SIDE, 3))
    picture[:, 26 + seed % 3 : 36 + seed % 3] += 90
    if defect:
        top, left = random.integers(6, 42, 2)
        picture[top : top + 14, left : left + 14] = random.normal(20, 10, (14, 14, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


GOOD = np.stack([tile(seed) for seed in range(24)])
NEW = np.stack([tile(100 + seed, defect=seed >= 6) for seed in range(12)])


@pytest.fixture(scope="module")
def fitted(cache: Path) -> AnomalyDetector:
    return AnomalyDetector("lite0@64", cache=cache).fit(GOOD)


def test_the_signs_are_those_of_scikit_learn(fitted: AnomalyDetector) -> None:
    scores, decision, predicted = fitted.score_samples(NEW), fitted.decision_function(NEW), fitted.predict(NEW)
    assert is_outlier_detector(fitted)
    assert scores[6:].max() < scores[:6].min()
    assert np.allclose(decision, scores - fitted.offset_)
    assert np.array_equal(predicted, np.where(decision >= 0, 1, -1))
    assert (predicted[6:] == -1).all()
    assert (predicted[:6] == 1).sum() >= 4


def test_maps_show_where(fitted: AnomalyDetector) -> None:
    maps = fitted.score_maps(NEW)
    assert np.allclose(-maps.max(axis=(1, 2)), fitted.score_samples(NEW))
    y, x = np.unravel_index(maps[7].argmax(), maps.shape[1:])
    dark = np.argwhere(NEW[7].mean(axis=2) < 60).mean(axis=0)
    assert np.hypot((y + 0.5) * SIDE / maps.shape[1] - dark[0], (x + 0.5) * SIDE / maps.shape[2] - dark[1]) < 14


def test_training_images_are_scored_out_of_sample(fitted: AnomalyDetector) -> None:
    assert np.isfinite(fitted.out_of_sample_).all()
    assert fitted.out_of_sample_.mean() < fitted.score_samples(GOOD).mean()
    assert fitted.false_alarms_.enough
    assert (fitted.out_of_sample_ < fitted.offset_).mean() <= 0.05
    assert set(fitted.comparison_.areas) == {"patchcore", "padim"}
    assert fitted.comparison_.chosen == fitted.detector_.name


def test_a_copy_and_a_pickle_say_the_same(fitted: AnomalyDetector) -> None:
    expected = fitted.score_samples(NEW[:3])
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).score_samples(NEW[:3]), expected)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(NEW)
    assert np.array_equal(clone(fitted).fit(GOOD).score_samples(NEW[:3]), expected)


def test_too_few_images_are_a_warning(cache: Path) -> None:
    detector = AnomalyDetector("lite0@64", cache=cache)
    with pytest.warns(RuntimeWarning, match=r"at most 25.0 % of good images like these are above it"):
        detector.fit(GOOD[:3])
    with pytest.warns(RuntimeWarning, match="one image does not tell"):
        detector.fit(GOOD[:1])
    assert detector.score_samples(NEW)[6:].max() < detector.score_samples(NEW)[:6].mean()


def test_what_cannot_be_used_is_refused(cache: Path, tmp_path: Path, fitted: AnomalyDetector) -> None:
    (tmp_path / "odd.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"X is empty; at least one good image"):
        AnomalyDetector(cache=cache).fit([])
    with pytest.raises(ParameterError, match="false_alarm_rate"):
        AnomalyDetector(false_alarm_rate=0.0, cache=cache).fit(GOOD)
    with pytest.raises(DataError, match=r"have no score\. Leave them out"):
        fitted.predict([tmp_path / "odd.png"])
    with pytest.raises(DataError, match="None of the 1 images can be read"):
        AnomalyDetector("lite0@64", cache=cache).fit([tmp_path / "odd.png"])
    with pytest.raises(DataError, match="one group, or are copies of one image"):
        AnomalyDetector("lite0@64", cache=cache).fit(GOOD[[0, 0, 0]])
