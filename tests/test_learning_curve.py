"""The learning curve: what it must find where the truth is known, honesty, and what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headstart.errors import DataError, ParameterError
from headstart.selection import HEADS, Choice, LearningCurve, choose_head, learning_curve
from headstart.selection.learning_curve import FEWEST, _law, _sentence
from test_strategy import LAYERS, layered


def noisy(n: int, k: int = 2, *, seed: int = 0, spread: float = 3.0, flipped: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes in 52 dimensions that overlap: more images help a lot. `flipped` labels are wrong and cannot be learned."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(k, 52))
    y = generator.permutation(np.arange(n) % k)
    X = (centres[y] + generator.normal(size=(n, 52)) * spread).astype(np.float32)
    wrong = generator.random(n) < flipped
    return X, np.where(wrong, (y + generator.integers(1, k, n)) % k, y)


def chosen(X: np.ndarray, y: np.ndarray, *, head: str = "ridge", groups: Any = None) -> Choice:
    return choose_head(X, y, layers=LAYERS, head=head, groups=groups)


def by_heart(choice: Choice) -> Choice:
    """The choice with settings under which a kernel head knows every image it was fitted on."""
    evidence = [replace(row, hyperparameters={"width": 0.2, "regularisation": 1e-3}) for row in choice.evidence]
    return replace(choice, evidence=tuple(evidence))


# figures


def test_sizes_are_halves_and_the_last_point_is_that_of_the_choice() -> None:
    X, y = noisy(400)
    choice = chosen(X, y)
    found = learning_curve(X, y, choice=choice, layers=LAYERS)
    assert found.images == (13, 25, 50, 100, 200, 400)
    assert found.accuracy[-1] == pytest.approx((choice.out_of_sample.argmax(axis=1) == y).mean())
    sampling = np.sqrt(found.accuracy[-1] * (1 - found.accuracy[-1]) / 400)
    assert 0.9 * sampling < found.error[-1] < 2 * sampling
    assert found.tested == 400


def test_the_points_are_what_a_fit_of_so_many_images_reaches_on_new_ones() -> None:
    X, y = noisy(800)
    fresh, truth = noisy(4000, seed=1)
    choice = chosen(X, y)
    found = learning_curve(X, y, choice=choice, layers=LAYERS)
    candidate = next(candidate for candidate in choice.evidence if candidate.chosen)
    assert candidate.head == "ridge"
    for size in (50, 200):
        reached = []
        for seed in range(8):
            few_X, few_y = noisy(size, seed=100 + seed)
            head = choose_head(few_X, few_y, layers=LAYERS, head="ridge")
            reached.append((head.estimator.predict(fresh) == truth).mean())
        assert found.accuracy[found.images.index(size)] == pytest.approx(np.mean(reached), abs=0.05)


def test_what_twice_as_many_images_reach_is_foretold() -> None:
    fresh, truth = noisy(6000, 8, seed=1)
    X, y = noisy(400, 8)
    found = learning_curve(X, y, choice=chosen(X, y), layers=LAYERS)
    more_X, more_y = noisy(800, 8, seed=2)
    reached = (chosen(more_X, more_y).estimator.predict(fresh) == truth).mean()
    assert found.doubled == pytest.approx(reached, abs=0.03)
    assert found.gain is not None
    assert found.gain_interval is not None
    assert found.gain_interval[0] <= found.gain <= found.gain_interval[1]
    assert found.gain_interval[0] > 0
    assert found.sentence.startswith("Twice as many training images (800 instead of 400) would raise the accuracy from ")
    assert found.sentence.endswith(": more images help.")


def test_where_all_is_learned_more_images_hardly_help() -> None:
    X, y = layered(1200, 3, where="last", noise=0.5)
    found = learning_curve(X, y, choice=chosen(X, y), layers=LAYERS)
    assert found.accuracy[-1] > 0.99
    assert found.sentence.startswith("Twice as many training images (2400 instead of 1200) would hardly help: ")
    assert min(found.error) > 0  # no mistake seen is not no error


def test_a_floor_of_wrong_labels_is_not_learned_away() -> None:
    X, y = noisy(1500, spread=0.3, flipped=0.2)
    found = learning_curve(X, y, choice=chosen(X, y), layers=LAYERS)
    assert found.accuracy[-1] == pytest.approx(0.8, abs=0.04)
    assert found.doubled == pytest.approx(0.8, abs=0.05)
    assert found.law is not None
    assert found.law[0] > 0.1


def test_labels_without_meaning_stay_at_chance_at_every_size() -> None:
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(600, 52)).astype(np.float32), generator.permutation(np.arange(600) % 2)
    found = learning_curve(X, y, choice=by_heart(chosen(X, y, head="kernel_ridge")), layers=LAYERS)
    assert all(abs(accuracy - 0.5) < 0.1 for accuracy in found.accuracy)
    assert found.gain is not None
    assert found.gain < 0.03


def test_no_group_is_on_both_sides() -> None:
    """Six copies of each patient: with patients on both sides, even a part of the images would know nearly all of them."""
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 6)
    y = np.repeat(generator.permutation(np.arange(60) % 2), 6)
    X = (generator.normal(size=(60, 52))[patients] * 3 + 0.05 * generator.normal(size=(360, 52))).astype(np.float32)
    names = np.array([f"patient {p}" for p in patients])
    loose = learning_curve(X, y, choice=by_heart(chosen(X, y, head="kernel_ridge")), layers=LAYERS)
    choice = by_heart(chosen(X, y, head="kernel_ridge", groups=names))
    strict = learning_curve(X, y, choice=choice, layers=LAYERS, groups=names)
    half = loose.images.index(180)
    assert loose.accuracy[half] > 0.9
    assert strict.accuracy[strict.images.index(180)] < 0.7
    assert strict.error[-1] > 1.7 * np.sqrt(0.25 / 360)  # 60 patients, and not 360 images


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=pytest.mark.slow) if head == "mlp" else head for head in HEADS if head != "auto"]
)
def test_every_head_has_a_curve(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.heads.mlp._LEAST", 60)  # steps, for the sake of time
    X, y = layered(240, 3, where="stage2", noise=2.0)
    found = learning_curve(X, np.array(["a", "b", "c"])[y], choice=chosen(X, np.array(["a", "b", "c"])[y], head=head), layers=LAYERS)
    assert found.images == (15, 30, 60, 120, 192 if head in ("logistic", "mlp") else 240)
    assert found.accuracy[-1] >= found.accuracy[0]
    assert all(0 <= accuracy <= 1 for accuracy in found.accuracy)


def test_several_labels_count_as_right_when_all_are() -> None:
    generator = np.random.default_rng(0)
    Y = generator.random((300, 3)) < 0.5
    X = (Y.astype(float) @ generator.normal(size=(3, 52)) * 2 + generator.normal(size=(300, 52))).astype(np.float32)
    choice = chosen(X, Y)
    found = learning_curve(X, Y, choice=choice, layers=LAYERS)
    assert found.accuracy[-1] == pytest.approx(((choice.out_of_sample > 0) == Y).all(axis=1).mean())
    assert found.accuracy[0] < found.accuracy[-1]


def test_images_without_an_out_of_sample_answer_are_not_counted() -> None:
    X, y = noisy(200)
    choice = chosen(X, y)
    logits = choice.out_of_sample.copy()
    right = logits.argmax(axis=1) == y
    logits[np.flatnonzero(~right)] = np.nan
    assert learning_curve(X, y, choice=replace(choice, out_of_sample=logits), layers=LAYERS).accuracy[-1] == 1
    empty = learning_curve(X, y, choice=replace(choice, out_of_sample=np.full_like(logits, np.nan)), layers=LAYERS)
    assert empty.images == (12, 25, 50, 100)


def test_weights_of_classes_that_a_part_lacks() -> None:
    X, y = noisy(200, 4)
    y = np.where(y == 3, np.where(np.arange(200) < 190, 0, 3), y)
    choice = choose_head(X, y, layers=LAYERS, head="ridge", class_weight={0: 1.0, 3: 5.0})
    found = learning_curve(X, y, choice=choice, layers=LAYERS, class_weight={0: 1.0, 3: 5.0})
    assert found.images[-1] == 200


def test_sizes_and_progress() -> None:
    X, y = noisy(300)
    steps: list[tuple[int, int]] = []
    found = learning_curve(X, y, choice=chosen(X, y), layers=LAYERS, progress=lambda done, total: steps.append((done, total)))
    assert found.images == (19, 38, 75, 150, 300)
    assert steps == [(done, 22) for done in range(1, 23)]  # eight parts of 19 images, eight of 38, four of 75, two of 150


def test_the_same_seed_gives_the_same_curve() -> None:
    X, y = noisy(200)
    choice = chosen(X, y)
    assert learning_curve(X, y, choice=choice, layers=LAYERS, seed=3) == learning_curve(X, y, choice=choice, layers=LAYERS, seed=3)
    assert learning_curve(X, y, choice=choice, layers=LAYERS, seed=3) != learning_curve(X, y, choice=choice, layers=LAYERS, seed=4)


# the law


def test_an_exact_power_law_is_found() -> None:
    shares = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
    law, gains = _law(shares, np.array([0.02 + 0.05 * shares**-0.5]), np.full(5, 0.01))
    assert law == pytest.approx((0.02, 0.05, 0.5), rel=0.15)
    assert gains[0] == pytest.approx(0.05 * (1 - 2**-0.5), rel=0.03)


def test_the_law_never_goes_below_zero_nor_up() -> None:
    shares = np.array([1 / 8, 1 / 4, 1 / 2, 1])
    falling = np.array([[0.4, 0.2, 0.05, 0.0], [0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.2, 0.2]])
    law, gains = _law(shares, falling, np.full(4, 0.01))
    assert law[0] == 0
    assert 0 < gains[0] <= law[1]
    assert gains[1:] == pytest.approx([0, 0], abs=1e-9)


# what is said


@pytest.mark.parametrize(
    ("gain", "interval", "said"),
    [
        (
            0.02,
            (0.01, 0.03),
            "would raise the accuracy from 90.0 % to about 92.0 % (+2.0 points, 95 % interval +1.0 to +3.0): more images help.",
        ),
        (0.001, (0.0, 0.004), "would hardly help: +0.1 points, 95 % interval +0.0 to +0.4 of accuracy."),
        (0.01, (0.0, 0.05), "might raise the accuracy from 90.0 % to about 91.0 % (+1.0 points, 95 % interval +0.0 to +5.0)."),
        (0.0, (0.0, 0.02), "are not expected to help, but so few cannot exclude it: +0.0 points, 95 % interval +0.0 to +2.0 of accuracy."),
    ],
)
def test_sentences(gain: float, interval: tuple[float, float], said: str) -> None:
    assert _sentence(500, 0.9, gain, interval) == f"Twice as many training images (1000 instead of 500) {said}"


def test_too_few_images_for_a_law() -> None:
    X, y = noisy(3 * FEWEST)
    found = learning_curve(X, y, choice=chosen(X, y), layers=LAYERS)
    assert found.sentence == "30 training images are too few to tell whether more would help."
    assert (found.doubled, found.law, found.gain_interval) == (None, None, None)
    assert LearningCurve.from_dict(found.to_dict()) == found


def test_a_curve_survives_json() -> None:
    X, y = noisy(200)
    found = learning_curve(X, y, choice=chosen(X, y), layers=LAYERS)
    assert LearningCurve.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    for broken in ({}, {**found.to_dict(), "more": 1}):
        with pytest.raises(ParameterError, match="this is not a learning curve"):
            LearningCurve.from_dict(broken)
    with pytest.raises(ParameterError, match="different lengths"):
        LearningCurve.from_dict({**found.to_dict(), "images": [1]})


def test_what_does_not_fit_is_refused() -> None:
    X, y = noisy(100)
    choice = chosen(X, y)
    with pytest.raises(DataError, match="There are 99 feature vectors, 99 labels and 100 images that the head was chosen for"):
        learning_curve(X[:99], y[:99], choice=choice, layers=LAYERS)
    with pytest.raises(ParameterError, match=r"The head was chosen on the layer '(stage1|last)', which is not among stage2"):
        learning_curve(X, y, choice=choice, layers=LAYERS[1:2])
