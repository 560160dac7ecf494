"""Do prediction sets hold what they promise, are foreign images noticed, and are the probabilities true?

    python benchmarks/trust.py [coverage] [unlike] [calibration] [--data FOLDER] [--sets NAME ...] [--backbone NAME] [--cache FOLDER]

coverage: mean coverage and size of 90 % prediction sets over 100 random calibration splits of the predictions for unseen images (half
calibrates, half tests), for the score that Headstart uses and for adaptive sets (Romano, Sesia and Candès 2020, randomised); by class; over
100 splits with a new fit each (`cats_dogs`); and as a run does it, calibrated on out-of-sample predictions and tested on the test part.
unlike: AUROC of the "unlike" score, own test images against those of other sets and against noise, and the shares refused.
calibration: expected calibration error on the test images before and after, and the accuracy.
abstention: thresholds for wanted accuracies from the training images, and the accuracy they give on the test images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.classifier import TransferClassifier
from headstart.data import Dataset, read_dataset
from headstart.data.split import hold_out
from headstart.metrics import SOFTMAX, accuracy_interval, expected_calibration_error, roc_auc
from headstart.reliability import Abstention, Novelty, PredictionSets
from headstart.selection import Choice, HeadPipeline, choose_head
from measurement_data import DATA

SPLITS = 100
GROUPS = {"chest_xray": r"person\d+|IM-\d+"}
SETS = ("cats_dogs", "chest_xray", "cifar10_12k", "digits/usps")
PARTS = ("coverage", "unlike", "calibration", "abstention")


@dataclass(frozen=True, eq=False)
class Measured:
    """A set of images with its features, and a head that is chosen when it is asked for."""

    name: str
    data: Dataset
    values: np.ndarray
    train: np.ndarray
    test: np.ndarray
    layers: Any

    @cached_property
    def choice(self) -> Choice:
        return choose_head(self.values[self.train], self.y[self.train], layers=self.layers, groups=self.groups)

    @property
    def y(self) -> np.ndarray:
        return self.data.targets.array

    @property
    def groups(self) -> np.ndarray | None:
        return None if self.data.groups is None else self.data.groups[self.train]


class Bench:
    """Reads each set once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.root: Path = options.data
        self.classifier = TransferClassifier(options.backbone, cache=options.cache)
        self._kept: dict[str, Measured] = {}

    def features(self, images: Any) -> np.ndarray:
        return self.classifier.extract(images).values

    def layers(self) -> Any:
        return self.classifier._prepared().extractor.layers

    def __getitem__(self, name: str) -> Measured:
        if name not in self._kept:
            data = read_dataset(self.root / name, group_from=GROUPS.get(name))
            values = self.features(data.inputs)
            train, test = data.part("train"), data.part("test")
            if not len(test):
                train, test = hold_out(data.targets.strata, share=0.5, groups=data.groups if data.grouped else None)
            self._kept[name] = Measured(name, data, values, train, test, self.layers())
        return self._kept[name]


# prediction sets


def adaptive_scores(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of each class: the probability of all more probable classes and a random part of its own (n, k)."""
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    total = np.cumsum(ranked, axis=1) - rng.uniform(size=(len(p), 1)) * ranked
    scores = np.empty_like(total)
    np.put_along_axis(scores, order, total, axis=1)
    return scores


def adaptive_sets(p: np.ndarray, y: np.ndarray, fresh: np.ndarray, rng: np.random.Generator, *, coverage: float) -> np.ndarray:
    own = adaptive_scores(p, rng)[np.arange(len(y)), y]
    rank = int(np.ceil((len(y) + 1) * coverage))
    return adaptive_scores(fresh, rng) <= (np.sort(own)[rank - 1] if rank <= len(y) else np.inf)


def split_coverage(name: str, p: np.ndarray, y: np.ndarray, *, coverage: float = 0.9) -> None:
    """Coverage, coverage of the worst class, and size over random halves."""
    rows: dict[str, list[tuple[float, float, float]]] = {"least ambiguous": [], "by class": [], "adaptive": []}
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        a, b = order[: len(y) // 2], order[len(y) // 2 :]
        found = {
            "least ambiguous": PredictionSets.fit(p[a], y[a], coverage=coverage)(p[b]),
            "by class": PredictionSets.fit(p[a], y[a], coverage=coverage, by_class=True)(p[b]),
            "adaptive": adaptive_sets(p[a], y[a], p[b], rng, coverage=coverage),
        }
        for method, sets in found.items():
            held = sets[np.arange(len(b)), y[b]]
            worst = min(held[y[b] == label].mean() for label in np.unique(y[b]))
            rows[method].append((held.mean(), worst, sets.sum(axis=1).mean()))
    for method, values in rows.items():
        held, worst, size = np.mean(values, axis=0)
        spread = np.std([row[0] for row in values])
        print(f"{name:<28}{method:<17}{100 * held:>9.2f} ± {100 * spread:<5.2f}{100 * worst:>12.1f}{size:>11.3f}", flush=True)


def as_a_run(of: Measured) -> None:
    known = ~np.isnan(of.choice.out_of_sample).any(axis=1)
    sets = PredictionSets.fit(SOFTMAX.probabilities(of.choice.out_of_sample)[known], of.y[of.train][known])
    inside = sets(of.choice.estimator.predict_proba(of.values[of.test]))
    held = inside[np.arange(len(of.test)), of.y[of.test]]
    low, high = accuracy_interval(int(held.sum()), len(held))
    print(f"{of.name:<28}as a run does it {100 * held.mean():>9.2f} [{100 * low:.1f}, {100 * high:.1f}] on {len(held)} images", flush=True)


def refits(of: Measured) -> None:
    """Calibrate on what the head says of its training images out of sample, test on the others; a new split and a new fit each time."""
    X, y = of.values, of.y
    estimator = of.choice.estimator
    assert isinstance(estimator, HeadPipeline)
    shares = []
    for seed in range(SPLITS):
        train, test = hold_out(y, share=1 / 3, groups=of.data.groups, seed=seed)
        fitted = HeadPipeline(estimator.map_, estimator.head_).fit(X[train], y[train])
        sets = PredictionSets.fit(SOFTMAX.probabilities(fitted.out_of_sample_logits_), y[train])
        shares.append(sets(fitted.predict_proba(X[test]))[np.arange(len(test)), y[test]].mean())
    error = np.std(shares) / np.sqrt(SPLITS)
    print(
        f"{of.name:<28}{SPLITS} new fits    {100 * np.mean(shares):>9.2f} ± {100 * np.std(shares):.2f} (mean ± {100 * error:.2f})",
        flush=True,
    )


def measure_coverage(bench: Bench, names: list[str]) -> None:
    print(
        "\ncoverage of 90 % sets (goal: mean 89 to 91)\n"
        "predictions                 method            mean %  ±      worst class %  mean size"
    )
    for name in names:
        of = bench[name]
        known = ~np.isnan(of.choice.out_of_sample).any(axis=1)
        split_coverage(f"{name}, training", SOFTMAX.probabilities(of.choice.out_of_sample)[known], of.y[of.train][known])
        split_coverage(f"{name}, test", of.choice.estimator.predict_proba(of.values[of.test]), of.y[of.test])
        as_a_run(of)
        if name == "cats_dogs":
            refits(of)


# images from elsewhere


def noise(side: int = 224) -> np.ndarray:
    """120 pictures of noise: of every pixel for itself, even and Gaussian, and of coloured blobs of several sizes."""
    rng = np.random.default_rng(5)
    even = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(40)]
    spreads = zip(rng.uniform(60, 200, 40), rng.uniform(10, 80, 40), strict=True)
    bells = [np.clip(rng.normal(mean, spread, (side, side, 3)), 0, 255).astype(np.uint8) for mean, spread in spreads]
    blobs = []
    for cells in rng.integers(3, 60, 40):
        small = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        blobs.append(np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack([*even, *bells, *blobs])


def foreign(bench: Bench, of: str) -> dict[str, tuple[np.ndarray, float]]:
    """Features of images that are not of the set, with the AUROC to reach."""
    found = {}
    for name in SETS:
        if name == of:
            continue
        data = bench[name]
        rows = data.test
        if {name, of} == {"cats_dogs", "cifar10_12k"}:
            shared = [number for number, label in enumerate(data.data.classes) if label.rstrip("s") in ("cat", "dog")]
            rows = rows[~np.isin(data.y[rows], shared)] if name == "cifar10_12k" else rows
        found[name] = (data.values[rows], 0.9 if name == "cifar10_12k" else 0.97)
    return found | {"noise": (bench.features(noise()), 0.97)}


def measure_unlike(bench: Bench, names: list[str]) -> None:
    print(
        "\nunlike (goal: at most 5 % of the own test images refused)\n"
        "trained on    shown            AUROC    goal  refused %   fit s  score s  state MB"
    )
    for name in names:
        of = bench[name]
        begun = time.perf_counter()
        unlike = Novelty.fit(of.values[of.train], of.y[of.train], layers=of.layers, logits=of.choice.out_of_sample, groups=of.groups)
        fitting = time.perf_counter() - begun
        begun = time.perf_counter()
        own = unlike.score(of.values[of.test])
        scoring = time.perf_counter() - begun
        size = sum(array.nbytes for array in unlike.state()[1].values()) / 2**20
        refused = 100 * (own > unlike.threshold).mean()
        print(f"{name:<14}{'own test part':<15}{'':>8}{'':>7}{refused:>10.1f}{fitting:>9.2f}{scoring:>9.3f}{size:>10.2f}", flush=True)
        for other, (values, goal) in foreign(bench, name).items():
            score = unlike.score(values)
            label = np.repeat([False, True], [len(own), len(score)])
            area = float(roc_auc(label, np.concatenate([own, score]))[0])
            own_parts, parts = unlike.parts(of.values[of.test]), unlike.parts(values)
            near, layers = (
                float(roc_auc(label, np.concatenate([combine(own_parts), combine(parts)]))[0])
                for combine in (lambda found: found[:, -1], lambda found: found[:, :-1].mean(axis=1))
            )
            said = f"(nearest images alone {near:.4f}, layers alone {layers:.4f})"
            print(f"{'':<14}{other:<15}{area:>8.4f}{goal:>7.2f}{100 * (score > unlike.threshold).mean():>10.1f}  {said}", flush=True)


# probabilities


def measure_calibration(bench: Bench, names: list[str]) -> None:
    print(
        "\ncalibration (goal: a third of what it was, or under 1.5 %)\n"
        "set           head           ECE before %  after %  accuracy before  after"
    )
    for name in names:
        of = bench[name]
        linear = choose_head(of.values[of.train], of.y[of.train], layers=of.layers, groups=of.groups, head="logistic")
        for label, choice in (("auto", of.choice), ("logistic", linear)):
            logits = choice.estimator.logits(of.values[of.test])
            raw = choice.estimator.uncalibrated(logits)
            said = []
            for scores in (logits if raw is None else raw, logits):
                p = SOFTMAX.probabilities(scores)
                right = p.argmax(axis=1) == of.y[of.test]
                said.append((100 * expected_calibration_error(p.max(axis=1), right), right.mean()))
            (before, was), (after, now) = said
            print(f"{name:<14}{label:<15}{before:>12.2f}{after:>9.2f}{was:>17.4f}{now:>7.4f}", flush=True)


def measure_abstention(bench: Bench, names: list[str]) -> None:
    print("\nabstention\nset           wanted  threshold  answered %  of the test images: answered %  right %")
    for name in names:
        of = bench[name]
        known = ~np.isnan(of.choice.out_of_sample).any(axis=1)
        p, y = SOFTMAX.probabilities(of.choice.out_of_sample)[known], of.y[of.train][known]
        curve = Abstention.fit(p.max(axis=1), p.argmax(axis=1) == y)
        q = of.choice.estimator.predict_proba(of.values[of.test])
        for wanted in (0.9, 0.95, 0.98, 0.99, 0.995):
            found = curve.threshold_for(wanted)
            if found is None:
                print(f"{name:<14}{wanted:>6}  none", flush=True)
                continue
            chosen = q.max(axis=1) >= found[0]
            right = 100 * (q.argmax(axis=1) == of.y[of.test])[chosen].mean()
            print(f"{name:<14}{wanted:>6}{found[0]:>11.4f}{100 * found[1]:>12.1f}{100 * chosen.mean():>33.1f}{right:>9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"what to measure: {', '.join(PARTS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", default=list(SETS[:3]))
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--cache", default="auto")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    bench = Bench(options)
    measures = {
        "coverage": measure_coverage, "unlike": measure_unlike, "calibration": measure_calibration, "abstention": measure_abstention,
    }  # fmt: skip
    for part in options.parts or PARTS:
        measures[part](bench, options.sets)


if __name__ == "__main__":
    main()
