"""Differences of scores that are sums over images, and the runs of tasks beside classification compared by them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.stats import permutation_test

from headstart import compare_runs, load
from headstart.errors import DataError, ParameterError, RunError
from headstart.metrics import auc_difference, paired_difference
from headstart.metrics.differences import Difference, resampled_differences
from headstart.metrics.segmentation import ImageStatistics, image_statistics, segmentation_differences, segmentation_scores
from headstart.tasks.anomaly.evaluation import AnomalyEvaluation, PixelScores
from headstart.tasks.segmentation.evaluation import SegmentationEvaluation
from sealed import seal

pytest_plugins = ["masks_run"]

Cli = Callable[..., Any]


def means(sums: np.ndarray) -> np.ndarray:
    """The score that is a mean: from sums of values and of ones."""
    return sums[:, :1] / sums[:, 1:]


def made(rng: np.random.Generator, *, images: int, errors: float, classes: int = 3) -> ImageStatistics:
    """Statistics of random masks, of which a share of the pixels is named at random."""
    parts = []
    for _ in range(images):
        truth = rng.integers(0, classes, (12, 16)).astype(np.uint8)
        named = np.where(rng.random(truth.shape) < errors, rng.integers(0, classes, truth.shape), truth).astype(np.uint8)
        parts.append(image_statistics(truth, named, classes=classes))
    return ImageStatistics.joined(parts, classes=classes)


# differences


def test_a_difference_of_means_is_that_of_statistics() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(0.3, 1, 60)
    second = first * 0.5 + rng.normal(0, 1, 60)
    ones = np.ones(60)
    found = resampled_differences(np.stack([first, ones], axis=1), np.stack([second, ones], axis=1), means)
    apart = first - second
    error = apart.std() / math.sqrt(60)
    assert found.values[0] == pytest.approx(apart.mean())
    assert found.interval(0) == pytest.approx((apart.mean() - 1.96 * error, apart.mean() + 1.96 * error), abs=0.2 * error)
    reference = permutation_test(
        (first, second), lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=4999, rng=np.random.default_rng(1)
    )
    assert found.p_values[0] == pytest.approx(reference.pvalue, abs=0.03)


def test_few_images_cannot_show_a_difference() -> None:
    """All four exchanges of two images: two of them are as far apart, so p is about a half, however clear the figures look."""
    ones = np.ones((2, 1))
    found = resampled_differences(np.hstack([ones * 9, ones]), np.hstack([ones * 0, ones]), means)
    assert found.p_values[0] == pytest.approx(0.5, abs=0.03)
    assert math.isnan(found.interval(0)[0])


def test_the_test_errs_as_often_as_it_says() -> None:
    rng, shown = np.random.default_rng(0), 0
    for _ in range(200):
        both = rng.exponential(1, (2, 15))
        pair = [np.stack([values, np.ones(15)], axis=1) for values in both]
        shown += resampled_differences(*pair, means, replicates=2, swaps=199).p_values[0] <= 0.05
    assert 2 <= shown <= 19  # of 200, from 5 %, by more than three standard errors


def test_models_that_are_alike_have_no_interval() -> None:
    same = made(np.random.default_rng(0), images=6, errors=0.2)
    found = segmentation_differences(same, same)
    assert not found.values.any()
    assert np.isnan(found.intervals).all()
    assert (found.p_values == 1).all()


def test_what_is_undefined_stays_so() -> None:
    rng = np.random.default_rng(0)
    pair = [made(rng, images=4, errors=share) for share in (0.1, 0.4)]
    wider = [
        ImageStatistics(np.pad(one.confusion, ((0, 0), (0, 1), (0, 1))), np.pad(one.boundaries, ((0, 0), (0, 1), (0, 0))), one.confidence)
        for one in pair
    ]
    found = segmentation_differences(*wider)
    assert np.isnan([found.values[-1], found.p_values[-1], *found.intervals[-1]]).all()
    assert found.values[:-1] == pytest.approx(segmentation_differences(*pair).values)


def test_other_images_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"needs the same images twice, got \(2, 2\) and \(3, 2\)"):
        resampled_differences(np.ones((2, 2)), np.ones((3, 2)), means)


def test_a_difference_reads_the_same_from_both_sides() -> None:
    found = Difference.of_accuracy(paired_difference(np.array([True, True, False]), np.array([True, False, False])))
    assert found.reversed().reversed() == found
    assert found.text(1.0).startswith("accuracy +33.3 points (95 % interval -")
    assert found.reversed().text(1.0).startswith("accuracy -33.3 points (95 % interval -")
    assert found.reversed().wins == (0, 1)


# segmentation


def test_evaluations_of_masks_are_compared_by_their_means() -> None:
    rng = np.random.default_rng(0)
    better, worse = (SegmentationEvaluation(("a", "b", "c"), made(rng, images=20, errors=share)) for share in (0.1, 0.3))
    scores, classes = better.differences(worse)
    assert [one.score for one in scores] == ["mean_iou", "boundary_f1"]
    for one in scores:
        assert one.value == pytest.approx(better.scores[one.score] - worse.scores[one.score])
        assert 0 < one.interval[0] < one.value < one.interval[1]
        assert one.p_value < 0.001
    assert scores[0].wins == (int((better.image_iou > worse.image_iou).sum()), int((better.image_iou < worse.image_iou).sum()))
    iou = segmentation_scores(better.statistics).iou - segmentation_scores(worse.statistics).iou
    assert [classes[name].value for name in "abc"] == pytest.approx(iou)
    assert better.rank > worse.rank


@pytest.fixture
def altered(shapes_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the run whose stored test statistics are changed."""

    def make(name: str, change: Callable[[dict[str, np.ndarray]], None], classes: list[str] | None = None) -> Path:
        folder = shutil.copytree(shapes_run, tmp_path / name)
        arrays = load_file(folder / "evaluation.safetensors")
        arrays = {key: value.astype(np.int64) if key in ("confusion", "boundaries") else value for key, value in arrays.items()}
        change(arrays)
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / "evaluation.safetensors")
        entries = json.loads((folder / "manifest.json").read_text("utf-8"))
        if classes is not None:
            entries["state"]["classes"] = classes
        seal(folder, entries)
        return folder

    return make


def confused(arrays: dict[str, np.ndarray]) -> None:
    """A third of the pixels of every class is named the next one."""
    confusion = arrays["confusion"]
    for index in range(confusion.shape[1]):
        moved = confusion[:, index, index] // 3
        confusion[:, index, index] -= moved
        confusion[:, index, (index + 1) % confusion.shape[1]] += moved


def turned(arrays: dict[str, np.ndarray]) -> None:
    """The same run with the images and the classes in the opposite order."""
    arrays["confusion"] = arrays["confusion"][::-1, ::-1, ::-1]
    arrays["boundaries"] = arrays["boundaries"][::-1, ::-1]
    arrays["confidence"], arrays["digests"] = arrays["confidence"][::-1], arrays["digests"][::-1]
    arrays["targets"] = np.concatenate([arrays["targets"][:, -2::-1], arrays["targets"][:, -1:]], axis=1)[::-1]


@pytest.mark.cards
def test_runs_of_masks_are_compared(cli: Cli, shapes_run: Path, altered: Callable[..., Path]) -> None:
    worse = altered("worse", confused)
    done = cli("compare", worse, shapes_run, "--out", "comparison.json")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "6 images that both runs were tested on"
    assert " ".join(lines[1].split()) == "run backbone mean IoU 95 % interval boundary F1 pixel accuracy ECE"
    first, second = (load(folder).test_evaluation() for folder in (shapes_run, worse))
    assert f"{first.headline[1]:.4f}" in lines[3]
    points = 100 * (first.headline[1] - second.headline[1])
    assert lines[-1].startswith(f"shapes is better than worse: mean IoU +{points:.1f} points (95 % interval +")
    assert lines[-1].endswith("Its IoU is higher on 6 images, lower on 0.")
    assert "worse less shapes, one by one:" in done.out
    pair = json.loads(Path("comparison.json").read_text("utf-8"))["pairs"][0]
    assert pair["mean_iou"]["difference"] == pytest.approx(-points / 100)
    assert list(pair["by_class"]) == list(first.classes)


@pytest.mark.cards
def test_masks_are_matched_by_image_and_by_name_of_the_class(shapes_run: Path, altered: Callable[..., Path]) -> None:
    same = altered("same", turned, classes=list(load(shapes_run).classes[::-1]))
    found = compare_runs([shapes_run, same])
    assert found.images == 6
    assert found.pairs[0].headline.value == pytest.approx(0, abs=1e-12)
    assert not any(one.value for one in found.pairs[0].classes.values())
    assert found.runs[1].evaluation.classes == found.runs[0].evaluation.classes
    assert np.array_equal(*(run.evaluation.statistics.confusion for run in found.runs))
    assert found.summary().startswith("No difference between shapes and same is shown: mean IoU +0.0 points.")


@pytest.mark.cards
def test_masks_that_differ_are_left_out_and_what_cannot_be_compared_is_refused(
    shapes_run: Path, altered: Callable[..., Path], run: Path
) -> None:
    def redrawn(arrays: dict[str, np.ndarray]) -> None:
        arrays["confusion"][0, 0, 0] += 5

    found = compare_runs([shapes_run, altered("redrawn", redrawn)])
    assert found.images == 5
    assert found.notes == ("Left out, as the runs have different masks for it: 1 image.",)
    strangers = altered("strangers", lambda arrays: None, classes=["ground", "disc", "rod"])
    with pytest.raises(DataError, match=r"The runs have different classes: only .*shapes has bar and only .*strangers has rod"):
        compare_runs([shapes_run, strangers])
    with pytest.raises(DataError, match=r"has learned the task segmentation, and .* the task classification: the two cannot be compared"):
        compare_runs([shapes_run, run])
    damaged = altered("damaged", lambda arrays: arrays.update(boundaries=arrays["boundaries"][:, :2]))
    with pytest.raises(RunError, match=r"evaluation\.safetensors: damaged: statistics of 6 class maps must have the shapes"):
        compare_runs([shapes_run, damaged])


# anomaly detection


def scored(seed: int, *, skill: float, threshold: float = 1.0, pixels: PixelScores | None = None) -> AnomalyEvaluation:
    rng, anomalous = np.random.default_rng(seed), np.arange(80) % 2 == 1
    return AnomalyEvaluation(rng.normal(size=80) + skill * anomalous, anomalous, threshold, pixels=pixels)


def test_detectors_are_compared_by_ranks_and_by_decisions() -> None:
    better, worse = scored(1, skill=3.0), scored(2, skill=0.7)
    ranks, decisions = better.differences(worse).scores
    expected = auc_difference(better.anomalous, better.score, worse.score)
    assert (ranks.word, ranks.value, ranks.interval, ranks.p_value) == ("AUROC", expected.value, expected.interval, expected.p_value)
    right = [(one.score > 1.0) == one.anomalous for one in (better, worse)]
    assert decisions.value == paired_difference(*right).value
    assert better.rank > worse.rank
    assert better.same_truth(worse).all()


def test_without_defects_decisions_are_compared() -> None:
    good = [AnomalyEvaluation(values, np.zeros(4, np.bool_), 1.0) for values in (np.array([0.0, 0, 0, 2]), np.array([0.0, 2, 2, 2]))]
    (only,) = good[0].differences(good[1]).scores
    assert (only.word, only.value, only.wins) == ("right decisions", 0.5, (2, 0))
    assert good[0].leading[:2] == ("right decisions", 0.75)


def test_scores_of_pixels_remain_where_all_images_do() -> None:
    pixels = PixelScores(
        roc_auc=0.9, roc_auc_interval=(0.8, 0.95), aupro=0.7, aupro_interval=(0.6, 0.8), images=80, defects=40
    )  # fmt: skip
    found = scored(1, skill=2.0, pixels=pixels)
    assert found.part(np.arange(80)[::-1], like=found).pixels is pixels
    some = found.part(np.array([3, 5, 6]), like=found)
    assert some.pixels is None
    assert np.array_equal(some.score, found.score[[3, 5, 6]])
    assert math.isnan(some.beside["AUPRO"])
