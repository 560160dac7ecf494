"""Adaptation to unlabelled images of another world: made-up worlds whose truth is known, real ones, and what cannot be adapted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart import fit
from headstart.adaptation import METHODS, Adapted, Source, adapt
from headstart.adaptation.self_training import brought_to, class_frequencies, spreading_over, surest
from headstart.adaptation.trials import AdaptationTrial, TriedMethod, Worlds, consensus, information
from headstart.backbones import Layer
from headstart.errors import DataError, ParameterError
from headstart.heads.labels import EncodedLabels, encode
from headstart.selection import Choice, choose_head
from headstart.settings import FitSettings
from headstart.settings.fit import ADAPTATIONS

LAYERS = (Layer("first", 0, 12), Layer("last", 12, 24))
CENTRES = np.random.default_rng(7).normal(size=(4, 24)) * 2.5


def drawn(count: int, seed: int, *, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 24) of classes around their centres, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (CENTRES[labels] + generator.normal(size=(count, 24))).astype(np.float32), labels


def elsewhere(features: np.ndarray) -> np.ndarray:
    """The same seen in another world: other scales, shifted."""
    generator = np.random.default_rng(3)
    return (features * generator.uniform(0.2, 2.5, 24) + generator.normal(size=24) * 6).astype(np.float32)


def adapted(
    features: np.ndarray, targets: EncodedLabels, others: np.ndarray, *, choice: Choice, method: str = "auto", seed: int = 0
) -> Adapted:
    """What comes of adapting a model of features and labels to others."""
    return adapt(Source(features=features, targets=targets, choice=choice, layers=LAYERS, seed=seed), others, method=method)


def test_the_settings_name_all_methods() -> None:
    assert ADAPTATIONS == METHODS


@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.slow) if name == "self-training" else name for name in METHODS])
def test_a_world_of_other_scales_is_adapted_to(method: str) -> None:
    features, labels = drawn(160, 0)
    others, truth = drawn(120, 1)
    others = elsewhere(others)
    choice = choose_head(features, labels, layers=LAYERS)
    found = adapted(features, encode(labels), others, choice=choice, method=method)
    before, after = ((one.estimator.predict(others) == truth).mean() for one in (choice, found.choice))
    assert before < 0.8
    assert found.record.apart is not None
    assert found.record.apart > 0.95
    if method == "none":
        assert found.choice is choice
        assert found.record.methods == ()
        return
    assert after > 0.95
    assert found.record.after[0] >= found.record.before[0] - 0.02
    assert all(trial.method == "none" or method == "auto" or method in trial.method for trial in found.record.trials)
    assert (found.choice.out_of_sample.argmax(axis=1) == labels).mean() == pytest.approx(found.record.after[0])
    assert found.record.changed > 0.1
    assert len(found.record.points) == len(found.record.aligned) == 240


def test_where_nothing_has_changed_nothing_is_changed() -> None:
    features, labels = drawn(160, 0)
    others, _ = drawn(120, 1)
    choice = choose_head(features, labels, layers=LAYERS)
    for seed in range(3):
        found = adapted(features, encode(labels), others, choice=choice, seed=seed)
        assert found.record.apart is not None
        assert 0.35 < found.record.apart < 0.6
        assert found.choice is choice
        assert "cannot be told from the training images" in found.record.reason
        assert [trial.method for trial in found.record.trials if trial.chosen] == ["none"]


def test_a_world_without_the_classes_is_left_alone() -> None:
    """Noise in other units: nothing of it can be told from the labels, so that no method gains, or the source keeps its accuracy."""
    features, labels = drawn(160, 0)
    noise = np.random.default_rng(5).normal(size=(100, 24)).astype(np.float32) * 30
    choice = choose_head(features, labels, layers=LAYERS)
    found = adapted(features, encode(labels), noise, choice=choice)
    assert found.record.after[0] >= found.record.before[0] - 0.02


def test_classes_may_be_rarer_in_the_other_world() -> None:
    features, labels = drawn(160, 0)
    others, truth = drawn(400, 1)
    kept = np.flatnonzero((truth > 1) | (np.arange(400) % 10 < 2))  # the first two at a fifth
    others, truth = elsewhere(others[kept]), truth[kept]
    choice = choose_head(features, labels, layers=LAYERS)
    found = adapted(features, encode(labels), others, choice=choice)
    assert (found.choice.estimator.predict(others) == truth).mean() > 0.9


def test_groups_stay_together_and_labels_may_be_text() -> None:
    features, labels = drawn(160, 0)
    names = np.array(["ash", "elm", "oak", "yew"])[labels]
    targets = replace(encode(names), groups=np.arange(160) // 4)
    choice = choose_head(features, names, layers=LAYERS, groups=np.arange(160) // 4)
    found = adapted(features, targets, elsewhere(drawn(120, 1)[0]), choice=choice, method="coral")
    assert set(found.choice.estimator.predict(features)) == set(names)


def test_too_few_images_are_refused() -> None:
    features, labels = drawn(160, 0)
    choice = choose_head(features, labels, layers=LAYERS)
    with pytest.raises(DataError, match="Only 19 images to adapt to; at least 20"):
        adapted(features, encode(labels), features[:19], choice=choice)


def test_probabilities_are_brought_to_a_prior() -> None:
    found = brought_to(np.random.default_rng(0).dirichlet(np.ones(3), 50), np.array([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found.mean(axis=0), [0.5, 0.3, 0.2], atol=1e-6)


def test_the_surest_of_every_class_take_part() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.45, 0.55]])
    np.testing.assert_array_equal(surest(probabilities, 0.5), [True, True, False, False, True])
    assert surest(probabilities, 1.4).all()


def test_spreading_is_the_limit_of_its_steps() -> None:
    """Zhou et al.: F <- a S F + (1 - a) Y, for ever."""
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    spread = np.asarray(spreading_over(rows), dtype=np.float64)
    step = (np.eye(40) - np.linalg.inv(spread)) / 0.9  # S
    np.testing.assert_allclose(step, step.T, atol=1e-4)
    given = np.random.default_rng(1).dirichlet(np.ones(3), 40)
    found = given
    for _ in range(400):
        found = 0.9 * step @ found + 0.1 * given
    np.testing.assert_allclose(0.1 * spread @ given, found, atol=1e-4)


@pytest.mark.parametrize("frequency", [0.1, 0.5, 0.85])
def test_class_frequencies_are_the_most_likely_ones(frequency: float) -> None:
    """A feature is present in 30 % of one class and 80 % of the other: the share that has it tells the frequencies."""
    present = np.arange(1000) < round(1000 * (0.3 + 0.5 * frequency))
    likelihood = np.where(present[:, None], [0.3, 0.8], [0.7, 0.2])
    prior = np.array([0.6, 0.4])
    probabilities = likelihood * prior / (likelihood * prior).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(class_frequencies(probabilities, prior), [1 - frequency, frequency], atol=2e-3)


class Guessed(Worlds):
    """Worlds of which two guesses are given."""

    def joint(self, alignment: str, *, back: bool = False) -> Any:
        return SimpleNamespace(of_source=lambda codes: self.made[alignment])


def test_frequencies_to_expect_are_those_of_the_guesses_as_far_as_these_agree() -> None:
    codes, one = np.arange(40) % 2, np.eye(2)[[0, 1]]

    def expected(first: list[int], second: list[int]) -> np.ndarray:
        guesses = {"standardised": one[first] * 0.98 + 0.01, "ot": one[second] * 0.98 + 0.01}
        return Guessed(np.empty((40, 1)), np.empty((len(first), 1)), codes, 2, made=guesses).prior  # type: ignore[arg-type]

    np.testing.assert_allclose(expected([0] * 18 + [1] * 2, [0] * 18 + [1] * 2), [0.9, 0.1], atol=0.02)  # rarer
    np.testing.assert_allclose(expected([0] * 11 + [1] * 9, [0] * 11 + [1] * 9), [0.549, 0.451], atol=1e-6)  # about the same
    agreement = 0.5
    torn = expected([0] * 20, [0] * 10 + [1] * 10)
    np.testing.assert_allclose(torn, 0.5 + agreement**2 * (np.array([0.745, 0.255]) - 0.5), atol=1e-6)  # they cannot tell


def test_true_classes_are_informative_and_noise_is_not() -> None:
    features, labels = drawn(160, 0)
    worlds = Worlds(features, elsewhere(drawn(120, 1)[0]), labels, 4)
    joint, truth = worlds.joint("standardised"), np.arange(120) % 4
    noise = np.random.default_rng(0).permutation(truth)
    assert information(joint, truth, seed=0) > 1.0  # of log 4 = 1.39
    assert information(joint, noise, seed=0) < 0.1
    assert information(joint, np.zeros(120, dtype=np.int64), seed=0) == 0


def tried(method: str, reverse: float, informative: float, probabilities: tuple[float, float]) -> TriedMethod:
    row = AdaptationTrial(method=method, reverse_accuracy=reverse, reverse_error=0.01, information=informative, seconds=0)
    return TriedMethod(row, np.array([probabilities]))


def test_what_loses_the_source_is_out_and_the_most_informative_are_averaged() -> None:
    rows, likely = consensus([
        tried("none", 0.8, 0.5, (0.9, 0.1)), tried("coral", 0.77, 2.0, (0.0, 1.0)), tried("ot", 0.79, 1.0, (0.2, 0.8)),
        tried("tca", 0.9, 0.98, (0.5, 0.5)), tried("subspace", 0.9, 0.9, (0.9, 0.1)),
    ])  # fmt: skip
    assert [one.row.chosen for one in rows] == [False, False, True, True, False]
    assert "below 78.0 %" in rows[1].row.reason
    np.testing.assert_allclose(likely, [[1 / 3, 2 / 3]], atol=1e-3)  # the geometric mean of 1:4 and 1:1


def test_what_was_asked_for_is_chosen_whatever_it_loses() -> None:
    rows, _ = consensus([tried("none", 0.8, 2.0, (0.9, 0.1)), tried("ot", 0.1, 1.0, (0.1, 0.9))], asked=True)
    assert [one.row.chosen for one in rows] == [False, True]
    assert rows[0].row.reverse_accuracy == 0.8  # to compare with


def test_no_adaptation_stays_alone_where_nothing_is_more_informative() -> None:
    rows, likely = consensus([tried("none", 0.8, 1.0, (0.9, 0.1)), tried("ot", 0.9, 1.0, (0.1, 0.9))])
    assert [one.row.chosen for one in rows] == [True, False]
    np.testing.assert_allclose(likely, [[0.9, 0.1]], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapt_to": "there", "adapt": "core"}, "must be one of auto, none"),
        ({"adapt_to": "there", "folds": 5}, "cannot be combined with"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        FitSettings(**settings)


def test_how_without_what_and_folders_that_are_not_there_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="says how to adapt, and needs the images to adapt to"):
        fit(tmp_path, settings=FitSettings(adapt="coral"))
    with pytest.raises(DataError, match=r"adapt_to must be a folder of images, got '.*nowhere', which is not there"):
        fit(tmp_path, settings=FitSettings(adapt_to=tmp_path / "nowhere"))


@pytest.mark.slow
def test_photographs_to_sketches(shared_data: Path, tmp_path: Path) -> None:
    """A part of the real thing: labelled photographs, unlabelled sketches; see benchmarks/adaptation.py for all of it."""
    pacs = shared_data / "pacs_photo_sketch"
    settings = FitSettings(adapt_to=pacs / "sketch", cache=tmp_path / "cache")
    result = fit(pacs / "photo", out=tmp_path / "run", settings=settings)
    record = result.learned.adaptation
    assert record is not None
    assert record.methods
    assert record.images == 420
    sketches = sorted((pacs / "sketch").rglob("*.jpg")) or sorted((pacs / "sketch").rglob("*.png"))
    truth = [path.parent.name for path in sketches]
    from headstart import load

    run = load(tmp_path / "run")
    right = np.mean([label == name for label, name in zip(run.predict(sketches).labels, truth, strict=True)])
    assert right > 0.45  # 0.2 to 0.3 without
    story = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["story"]["adaptation"]
    assert story["images"] == 420
    assert run.record.adaptation == record
    assert "Adaptation to another world" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_several_labels_an_image_are_refused_before_any_work(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(8):
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = "\n".join(f"{number}.png,{'red;dark' if number % 2 else 'red'}" for number in range(8))
    (tmp_path / "list.csv").write_text(f"path,labels\n{rows}\n", encoding="utf-8")
    with pytest.raises(ParameterError, match="adapt_to is for one label an image, and these have several"):
        fit(tmp_path / "list.csv", settings=FitSettings(adapt_to=tmp_path))
