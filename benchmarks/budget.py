"""What does a budget bring, and is it kept?

    python benchmarks/budget.py [SET ...] [--budgets 2m 10m] [--data FOLDER] [--kinds]

For each set: a fit without and with each budget, each a process of its own with an empty feature store (the embedded networks have been
converted before), all tested on the same images. Where PyTorch is installed, a search may train further. Prints the accuracies, the paired
difference from the default with its 95 % interval, the backbone that was chosen, and the seconds of the whole process against the budget.
`--kinds` adds the drawn kinds of `head_choice.py`.

Goals: 2m at least +0.7 points and 10m +1.5 in the mean, on no set worse by more than its error, the budget kept within 10 %.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exports import sets, written
from headstart import load
from headstart.metrics import paired_difference
from headstart.settings.fit import seconds as seconds_of
from measurement_data import DATA

SETS = ("waste6", "cats_dogs", "chest_xray", "cifar10_12k")
DRAWN = ("digits8", "textures", "shapes", "cells", "usps")


def fit(data: Path, out: Path, cache: Path, *options: str) -> float:
    """The seconds of the whole process."""
    for left in cache.glob("features.sqlite*"):
        left.unlink()
    begun = time.perf_counter()
    command = [sys.executable, "-m", "headstart", "fit", str(data), "--out", str(out), "--cache", str(cache), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def correct(run: Path) -> dict[bytes, bool]:
    """Whether each test image, by its digest, is named correctly."""
    opened = load(run)
    rows = opened.test_evaluation().correct_rows
    assert rows is not None
    return {digest.tobytes(): bool(row) for digest, row in zip(opened.tested["digests"], rows, strict=True)}


def chosen(run: Path) -> str:
    """The backbone of a run, as its search named it, and whether it was trained further."""
    return next((row.title for row in load(run).record.tried if row.outcome == "chosen"), "the default")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=SETS)
    parser.add_argument("--budgets", nargs="*", default=["2m", "10m"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args(given)
    gains: dict[str, list[float]] = {budget: [] for budget in options.budgets}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cache = folder / "cache"
        for name in (*options.names, *(DRAWN if options.kinds else ())):
            drawn = name in DRAWN
            data = (
                written(sets(options.data)[name](), folder / "data" / name, {"train": 2000, "test": 2000}) if drawn else options.data / name
            )
            if not (cache / "networks").is_dir():
                for backbone in ("lite0", "lite1", "lite2"):
                    fit(data, folder / "warm", cache, "--backbone", backbone, "--head", "centroid")
            took = fit(data, folder / "default", cache)
            base = correct(folder / "default")
            print(f"{name}: default {np.mean(list(base.values())):.4f} on {len(base)} images, {took:.0f} s", flush=True)
            for budget in options.budgets:
                took = fit(data, folder / budget, cache, "--budget", budget)
                now = correct(folder / budget)
                both = [digest for digest in base if digest in now]
                difference = paired_difference(*(np.array([side[digest] for digest in both]) for side in (now, base)))
                gains[budget].append(100 * difference.value)
                low, high = (100 * end for end in difference.interval)
                print(
                    f"  {budget:>4} {np.mean(list(now.values())):.4f}  {100 * difference.value:+.2f} points [{low:+.2f}, {high:+.2f}]  "
                    f"{took:.0f} s, {took / seconds_of(budget):.2f} of the budget  {chosen(folder / budget)}",
                    flush=True,
                )
    for budget, found in gains.items():
        print(f"{budget}: {np.mean(found):+.2f} points in the mean of {len(found)} sets")


if __name__ == "__main__":
    main()
