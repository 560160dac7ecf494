"""Heads and the map under scikit-learn's own checks of estimators."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from headstart.heads import KernelRidgeHead, LogisticHead, MLPHead, NearestCentroidHead, NearestNeighboursHead, RidgeHead
from headstart.maps import (
    ALIGNMENTS,
    Alignment,
    FeatureMap,
    FourierMap,
    GradientProjection,
    HiddenLayer,
    LayerMap,
    LinearDiscriminants,
    NystroemMap,
    PrincipalComponents,
)
from headstart.selection import HeadPipeline

WEIGHTS_ARE_NO_COPIES = (
    "an image given twice is its own neighbour in another fold, so that what is chosen and calibrated out of sample differs from one of "
    "weight two; "
    "scikit-learn's own cross-validating estimators are exempt for the same reason"
)
NO_COPIES = {
    "check_sample_weight_equivalence_on_dense_data": WEIGHTS_ARE_NO_COPIES,
    "check_sample_weights_invariance": WEIGHTS_ARE_NO_COPIES,
}

IN_FLOAT32 = {"check_methods_subset_invariance": "distances are float32, whose sums differ in the last bits with the size of the batch"}
IN_ORDER = IN_FLOAT32 | {"check_methods_sample_order_invariance": "and on some processors with a row's place among the others"}


def expected_failures(estimator: Any) -> dict[str, str]:
    if isinstance(estimator, LayerMap | Alignment):
        return {}
    if isinstance(estimator, FeatureMap):
        return IN_ORDER if isinstance(estimator, NystroemMap) else {}
    return NO_COPIES | (IN_FLOAT32 if isinstance(estimator, KernelRidgeHead | NearestNeighboursHead) else {})


@pytest.fixture(autouse=True)
def _column_vectors_are_told_about() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


with warnings.catch_warnings():  # they have the interface without being of the class, which takes long to import
    warnings.filterwarnings("ignore", "Estimator .* does not inherit")
    each_check = parametrize_with_checks(
        [
            LogisticHead(),
            RidgeHead(),
            KernelRidgeHead(),
            NearestNeighboursHead(),
            NearestCentroidHead(),
            MLPHead(hidden=8, epochs=20, folds=2),
            HeadPipeline(),
            LayerMap(),
            PrincipalComponents(),
            LinearDiscriminants(),
            GradientProjection(),
            NystroemMap(components=15),
            FourierMap(components=20),
            HiddenLayer(hidden=8, epochs=3),
            *(alignment() for alignment in ALIGNMENTS.values()),
        ],
        expected_failed_checks=expected_failures,
    )
    each_check_of_variants = parametrize_with_checks(
        [LogisticHead(C=1.0), KernelRidgeHead(exact_up_to=20, landmarks=15), HeadPipeline(feature_map=LinearDiscriminants(), folds=2)],
        expected_failed_checks=expected_failures,
    )


@each_check
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@each_check_of_variants
def test_scikit_learn_contract_of_variants(estimator: Any, check: Any) -> None:
    check(estimator)
