"""A process that fills a feature store, for the tests that start several, kill them, or take the disk away from them.

    python store_writer.py STORE START STOP BATCH [SEED]

The numbers START to STOP stand for images; with a SEED they come in a shuffled order. After each committed batch its numbers are printed.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import numpy as np

from headstart.errors import StoreError
from headstart.features import FeatureStore

DIM = 700
EXTRACTOR = "weights=0123;layers=all;size=224"


def digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def vectors(numbers: list[int]) -> np.ndarray:
    return np.stack([np.random.default_rng(number).standard_normal(DIM, np.float32) for number in numbers])


def main(path: str, start: int, stop: int, batch: int, seed: int | None = None) -> None:
    numbers = list(range(start, stop))
    if seed is not None:
        random.Random(seed).shuffle(numbers)
    with FeatureStore(Path(path)) as store:
        for first in range(0, len(numbers), batch):
            some = numbers[first : first + batch]
            try:
                store.put(EXTRACTOR, [digest(number) for number in some], vectors(some))
            except StoreError as error:
                print("refused:", error, flush=True)
                return
            print(*some, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
