"""Another world: chances against SciPy and by hand, no alarm in one world, alarms in others, how far apart, and where it is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

import reports
from headstart import FitSettings, Run, evaluate_run, fit, load
from headstart.metrics import auc_and_error, roc_auc
from headstart.progress import Listener
from headstart.reliability import Novelty, PredictionSets, Rate, ReliabilityTest, Shift, Watch, separation
from headstart.reliability.shift import FAR, FEWEST, LEVEL, MEANING, RECENT, REMEDY, WATCHED, WITHIN, exceedances_by_chance

Array = npt.NDArray[Any]


def rate(events: int, images: int, *, promised: float = 0.03, fitted: int = 400) -> Rate:
    return Rate(events=events, images=images, promised=promised, fitted=fitted)


# the probability by chance


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_the_probability_is_that_of_scipy(images: int, fitted: int, data: st.DataObject) -> None:
    events, above = data.draw(st.integers(0, images)), data.draw(st.integers(1, fitted))
    expected = np.exp(betabinom.logpmf(np.arange(events, images + 1), images, above, fitted + 1 - above)).sum()
    assert exceedances_by_chance(events, images, above=above, fitted=fitted) == pytest.approx(expected, rel=1e-8)


def test_a_threshold_from_very_many_images_gives_the_binomial_distribution() -> None:
    found = exceedances_by_chance(12, 200, above=30_000, fitted=999_999)
    assert found == pytest.approx(binom.sf(11, 200, 0.03), rel=2e-3)


def test_counted_by_hand() -> None:
    """One image and one that set the threshold: which of them has the higher score is a coin."""
    assert exceedances_by_chance(1, 1, above=1, fitted=1) == pytest.approx(1 / 2)
    # of two further images and two that set it at their highest: both above it, in 2! 2! of 4! orders
    assert exceedances_by_chance(2, 2, above=1, fitted=2) == pytest.approx(4 / 24)
    assert exceedances_by_chance(0, 5, above=1, fitted=9) == 1


def test_millions_of_images_take_no_time() -> None:
    assert exceedances_by_chance(3_000_000, 10_000_000, above=300, fitted=9_999) == 0
    assert exceedances_by_chance(300_000, 10_000_000, above=300, fitted=9_999) == pytest.approx(0.49, abs=0.02)
    assert exceedances_by_chance(100, 10_000_000, above=300, fitted=9_999) == pytest.approx(1)


# what is called another world


def test_far_more_than_promised_and_more_than_chance() -> None:
    assert rate(300, 400).broken()
    assert not rate(12, 400).broken()
    assert not rate(round(FAR * 30_000), 1_000_000, fitted=10**6).broken(), "significant, and not far"
    assert not rate(4, 40).broken(), "far, and not significant"
    assert not rate(FEWEST - 1, FEWEST - 1).broken(), "each of so few is told by itself"
    assert not rate(300, 400, fitted=0).broken(), "nothing was promised"


def test_images_of_the_same_world_are_hardly_ever_called_another() -> None:
    """Thresholds of few images are themselves chance: with a binomial test, this would be one in a hundred."""
    rng, alarms, naive = np.random.default_rng(0), 0, 0
    for _ in range(20_000):
        fitted = int(rng.choice([40, 100, 400]))
        rank = min(fitted, int(np.ceil((fitted + 1) * 0.95)))
        threshold = np.sort(rng.random(fitted))[rank - 1]
        found = rate(int((rng.random(300) > threshold).sum()), 300, promised=0.05, fitted=fitted)
        alarms += found.broken()
        naive += binom.sf(found.events - 1, 300, 0.05) < LEVEL
    assert alarms <= 20_000 * 3 * LEVEL
    assert naive > 100 * max(1, alarms)


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str
    start: int
    stop: int


def world(n: int, *, seed: int, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 8)) @ np.random.default_rng(1).normal(size=(8, 24)) + rng.normal(size=(n, 24)) + shift).astype(np.float32)


def test_novelty_and_sets_of_one_world_and_of_another() -> None:
    """From features and probabilities to the alarm: none over seeds in one world, always in another."""
    layers = (Layer("early", 0, 8), Layer("last", 8, 24))
    for seed in range(25):
        novelty = Novelty.fit(world(200, seed=seed), np.zeros(200, np.int64), layers=layers, seed=seed)
        same, other = (novelty(world(300, seed=1000 + seed, shift=shift)) for shift in (0.0, 8.0))
        assert not Shift(novel=novelty.rate(int(same.sum()), 300)).found
        assert Shift(novel=novelty.rate(int(other.sum()), 300)).found
        assert novelty.images == 200


def test_a_network_that_knows_all_images_promises_nothing() -> None:
    values, layers = world(80, seed=0), (Layer("last", 0, 24),)
    for known, promised in ((80, 0), (40, 0), (20, 60), (0, 80)):
        logits = np.zeros((80, 2))
        logits[:known] = np.nan
        found = Novelty.fit(values, np.zeros(80, np.int64), layers=layers, logits=logits)
        assert found.images == promised
        again = Novelty.from_state(*found.state())
        assert again.images == promised


def test_sets_by_class_are_fitted_on_the_images_of_a_class() -> None:
    sets = PredictionSets(coverage=0.9, thresholds=np.array([0.3, 0.3]), by_class=True, images=100)
    assert sets.rate(20, 100).fitted == 50
    assert dataclasses.replace(sets, by_class=False).rate(20, 100).fitted == 100
    assert sets.rate(20, 100).promised == pytest.approx(0.1)


# what is said


NOVEL, MISSED = rate(91, 100), rate(40, 100, promised=0.05)


def test_nothing_found_is_nothing_said() -> None:
    for shift in (Shift(), Shift(novel=rate(3, 100)), Shift(novel=rate(0, 0)), Shift(missed=rate(5, 100, promised=0.05))):
        assert not shift.found
        assert shift.lead() == ""
        assert shift.warning() == ""


def test_what_was_found_comes_first_and_what_to_type_last() -> None:
    assert Shift(novel=NOVEL, missed=MISSED).warning("test images") == (
        "The test images come from another world than the training images: 91.0 % of them are unlike these, where 3.0 % are expected. "
        "Prediction sets contain the true class for 60.0 % of them, where 95.0 % was promised. Probabilities and prediction sets do not "
        "hold for them. Label some of them, and fit with these too; or adapt to them without labels: headstart fit DATA --adapt-to FOLDER."
    )
    assert Shift(missed=MISSED).lead() == (
        "Images differ from the training images, or their labels do: prediction sets contain the true class for 60.0 % of them, where "
        "95.0 % was promised."
    )
    assert Shift(novel=NOVEL, missed=rate(5, 100, promised=0.05)).lead() == (
        "The images come from another world than the training images: 91.0 % of them are unlike these, where 3.0 % are expected."
    )


def test_a_shift_goes_through_json() -> None:
    for shift in (Shift(), Shift(novel=NOVEL), Shift(novel=NOVEL, missed=MISSED)):
        assert Shift.from_dict(json.loads(json.dumps(shift.to_dict()))) == shift
    assert Shift.from_dict(None) == Shift()
    test = ReliabilityTest(images=100, unlike=0.91, shift=Shift(novel=NOVEL))
    assert ReliabilityTest.from_dict(json.loads(json.dumps(test.to_dict()))) == test
    early = {name: value for name, value in test.to_dict().items() if name != "shift"}
    assert ReliabilityTest.from_dict(early).shift == Shift()


# the last images of a service


def test_a_service_looks_at_the_last_images() -> None:
    watch = Watch(0.03, 400)
    assert watch.rate == rate(0, 0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        watch.add(rng.random(20) < 0.03)
        assert not watch.drifted
    assert watch.rate.images == RECENT
    watch.add(np.ones(60, bool))
    assert watch.drifted
    watch.add(np.zeros(RECENT, bool))
    assert not watch.drifted


def test_watching_a_million_images_of_the_same_world_raises_no_alarm() -> None:
    """Also where somewhat more than promised are unlike the training images, as in a new batch of the same kind."""
    rng = np.random.default_rng(1)
    for share in (0.03, 0.045):
        counts = np.convolve(rng.random(500_000) < share, np.ones(RECENT, int), "valid")
        assert not rate(int(counts.max()), RECENT).broken(WATCHED)


# how far apart


def test_two_halves_of_one_world_cannot_be_told_apart() -> None:
    found = [separation(world(60, seed=seed), world(50, seed=100 + seed), seed=seed) for seed in range(40)]
    areas = [one.auc for one in found if one is not None]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.03)
    assert np.mean([one is not None and one.interval[0] <= 0.5 <= one.interval[1] for one in found]) > 0.85
    assert not any(one is not None and one.shown for one in found)


def test_two_worlds_can_be_told_apart_and_the_farther_the_better() -> None:
    apart = [separation(world(300, seed=0), world(300, seed=1, shift=shift)) for shift in (0.0, 0.5, 1.0, 8.0)]
    areas = [one.auc for one in apart if one is not None]
    assert areas == sorted(areas)
    assert areas[-1] > 0.999
    assert [one is not None and one.shown for one in apart] == [False, True, True, True]
    assert apart[-1] is not None
    assert apart[-1].images == 600
    assert apart[-1].sentence().endswith("(95 % interval 1.00 to 1.00; 0.5: no difference, 1: no overlap).")


def test_of_few_images_and_of_one_colour() -> None:
    assert separation(world(19, seed=0), world(100, seed=1)) is None
    still = separation(np.ones((30, 4)), np.ones((30, 4)))
    assert still is not None
    assert still.auc == 0.5
    assert not still.shown


def test_the_area_is_that_of_the_scores_and_its_error_that_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(100) < 40
    draws = [auc_and_error(positive, rng.normal(size=100) + positive) for _ in range(500)]
    scores = rng.normal(size=100)
    assert auc_and_error(positive, scores)[0] == pytest.approx(roc_auc(positive, scores)[0])
    assert np.std([area for area, _ in draws]) == pytest.approx(np.mean([error for _, error in draws]), rel=0.1)


# on the pages


def test_the_pages_lead_with_it() -> None:
    tested = ReliabilityTest(images=100, coverage=0.6, asked=0.95, size=1.0, unlike=0.91, shift=Shift(novel=NOVEL, missed=MISSED))
    facts = reports.rich_report(reliability=tested, provenance={"data": "photos"})
    page, card = reports.page(facts), reports.model_card(facts)
    lead = "The test images come from another world than the training images"
    for text in (page, card):
        shown = text.partition("<h1>")[2] or text.partition("\n# ")[2]
        assert shown.index(lead) < shown.index("98.7")
        assert f"{MEANING} {REMEDY}" in text
        assert f"{WITHIN}Twice as many" in text
        assert "same source" not in text
        assert "false alarm" not in text


def test_the_pages_of_one_world_say_nothing() -> None:
    facts = reports.rich_report(adaptation=None)
    for text in (reports.page(facts), reports.model_card(facts)):
        assert "another world" not in text
        assert WITHIN not in text


# photographs and sketches


class Heard(Listener):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def worlds(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in four folders: photographs to train on, with photographs or with sketches to test on, and each alone."""
    source, folder = shared_data / "pacs_photo_sketch", tmp_path_factory.mktemp("worlds")
    if not source.is_dir():
        pytest.skip(f"there is no {source}")
    for name in ("dog", "guitar", "house"):
        photos, sketches = (sorted((source / kind / name).iterdir()) for kind in ("photo", "sketch"))
        train, test = [photo for photo in photos if photo not in photos[::3]], photos[::3]  # they are sorted by their source
        for part, files in {"one/train": train, "one/test": test, "two/train": train, "two/test": sketches[:20]}.items():
            (folder / part / name).mkdir(parents=True)
            for file in files:
                (folder / part / name / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def photos_run(worlds: Path, cache: Path) -> Run:
    heard = Heard()
    result = fit(worlds / "one", out=worlds / "run", settings=FitSettings(cache=str(cache)), listener=heard)
    assert heard.warnings == []
    assert result.judged.reliability_test is not None
    assert not result.judged.reliability_test.shift.found
    assert "another world" not in (worlds / "run" / "report.html").read_text(encoding="utf-8")
    return load(worlds / "run")


def test_fit_begins_with_it(worlds: Path, cache: Path, photos_run: Run) -> None:
    heard = Heard()
    result = fit(worlds / "two", settings=FitSettings(cache=str(cache)), listener=heard)
    tested = result.judged.reliability_test
    assert tested is not None
    assert tested.shift.novel is not None
    assert tested.shift.novel.share > 0.9
    assert heard.warnings[0] == tested.shift.warning("test images")


def test_evaluate_says_how_far_the_images_are(worlds: Path, photos_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.evaluate.adapting._training_features", lambda run: None)  # what adapting would bring takes seconds
    heard = Heard()
    found = evaluate_run(photos_run, worlds / "two", part="test", listener=heard)
    assert heard.warnings[0] == found.shift.warning()
    assert found.shift.found
    assert found.separation is not None
    assert found.separation.auc > 0.99
    assert found.separation.sentence() in found.sentences
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["reliability"]["shift"]["found"] is True
    assert said["separation"]["auc"] == found.separation.auc
    heard = Heard()
    same = evaluate_run(photos_run, worlds / "one", part="test", listener=heard)
    assert heard.warnings == []
    assert same.separation is not None
    assert same.separation.interval[0] < 0.55
