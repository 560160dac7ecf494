"""Is a map before the head better than none, where `auto` chooses it?

    python benchmarks/maps.py [--data FOLDER] [--features FOLDER] [--kinds NAME ...] [--map KIND] [--backbone NAME]

For each of the kinds of images of head_choice.py: test accuracy without a map and with the chosen one, the difference with its (paired)
standard error, and what was chosen. Features are computed once and lie in the folder of `--features`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from head_choice import Kind, kinds
from headstart.backbones import load_backbone
from headstart.features import BackboneExtractor
from headstart.files import cache_folder
from headstart.selection import choose_head
from headstart.selection.mapped import CHOICES
from measurement_data import DATA


@dataclass(frozen=True)
class Row:
    """What one kind of images gave, in percent."""

    name: str
    images: int
    plain: float
    mapped: float
    error: float
    chosen: str

    def __str__(self) -> str:
        difference = f"{self.mapped - self.plain:>+9.2f} ± {self.error:<5.2f}"
        return f"{self.name:<12}{self.images:>7}{self.plain:>9.2f}{self.mapped:>9.2f}{difference}  {self.chosen}"


def features(kind: Kind, extractor: BackboneExtractor) -> dict[str, Any]:
    """Features, labels and groups of the images that can be read."""
    train, test = extractor(kind.train), extractor(kind.test)
    names, codes = np.unique(kind.train_labels[train.kept], return_inverse=True)
    alone = kind.groups is None
    groups = np.arange(len(codes)) if kind.groups is None else np.unique(kind.groups[train.kept], return_inverse=True)[1]
    return {
        "X": train.values, "y": codes, "Xt": test.values, "yt": np.searchsorted(names, kind.test_labels[test.kept]), "g": groups,
        "grouped": not alone,
    }  # fmt: skip


def measure(name: str, found: dict[str, Any], extractor: BackboneExtractor, *, map_: str) -> Row:
    """Choose without a map and with one, and compare both on the test images."""
    groups = found["g"] if found["grouped"] else None
    correct, chosen = [], ""
    for one in ("none", map_):
        choice = choose_head(found["X"], found["y"], layers=extractor.layers, groups=groups, map=one)
        correct.append((choice.estimator.predict(found["Xt"]) == found["yt"]).astype(float))
        best = choice.evidence[0]
        chosen = f"{best.head} on {best.features}, {best.accuracy:.1%} out of sample"
    difference = correct[1] - correct[0]
    error = 100 * float(difference.std() / np.sqrt(len(difference)))
    return Row(name, len(found["y"]), 100 * float(correct[0].mean()), 100 * float(correct[1].mean()), error, chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--features", type=Path, help="folder for the features; none is written by default")
    parser.add_argument("--kinds", nargs="*", help="names of the kinds to measure; all by default")
    parser.add_argument("--map", default="auto", choices=CHOICES)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    options = parser.parse_args()
    extractor = BackboneExtractor(load_backbone(options.backbone, cache=cache_folder()))
    print("kind         images     none   mapped  difference      chosen")
    rows = []
    for name, make in kinds(options.data).items():
        if options.kinds and name not in options.kinds:
            continue
        file = None if options.features is None else options.features / f"{name}.npz"
        if file is not None and file.exists():
            with np.load(file) as stored:
                found: dict[str, Any] = dict(stored)
        else:
            found = features(make(), extractor)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, **found)
        rows.append(measure(name, found, extractor, map_=options.map))
        print(rows[-1], flush=True)
    plain, mapped = np.mean([row.plain for row in rows]), np.mean([row.mapped for row in rows])
    worse = [row.name for row in rows if row.mapped < row.plain - row.error]
    print(f"mean of {len(rows)} kinds: none {plain:.2f}, {options.map} {mapped:.2f}; worse by its error: {', '.join(worse) or 'none'}")


if __name__ == "__main__":
    main()
