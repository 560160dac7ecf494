"""What a training gives: the probe, the trained network, or the mean of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headstart.backbones import Layer
from headstart.data import dataset_from_arrays
from headstart.heads.labels import encode
from headstart.metrics.link import log_softmax
from headstart.selection import choose_head
from headstart.selection.mean import mean_of_logits
from headstart.tasks.classification.shipping import Contender, Rival, best_of, contenders, no_rival, reason_of
from test_fitting_training import table_of

LABELS = np.arange(40) % 2
TARGETS = encode(LABELS)


def logits(wrong: int, *, sure: float = 2.0, first: int = 0) -> np.ndarray:
    """Right but for `wrong` of 40 images, from image number `first` on."""
    right = np.where(np.eye(2)[LABELS] > 0, sure, -sure)
    right[first : first + wrong] *= -1
    return right


@pytest.mark.parametrize(
    ("probe", "trained", "expected"),
    [
        (logits(2), logits(20), "probe"),  # a training that ruins the network
        (logits(10), logits(1), "trained"),
        (logits(6), logits(6, first=20), "mean"),  # different mistakes, of which one head at a time is sure
    ],
)
def test_each_of_the_three_can_be_shipped(probe: np.ndarray, trained: np.ndarray, expected: str) -> None:
    if expected == "mean":
        probe, trained = probe.copy(), trained.copy()
        probe[:6] /= 20
        trained[20:26] /= 20
    found = contenders(probe, trained, TARGETS, mean=True)
    assert list(found) == ["probe", "trained", "mean"]
    assert best_of(found).name == expected
    rate = {name: f"{contender.correct.mean():.1%}" for name, contender in found.items()}
    reason = reason_of(found, found[expected])
    assert rate[expected] in reason.partition(" right on 40 validation images")[0]
    assert all(rate[name] in reason.partition("against")[2] for name in rate if name != expected)
    assert ("did not pay" in reason) == (expected == "probe")


def test_without_a_better_epoch_or_one_size_there_is_less_to_choose_from() -> None:
    found = contenders(logits(2), None, TARGETS, mean=True)
    assert list(found) == ["probe"]
    assert reason_of(found, found["probe"]).endswith("95.0% right on 40 validation images; no epoch was better than the first head")
    assert list(contenders(logits(2), logits(1), TARGETS, mean=False)) == ["probe", "trained"]


def test_equally_good_models_leave_the_probe() -> None:
    assert best_of({name: Contender(name, logits(2), TARGETS) for name in ("probe", "trained", "mean")}).name == "probe"


def test_contenders_are_calibrated_and_scored() -> None:
    random = np.random.default_rng(0)
    raw = random.normal(size=(40, 2)) + np.eye(2)[LABELS]
    one, sharper = Contender.calibrated("x", raw, TARGETS), Contender.calibrated("x", 50 * raw, TARGETS)
    np.testing.assert_allclose(one.logits, sharper.logits, rtol=1e-4)
    np.testing.assert_allclose(one.logits * one.temperature, raw)
    np.testing.assert_allclose(one.losses, -log_softmax(one.logits)[np.arange(40), LABELS])
    wrong = one.logits.argmax(axis=1) != LABELS
    assert one.criterion == pytest.approx(one.losses.mean() * (wrong.mean() + 0.5 / 40))
    few = TARGETS.take(np.arange(9))
    assert Contender.calibrated("x", raw[:9], few).temperature == 1.0
    weighted = Contender("x", one.logits, type(TARGETS)(**{**vars(TARGETS), "weights": wrong + 0.0}))
    assert weighted.criterion == pytest.approx(one.losses[wrong].mean() * (1 + 0.5 / 40))


def test_independent_labels_are_averaged_as_log_odds() -> None:
    targets = encode(np.array([[0, 1], [1, 1]] * 20))
    one, two = np.random.default_rng(0).normal(size=(2, 40, 2))
    np.testing.assert_allclose(mean_of_logits([one, two], targets.link), (one + two) / 2)
    found = contenders(one, two, targets, mean=True)
    assert 0 < found["mean"].correct.mean() < 1


def test_the_rival_has_not_seen_the_validation_images() -> None:
    """Their labels change nothing."""
    random = np.random.default_rng(0)
    values, y = random.normal(size=(60, 8)).astype(np.float32), np.arange(60) % 2
    layers, held = (Layer("last", 0, 8),), np.arange(40, 60)

    def rival(labels: np.ndarray) -> Rival:
        dataset = dataset_from_arrays(np.zeros((60, 8, 8, 3), np.uint8), labels.astype(str).tolist())
        table = replace(table_of(dataset, [bytes([row]) for row in range(60)]), values=values, layers=layers)
        return Rival.of(probe, table, np.arange(40), held, class_weight=None, seed=0)

    probe = choose_head(values, y, layers=layers, head="ridge")
    one, other = rival(y), rival(np.where(np.isin(np.arange(60), held), 1 - y, y))
    assert one.teaching.shape == (40, 2)
    np.testing.assert_allclose(one.teaching.sum(axis=1), 1)
    np.testing.assert_array_equal(one.teaching, other.teaching)
    np.testing.assert_array_equal(one.held, other.held)
    assert not np.array_equal(one.held, rival(1 - y).held)


@pytest.mark.parametrize(("wrong", "begun"), [(0, False), (2, False), (3, True)])
def test_nothing_is_trained_where_no_difference_could_be_shown(wrong: int, begun: bool) -> None:
    given, many = np.concatenate([logits(wrong), *3 * [logits(0)]]), TARGETS.take(np.tile(np.arange(40), 4))
    assert no_rival(given, many) == (
        "" if begun else f"the head on the frozen backbone is wrong about {wrong or 'none'} of 160 validation images"
    )
    assert not no_rival(logits(0), TARGETS)  # few images show nothing
