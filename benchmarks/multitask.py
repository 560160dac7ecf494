"""Is a column of labels any worse for being learned together with others?

    python benchmarks/multitask.py [--strategy probe|partial|full] [--epochs N] [--missing SHARE] [--seeds N] [--data FOLDER | --list FILE]

Learns age (in four groups, by the quartiles of the training images) and gender of the faces in `multitask_small`, or all columns of a list
of one's own that `--label` names, once together and once each alone, on the same split. With `--missing`, so many of the labels of each
column are taken away first. For each column: the accuracy together and alone on the same test images, the difference with its 95 %
interval, and McNemar's p; how many images were computed by the frozen network for all of them, and how often.
Goals: no column is worse together than alone by more than the error of the difference; one extraction for all; with frozen heads (the
default) no difference at all.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart import FineTuning, FitResult, FitSettings, fit
from headstart.metrics import paired_difference
from headstart.progress import Listener
from measurement_data import DATA


class Extractions(Listener):
    """Counts the times that features of images are computed by the frozen network."""

    count = 0

    def stage(self, name: str) -> None:
        """Of the stages of a fit, one extracts features."""
        self.count += name.startswith("Extracting features of ") and "trained" not in name


def faces(folder: Path, target: Path) -> Path:
    """The list of the faces with groups of ages in place of years; paths are whole."""
    with (folder / "list.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ages = np.array([int(row["age"]) for row in rows])
    bounds = np.quantile(ages[[row["split"] == "train" for row in rows]], [0.25, 0.5, 0.75])
    names = [f"up to {bounds[0]:.0f}", f"up to {bounds[1]:.0f}", f"up to {bounds[2]:.0f}", "older"]
    for row, group in zip(rows, np.searchsorted(bounds, ages), strict=True):
        row |= {"path": str((folder / row["path"]).resolve()), "age": names[group]}
    return written(rows, target)


def written(rows: Sequence[dict[str, str]], target: Path) -> Path:
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return target


def with_missing(source: Path, labels: Sequence[str], share: float, *, seed: int, target: Path) -> Path:
    """The list without a share of the labels of each column, but never without all of a row."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    taken = np.random.default_rng(seed).random((len(rows), len(labels))) < share
    taken[taken.all(axis=1), 0] = False
    for row, lost in zip(rows, taken, strict=True):
        row |= {name: "" for name, gone in zip(labels, lost, strict=True) if gone}
    return written(rows, target)


def compare(data: Path, labels: Sequence[str], settings: FitSettings) -> bool:
    """Print the columns together and alone; whether none is worse by more than its error."""
    listener = Extractions()
    with tempfile.TemporaryDirectory() as cache:
        together = fit(data, settings=replace(settings, labels=tuple(labels), cache=cache), listener=listener)
        print(f"  together: {listener.count} extraction of {len(together.dataset)} images; {together.head}")
        good = listener.count == 1
        for name in labels:
            alone: FitResult = fit(data, settings=replace(settings, labels=(name,), cache=cache, allow_missing=True))
            ours = together.test.columns[name]
            found = paired_difference(ours.correct_rows, alone.test.correct_rows)
            low, high = found.interval
            half = 0.5 * (high - low)
            fine = found.value >= -half
            good &= fine
            same = np.array_equal(ours.outcome.predicted, alone.test.outcome.predicted)
            print(
                f"  {name:>8}: together {ours.accuracy:.4f}, alone {alone.test.accuracy:.4f} on {ours.images} test images; difference "
                f"{100 * found.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), p = {found.p_value:.2g}"
                f"{'; every prediction is the same' if same else ''}: {'goal reached' if fine else 'WORSE'}"
            )
    return bool(good)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=("probe", "partial", "full"), default="probe")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--missing", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA / "multitask_small")
    parser.add_argument("--list", type=Path)
    parser.add_argument("--label", action="append")
    options = parser.parse_args(given)
    labels, good = options.label or ["age", "gender"], True
    with tempfile.TemporaryDirectory() as scratch:
        whole = options.list or faces(options.data, Path(scratch) / "faces.csv")
        for seed in range(options.seeds):
            data = whole
            if options.missing:
                data = with_missing(whole, labels, options.missing, seed=seed, target=whole.with_name(f"missing{seed}.csv"))
            plan = None if options.strategy == "probe" else FineTuning(strategy=options.strategy, epochs=options.epochs)
            print(f"{data.name}, strategy {options.strategy}, seed {seed}")
            good &= compare(data, labels, FitSettings(seed=seed, fine_tuning=plan))
    print("all goals reached" if good else "a goal is missed")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
