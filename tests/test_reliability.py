"""Reliability and its test on known images: every figure by hand or by SciPy, each part as it is alone, the same answers when read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load, save
from scipy.stats import binomtest

from headstart.errors import ParameterError, RunError
from headstart.metrics.link import SIGMOID
from headstart.reliability import (
    Abstention,
    Novelty,
    PredictionSets,
    Rate,
    Reliability,
    ReliabilityTest,
    Shift,
    ThresholdTest,
    confidence,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    name: str
    start: int
    stop: int


LAYERS = (Layer("early", 0, 6), Layer("last", 6, 20))


def answers(n: int, k: int, *, seed: int) -> tuple[Array, Array]:
    """Logits (n, k) of a model that is right in most cases, and the true classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += 2
    return logits, targets


def softmax(logits: Array) -> Array:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def features(n: int, *, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(n, 20)).astype(np.float32)


def trust(*, n: int = 300, seed: int = 0, several: bool = False) -> Reliability:
    logits, targets = answers(n, 3, seed=seed)
    if several:
        given = np.eye(3, dtype=bool)[targets]
        return Reliability.fit(features(n, seed=seed), given, logits, layers=LAYERS)
    return Reliability.fit(features(n, seed=seed), targets, logits, layers=LAYERS)


def only(sets: PredictionSets | None = None, abstention: Abstention | None = None) -> Reliability:
    return Reliability(sets=sets, abstention=abstention, novelty=None)


def wilson(right: int, of: int) -> Any:
    interval = binomtest(right, of).proportion_ci(method="wilson")
    return pytest.approx((interval.low, interval.high))


# learning


def test_each_part_is_what_it_is_alone() -> None:
    """Images that the model has learned from (nan) set neither the sets nor the curve, but are neighbours all the same."""
    logits, targets = answers(200, 3, seed=1)
    logits[:80] = np.nan
    probabilities, values = softmax(logits), features(200, seed=1)
    found = Reliability.fit(values, targets, logits, layers=LAYERS, coverage=0.8, seed=5)
    sets = PredictionSets.fit(probabilities[80:], targets[80:], coverage=0.8)
    curve = Abstention.fit(probabilities[80:].max(axis=1), probabilities[80:].argmax(axis=1) == targets[80:])
    alone = Novelty.fit(values, targets, layers=LAYERS, logits=logits, seed=5)
    assert found.sets is not None
    assert found.abstention is not None
    assert found.novelty is not None
    assert found.sets.to_dict() == sets.to_dict()
    assert found.sets.images == 120
    assert found.abstention.to_dict() == curve.to_dict()
    fresh = features(50, seed=2)
    np.testing.assert_array_equal(found.novelty.score(fresh), alone.score(fresh))
    assert found.novelty.threshold == alone.threshold
    assert found.novelty.nearest(values[:1], 1)[0].tolist() == [[0]]


def test_the_network_has_seen_every_image() -> None:
    """After a fine-tuning without held-out images nothing is known about its probabilities, but still what its images look like."""
    nothing = np.full((60, 3), np.nan)
    found = Reliability.fit(features(60, seed=0), np.zeros(60, np.int64), nothing, layers=LAYERS)
    assert found.sets is None
    assert found.abstention is None
    test = ReliabilityTest.of(found, softmax(answers(9, 3, seed=0)[0]), np.zeros(9, np.int64), np.arange(9) < 3)
    assert test == ReliabilityTest(images=9, unlike=3 / 9, shift=Shift(novel=Rate(events=3, images=9, promised=0.03, fitted=0)))
    assert test.sentences() == ("33.3 % of the images are flagged as novel; of images like the training images, 3.0 % are expected to be.",)


def test_labels_of_which_no_image_has_any() -> None:
    """Sets promise nothing without labels; that each no is right can be learned all the same."""
    logits = np.full((60, 2), -3.0)
    found = Reliability.fit(features(60, seed=0), np.zeros((60, 2), bool), logits, layers=LAYERS)
    assert found.sets is None
    assert found.abstention is not None
    assert found.abstention.images == 120
    assert found.abstention.accuracy.tolist() == [1.0]


def test_how_sure_and_how_right() -> None:
    sure, right = confidence(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 1]))
    assert sure.tolist() == [0.8, 0.6]
    assert right.tolist() == [True, False]
    # with several labels an image every yes and every no counts; a probability of one half is a yes, as in the scores
    sure, right = confidence(np.array([[0.2, 0.9], [0.5, 0.7]]), np.array([[False, True], [True, False]]))
    assert sure.tolist() == [0.8, 0.9, 0.5, 0.7]
    assert right.tolist() == [True, True, True, False]


def test_values_that_cannot_be() -> None:
    logits, targets = answers(60, 3, seed=0)
    with pytest.raises(ParameterError, match="coverage must be a number above 0 and below 1, got 1"):
        Reliability.fit(features(60, seed=0), targets, logits, layers=LAYERS, coverage=1.0)
    with pytest.raises(ParameterError, match="There are 59 feature vectors and 60 targets"):
        Reliability.fit(features(59, seed=0), targets, logits, layers=LAYERS)


# testing


SETS = PredictionSets(coverage=0.9, thresholds=np.array([0.3, 0.3, 0.3]), by_class=False)


def test_the_test_of_the_sets_counted_by_hand() -> None:
    probabilities = np.array([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [0.25, 0.25, 0.5], [0.34, 0.33, 0.33]])
    # {0, 1} holds 1; {0} lacks 2; {2} holds 2; {0, 1, 2} holds anything
    test = ReliabilityTest.of(only(SETS), probabilities, np.array([1, 2, 2, 0]), None)
    assert (test.images, test.asked, test.coverage) == (4, 0.9, 0.75)
    assert test.coverage_interval == wilson(3, 4)
    assert test.size == (2 + 1 + 1 + 3) / 4
    assert test.single == 2 / 4
    assert test.unlike is None
    assert test.answered == ()
    low, high = binomtest(3, 4).proportion_ci(method="wilson")
    assert test.sentences() == (
        f"Prediction sets: mean size 1.75, coverage 75.0 % of the images (95 % interval {100 * low:.1f} % to {100 * high:.1f} %); "
        "90.0 % was asked for. A single class for 50.0 % of them.",
    )


def test_a_set_is_never_empty() -> None:
    """No class reaches its threshold: the set is the class that is named."""
    test = ReliabilityTest.of(
        only(PredictionSets(0.9, np.array([0.9, 0.9, 0.9]), by_class=False)), np.array([[0.5, 0.3, 0.2]] * 2), np.array([0, 1]), None
    )
    assert (test.coverage, test.size) == (0.5, 1.0)


def test_of_several_labels_all_must_be_held_and_images_without_any_prove_nothing() -> None:
    sets = PredictionSets(0.9, np.array([0.3, 0.3, 0.3]), by_class=False, link=SIGMOID)
    probabilities = np.array([[0.9, 0.4, 0.1], [0.9, 0.1, 0.1], *[[0.1, 0.2, 0.1]] * 8])
    targets = np.array([[True, True, False], [True, True, False], *[[False] * 3] * 8])
    test = ReliabilityTest.of(only(sets), probabilities, targets, None)
    assert test.coverage == 0.5  # and not 0.9
    assert test.coverage_interval == wilson(1, 2)
    nothing = ReliabilityTest.of(only(sets), probabilities[2:], targets[2:], None)
    assert (nothing.coverage, nothing.coverage_interval) == (None, None)
    assert nothing.sentences() == ()


def test_the_thresholds_that_training_promised_counted_by_hand() -> None:
    """Of 2000 images all above 0.8 were right and the others half: 0.8 is assured for high accuracies, and is said once."""
    sure = np.linspace(0.6, 1.0, 2000)
    curve = Abstention.fit(sure, (sure >= 0.8) | (np.arange(2000) % 2 == 0))
    wanted = curve.threshold_for(0.99)
    assert wanted is not None
    threshold = wanted[0]
    assert threshold == pytest.approx(0.8, abs=0.02)
    given = np.array([0.95, 0.9, threshold, 0.61])
    probabilities = np.column_stack([given, 1 - given])
    test = ReliabilityTest.of(only(abstention=curve), probabilities, np.array([0, 1, 0, 0]), None)
    row = next(row for row in test.answered if row.wanted == 0.99)
    assert (row.threshold, row.share) == (threshold, 3 / 4)
    assert row.right == pytest.approx(2 / 3)
    assert row.interval == wilson(2, 3)
    thresholds = [row.threshold for row in test.answered]
    assert len(set(thresholds)) == len(thresholds)
    low, high = row.interval
    assert (
        f"At a confidence of at least {threshold:.3f}, chosen for an accuracy of 99.0 %, the model answers 75.0 % of the images with an "
        f"accuracy of 66.7 % (95 % interval {100 * low:.1f} % to {100 * high:.1f} %)."
    ) in test.threshold_sentences()


@pytest.mark.parametrize("seed", range(20))
def test_on_its_own_images_it_answers_what_was_promised(seed: int) -> None:
    """The threshold is one of the probabilities, and that image is answered too, though thresholds are kept in float32."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, 250)
    probabilities = np.column_stack([sure, 1 - sure])
    targets = np.where(sure > 0.7, 0, rng.integers(0, 2, 250))
    curve = Abstention.fit(*confidence(probabilities, targets))
    test = ReliabilityTest.of(only(abstention=curve), probabilities, targets, None)
    assert test.answered[0].wanted == 0.95
    for row in test.answered:
        assert curve.threshold_for(row.wanted) == (row.threshold, row.share)
        assert row.right >= row.wanted


def test_accuracies_that_nothing_promises_are_left_out() -> None:
    curve = Abstention.fit(np.full(50, 0.7), np.arange(50) % 2 == 0)
    assert ReliabilityTest.of(only(abstention=curve), np.array([[0.9, 0.1]]), np.array([0]), None).answered == ()
    # a threshold that no test image reaches says nothing either
    high = Abstention.fit(np.full(500, 0.99), np.ones(500, bool))
    assert ReliabilityTest.of(only(abstention=high), np.array([[0.6, 0.4]]), np.array([0]), None).answered == ()


def test_what_was_promised_holds_on_fresh_images() -> None:
    """Coverage on average over fits: 0.95, and hardly more."""
    held = []
    for seed in range(30):
        logits, targets = answers(500, 3, seed=1000 + seed)
        test = ReliabilityTest.of(trust(seed=seed), softmax(logits), targets, None)
        assert test.coverage is not None
        held.append(test.coverage)
    assert 0.945 < np.mean(held) < 0.965


# kept and read again


@pytest.mark.parametrize("several", [False, True])
def test_read_again_it_says_the_same(several: bool) -> None:
    """Through JSON and safetensors, as a run keeps it."""
    made = trust(several=several)
    settings, arrays = made.state()
    again = Reliability.from_state(json.loads(json.dumps(settings, allow_nan=False)), load(save(arrays)))
    assert made.sets is not None
    assert made.novelty is not None
    assert made.abstention is not None
    assert again.sets is not None
    assert again.novelty is not None
    assert again.abstention is not None
    logits, targets = answers(100, 3, seed=9)
    probabilities, fresh = softmax(logits), features(100, seed=9)
    np.testing.assert_array_equal(again.sets(probabilities), made.sets(probabilities))
    assert again.sets.link.independent == several
    assert again.abstention.threshold_for(0.9) == made.abstention.threshold_for(0.9)
    np.testing.assert_allclose(again.novelty.score(fresh), made.novelty.score(fresh), rtol=1e-6)
    np.testing.assert_array_equal(again.novelty.nearest(fresh, 3)[0], made.novelty.nearest(fresh, 3)[0])
    given = np.eye(3, dtype=bool)[targets] if several else targets
    unlike = made.novelty(fresh)
    assert ReliabilityTest.of(again, probabilities, given, unlike) == ReliabilityTest.of(made, probabilities, given, unlike)


def test_nothing_learned_is_nothing_kept() -> None:
    settings, arrays = only().state()
    assert settings == {"sets": None, "abstention": None, "unlike": None}
    assert arrays == {}
    again = Reliability.from_state(settings, arrays)
    assert (again.sets, again.abstention, again.novelty) == (None, None, None)


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("sets", "thresholds", "The saved prediction sets are damaged: 'thresholds' is missing"),
        ("abstention", "answered", "The saved accuracy-coverage curve is damaged: 'answered' is missing"),
        ("unlike", "layers", "The saved novelty model is damaged: 'layers' is missing"),
    ],
)
def test_damage_is_told_in_words(part: str, entry: str, message: str) -> None:
    settings, arrays = trust(n=60).state()
    del settings[part][entry]
    with pytest.raises(RunError, match=message):
        Reliability.from_state(settings, arrays)


@pytest.mark.parametrize(
    "test",
    [
        ReliabilityTest(images=3),
        ReliabilityTest(
            images=7, asked=0.95, coverage=0.9, coverage_interval=(0.8, 0.97), size=1.2, single=0.8, unlike=0.03,
            answered=(ThresholdTest(wanted=0.95, threshold=0.7, share=0.9, right=0.96, interval=(0.9, 1.0)),),
        ),
    ],
)  # fmt: skip
def test_the_test_goes_through_json(test: ReliabilityTest) -> None:
    assert ReliabilityTest.from_dict(json.loads(json.dumps(test.to_dict(), allow_nan=False))) == test
