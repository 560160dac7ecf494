"""Does a recommendation tell beforehand what a fit reaches, and how long it takes?

    python benchmarks/recommend.py FOLDER [SET ...] [--sample 200] [--train 500] [--test 300] [--data FOLDER]

For each of eight sets (shared ones, and drawn kinds of `head_choice.py`) and each of five networks, the embedded EfficientNet-Lite0 to
Lite2 and two that PyTorch trains here on a part of CIFAR-10 (their weights are kept in FOLDER): what is predicted from a sample of the
training images, and what a fit on all of them reaches and takes, with an empty feature store. Prints both, the share of the 95 % intervals
that hold what is reached, the rank correlation (Spearman) of predicted with reached accuracy over all pairs and the mean of those within
each set, and the ratio of measured to predicted seconds.

Goals: a rank correlation of at least 0.7 over all pairs; predicted seconds within 25 %.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from exports import sets, written
from headstart import FitSettings, Wishes, fit
from headstart.metrics import accuracy_interval
from headstart.pipeline import recommending, searching
from headstart.selection.proposals import Proposal
from measurement_data import DATA

SETS = ("waste6", "cats_dogs", "chest_xray", "usps", "pacs_photo", "textures", "shapes", "cells")
EMBEDDED = ("lite0", "lite1", "lite2")
TRAINED = ("resnet10t", "mobilenetv3_small_100")
SIDE = 64  # pixels of an image of CIFAR in their training, and of every image for them


@dataclass(frozen=True)
class Pair:
    """A network on a set: predicted and reached accuracy, predicted and measured seconds."""

    set: str
    network: str
    predicted: float
    interval: tuple[float, float]
    reached: float
    tested: int
    seconds: float
    took: float

    @property
    def held(self) -> bool:
        """Whether the predicted interval and that of the test have a value in common."""
        low, high = accuracy_interval(round(self.reached * self.tested), self.tested)
        return low <= self.interval[1] and high >= self.interval[0]

    def __str__(self) -> str:
        low, high = (100 * end for end in self.interval)
        return (
            f"{self.set:<11} {self.network:<22} predicted {100 * self.predicted:5.1f} % [{low:4.1f}, {high:5.1f}], reached "
            f"{100 * self.reached:5.1f} %; {self.seconds:5.1f} s predicted, {self.took:5.1f} s taken ({self.took / self.seconds:.2f})"
        )


def weights(name: str, folder: Path, data: Path, *, images: int, seconds: float) -> Path:
    """The weights of a network of timm that is trained from the beginning on a part of CIFAR-10, for so many seconds."""
    import timm
    import torch
    from PIL import Image

    file = folder / f"{name}-cifar.pth"
    if file.exists():
        return file
    torch.manual_seed(0)
    paths = sorted((data / "cifar10_12k" / "train").glob("*/*"))
    names = sorted({path.parent.name for path in paths})
    chosen = np.random.default_rng(0).permutation(len(paths))[:images]
    pixels = np.stack([np.asarray(Image.open(paths[row]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for row in chosen])
    labels = torch.tensor([names.index(paths[row].parent.name) for row in chosen])
    network = timm.create_model(name, num_classes=len(names))
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    began, step, losses = time.perf_counter(), 0, []
    while (done := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        rows = np.random.default_rng(step).integers(0, len(chosen), 64)
        batch = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float() / 255
        if step % 2:
            batch = batch.flip(3)
        loss = torch.nn.functional.cross_entropy(network((batch - mean) / std), labels[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        step += 1
    torch.save(network.state_dict(), file)
    print(f"{name}: {step} steps of 64 images, loss {np.mean(losses[:20]):.2f} to {np.mean(losses[-20:]):.2f}", flush=True)
    return file


@contextlib.contextmanager
def only(names: Sequence[str], sample: int) -> Iterator[None]:
    """Recommendations consider these further networks and nothing else, on a sample of so many images."""
    candidates = mock.patch.object(searching.Searching, "_candidates", side_effect=lambda: (Proposal(name, 1.0) for name in names))
    with candidates, mock.patch.object(recommending, "FEW", sample):
        yield


def pairs(name: str, data: Path, files: dict[str, Path], options: argparse.Namespace) -> Iterator[Pair]:
    """Predict for all networks, and then fit with each."""
    cache = options.folder / "cache"
    rows: dict[str, recommending.Recommended] = {}
    for further, settings in (
        (EMBEDDED[1:], FitSettings(backbone=EMBEDDED[0], cache=cache)),
        *(((), FitSettings(backbone=f"{network}@{SIDE}", weights=file, cache=cache)) for network, file in files.items()),
    ):
        emptied(cache)
        with only(further, options.sample):
            found = recommending.recommend(data, settings=settings, wishes=Wishes(budget=3600.0))
        rows |= {row.backbone: row for row in found.rows if not math.isnan(row.accuracy)}
        for network in (settings.backbone, *further):
            emptied(cache)
            own = FitSettings(backbone=network, weights=settings.weights, cache=cache)
            began = time.perf_counter()
            result = fit(data, out=options.folder / "runs" / f"{name}-{network}", settings=own)
            row, took = rows[network], time.perf_counter() - began
            yield Pair(
                name, network, row.accuracy, row.interval, result.test.accuracy, len(result.test.correct_rows), row.fit_seconds, took,
            )  # fmt: skip


def emptied(cache: Path) -> None:
    """Features are computed anew; converted networks stay."""
    for left in cache.glob("features.sqlite*"):
        left.unlink()


def rank_correlation(found: Sequence[Pair]) -> float:
    """Spearman's, of predicted with reached accuracy."""
    from scipy.stats import spearmanr

    return float(spearmanr([pair.predicted for pair in found], [pair.reached for pair in found]).statistic)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=SETS, metavar="SET")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--cifar", type=int, default=5000, help="images that the two networks are trained on")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which each of the two is trained")
    options = parser.parse_args(given)
    options.folder.mkdir(parents=True, exist_ok=True)
    files = {network: weights(network, options.folder, options.data, images=options.cifar, seconds=options.seconds) for network in TRAINED}
    found: list[Pair] = []
    for name in options.names:
        data = options.folder / "data" / name
        if not data.is_dir():
            written(sets(options.data)[name](), data, {"train": options.train, "test": options.test})
        for pair in pairs(name, data, files, options):
            found.append(pair)
            print(pair, flush=True)
    within = [rank_correlation([pair for pair in found if pair.set == name]) for name in options.names]
    ratios = np.array([pair.took / pair.seconds for pair in found])
    print(f"rank correlation over {len(found)} pairs: {rank_correlation(found):.2f}; within a set, in the mean: {np.nanmean(within):.2f}")
    print(f"intervals that overlap with that of the test: {np.mean([pair.held for pair in found]):.0%}")
    print(
        f"seconds taken over predicted: median {np.median(ratios):.2f}, {ratios.min():.2f} to {ratios.max():.2f}; "
        f"within 25 %: {np.mean(np.abs(ratios - 1) <= 0.25):.0%}"
    )


if __name__ == "__main__":
    main()
