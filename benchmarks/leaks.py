"""Does the audit notice patients on both sides of a random split, and say what that does to the score?

    python benchmarks/leaks.py [--seeds 3] [--cache DIR]

The chest X-rays (split by patient in the measurement data) are merged and split again at random, image by image, as most tutorials do.
The deep check must find the patients in the file names and report the score with and without them. For comparison: the same head tested on
the split by patient. Also: the seconds of the whole deep check with stored features. Goals: found in every split; 20 s for 6,000 images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart import FitSettings, deep_check, read_dataset
from headstart.features.prepared import ExtractorSettings, prepare
from measurement_data import DATA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="a folder of features; the user's own by default")
    arguments = parser.parse_args()
    dataset = read_dataset(DATA / "chest_xray")
    settings = FitSettings(cache=arguments.cache or "auto")
    prepare(ExtractorSettings.of(settings)).extract(dataset.inputs)
    share = (dataset.parts == "test").mean()
    for seed in range(arguments.seeds):
        parts = np.where(np.random.default_rng(seed).random(len(dataset)) < share, "test", "train")
        begun = time.perf_counter()
        found = deep_check(replace(dataset, parts=parts.astype(dataset.parts.dtype)), settings=settings)
        seconds = time.perf_counter() - begun
        print(f"random split {seed}: {len(dataset)} images, {seconds:.1f} s")
        for finding in found.audit.findings:
            if finding.kind in ("groups in names", "effect of groups", "effect of leaks", "leak"):
                print(f"  {finding.severity}: {finding.message}")


if __name__ == "__main__":
    main()
