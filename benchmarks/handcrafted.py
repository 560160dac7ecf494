"""How far do handcrafted features go, alone and beside the default backbone?

    python benchmarks/handcrafted.py [--sets NAME ...] [--backbones NAME ...] [--each N] [--data FOLDER]

For each set and each system, in turn: the accuracy on the test part (or on a fifth that is held out), its 95 % interval, the accuracy out
of sample on the training images, and the milliseconds for an image with decoding. At most N images a class are read.
Goals: HOG alone classifies at least 95 % of each set of `digits`; exports agree with the run (see exports.py) within 1e-3.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headstart import FitSettings, fit, read_dataset
from headstart.data import Dataset
from headstart.features.prepared import ExtractorSettings, prepare
from measurement_data import DATA

GOAL = {"digits/usps": 0.95, "digits/mnist": 0.95}
DEFAULT = FitSettings().backbone
SYSTEMS = ("hog", "sift", "color", "hog+sift+color", DEFAULT, f"{DEFAULT}+hog+sift+color")


def first_of_each(dataset: Dataset, each: int) -> Dataset:
    """At most so many images of each class and part."""
    seen: Counter[tuple[str, str]] = Counter()
    rows = []
    for row, label in enumerate(dataset.targets.strata):
        key = str(dataset.parts[row]), str(label)
        seen[key] += 1
        if seen[key] <= each:
            rows.append(row)
    return dataset.take(np.array(rows))


def milliseconds(name: str, dataset: Dataset) -> float:
    """For an image, of the 64 last ones."""
    prepared = prepare(ExtractorSettings.of(FitSettings(backbone=name, cache=None)))
    images = [dataset.inputs[row] for row in range(max(len(dataset) - 64, 0), len(dataset))]
    prepared.extract(images[:4])
    began = time.perf_counter()
    prepared.extract(images)
    return 1000 * (time.perf_counter() - began) / len(images)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=[*GOAL, "waste6", "cats_dogs"])
    parser.add_argument("--backbones", nargs="*", default=SYSTEMS)
    parser.add_argument("--each", type=int, default=200, help="images of a class and part, at most")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args(given)
    for name in options.sets:
        dataset = first_of_each(read_dataset(options.data / name), options.each)
        for backbone in options.backbones:
            speed = milliseconds(backbone, dataset)
            result = fit(dataset, settings=FitSettings(backbone=backbone))
            chosen = next(row for row in result.choice.evidence if row.chosen)
            against = result.baseline
            ahead = "" if against is None else f"  {100 * against.difference:+.1f} ± {100 * against.difference_error:.1f} pre-trained"
            goal = f"  goal {GOAL[name]:.0%}" if backbone == "hog" and name in GOAL else ""
            print(
                f"{name:<14} {backbone:<38} {result.test.summary('test')}  out of sample {chosen.accuracy:.4f} "
                f"on {chosen.images}{ahead}  {speed:.1f} ms an image{goal}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
