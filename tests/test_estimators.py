"""Heads and maps without scikit-learn: the plain case needs none of it, and everything else says what scikit-learn says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from headstart.heads import KernelRidgeHead, LogisticHead, RidgeHead
from headstart.maps import LayerMap
from headstart.selection import HeadPipeline

PLAIN = """
import sys
import numpy as np
from headstart.heads import HEADS
from headstart.maps import MAPS, LayerMap
from headstart.selection import HeadPipeline
X = np.random.default_rng(0).standard_normal((40, 5), dtype=np.float32)
for head in HEADS.values():
    made = HeadPipeline(LayerMap(), head()).fit(X, np.arange(40) % 3)
    made.predict_proba(X[:1])
    HeadPipeline.from_state(*made.state()).predict(X)
for name, made in MAPS.items():
    found = HeadPipeline(feature_map=made(), head=HEADS["centroid"]()).fit(X, np.arange(40) % 3)
    HeadPipeline.from_state(*found.state()).predict(X)
print("sklearn" in sys.modules)
"""


def test_features_as_finite_arrays_need_no_scikit_learn() -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((4, 2), np.nan, dtype=np.float32), "NaN"),
        (np.array([[np.inf, 1], [np.inf, 1]], dtype=np.float32), "infinity"),
        (np.zeros((4, 3), dtype=np.float32), "expecting 2 features"),
        (np.zeros(2, dtype=np.float32), "Expected 2D array"),
        (np.zeros((0, 2), dtype=np.float32), "minimum of 1 is required"),
    ],
)
def test_what_is_not_plain_is_refused_as_scikit_learn_does(X: Any, message: str) -> None:
    head = RidgeHead().fit(np.eye(4, 2, dtype=np.float32), np.arange(4) % 2)
    with pytest.raises(ValueError, match=message):
        head.predict(X)


def test_lists_and_other_numbers_give_what_arrays_of_float32_give() -> None:
    X = np.random.default_rng(0).integers(0, 9, (30, 4)).astype(np.float32)
    y = np.arange(30) % 2
    plain = LogisticHead().fit(X, y)
    listed = LogisticHead().fit(X.astype(int).tolist(), y.tolist())
    np.testing.assert_array_equal(plain.predict_proba(X), listed.predict_proba(X.astype(np.float64)))


def test_parameters_reach_the_inner_estimators() -> None:
    made = HeadPipeline(LayerMap(floor=0.2), KernelRidgeHead())
    assert made.get_params()["map__floor"] == 0.2
    made.set_params(map__floor=0.4, head__width=0.1)
    assert (made.map.floor, made.head.width) == (0.4, 0.1)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="Invalid parameter 'unknown'"):
        made.set_params(unknown=1)
    for copy in (made.clone(), clone(made)):
        assert copy.map is not made.map
        assert repr(copy) == repr(made) == "HeadPipeline(head=KernelRidgeHead(width=0.1), map=LayerMap(floor=0.4))"


def test_scikit_learn_scores_them() -> None:
    from sklearn.model_selection import cross_val_score

    X = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    assert cross_val_score(RidgeHead(), X, np.repeat(["a", "b"], 10), cv=2).tolist() == [1.0, 1.0]
