"""scikit-learn's own checks of an estimator, on `TransferClassifier`.

They feed tables of numbers, and it takes images. So here a row's bytes stand for an image and its numbers for the image's features:
everything but the reading of pixels is the real thing. (Without that, its tags say that it takes no tables, and nothing but `clone` is
checked.)
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

import headstart.classifier
import headstart.features.fitted
from headstart import TransferClassifier
from headstart.backbones import Layer
from headstart.features import Features
from headstart.features.prepared import Prepared


class RowExtractor:
    """Takes bytes for images; the numbers in them are the features."""

    id = "rows"
    backbone, preprocessing = SimpleNamespace(tuned=False), SimpleNamespace(counted=lambda inputs: None)

    def __init__(self) -> None:
        self.layers: tuple[Layer, ...] = ()

    def __call__(self, images: Sequence[bytes], **_: Any) -> Features:
        values = np.stack([np.frombuffer(image, np.float32) for image in images])
        self.layers = (Layer("last", 0, values.shape[1]),)
        return Features(values, np.arange(len(values)), (), (), len(values))


@pytest.fixture(autouse=True)
def _rows_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(wanted: Any, **_: Any) -> Any:
        return Prepared(wanted, RowExtractor(), None)  # type: ignore[arg-type]

    monkeypatch.setattr(headstart.classifier, "prepare", prepare)
    monkeypatch.setattr(headstart.features.fitted, "prepare", prepare)


class OnTables(TransferClassifier):
    """Turns each row of a table into bytes; labels pass as they are."""

    def fit(self, X: Any, y: Any = None) -> OnTables:  # type: ignore[override]
        return super().fit([row.tobytes() for row in validate_data(self, X, dtype=np.float32)], y)

    def _rows(self, X: Any) -> list[bytes]:
        return [row.tobytes() for row in validate_data(self, X, dtype=np.float32, reset=False)] if hasattr(self, "choice_") else [b""]

    def predict(self, X: Any) -> Any:
        return super().predict(self._rows(X))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._rows(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        return tags


@parametrize_with_checks([OnTables(head="ridge"), OnTables(head="logistic"), OnTables()])
def test_conventions(estimator: Any, check: Any) -> None:
    check(estimator)
