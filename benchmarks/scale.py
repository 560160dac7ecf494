"""A fit of very many images: peak memory of each step, calibration error, and does the learning curve hold what is tested?

    python benchmarks/scale.py [--data FOLDER] [--images 60000] [--folder FOLDER] [--head auto]

A sixth of the images is tested. Their features are made from those of `cifar10_12k`, which are computed once into FOLDER: points between an
image and one like it, with noise. Labels are drawn with the probabilities of a head fitted on the real ones, so that what is true is known.
Everything lies in a feature store, so that the fit is that of a user who repeats it. It runs in a process of its own, whose resident set is
measured (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from headstart.data import Dataset, dataset_from_arrays, read_dataset
from headstart.features import FeatureStore
from headstart.features.prepared import ExtractorSettings, Prepared, prepare
from headstart.modalities.image import image_digest
from headstart.pipeline import FitSettings, fit
from headstart.progress import Listener
from headstart.selection import choose_head
from measurement_data import DATA

NEIGHBOURS = 20
NOISE = 0.3
BLOCK = 2000


def enlarged(features: np.ndarray, logits: object, count: int, last: slice) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, D) like the given ones, and labels drawn with the probabilities of `logits`."""
    random = np.random.default_rng(0)
    unit = features[:, last] - features[:, last].mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = np.concatenate(
        [np.argpartition(-(unit[i : i + BLOCK] @ unit.T), NEIGHBOURS)[:, :NEIGHBOURS] for i in range(0, len(unit), BLOCK)]
    )
    spread = features.std(axis=0) * NOISE
    values, labels = np.empty((count, features.shape[1]), np.float32), np.empty(count, np.int64)
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        own = random.integers(0, len(features), rows.stop - start)
        other = near[own, random.integers(0, NEIGHBOURS, len(own))]
        share = random.random((len(own), 1), np.float32)
        # noise of the data's own shape: the difference of two images
        noise = features[random.permutation(len(features))[: len(own)]] - features[random.permutation(len(features))[: len(own)]]
        values[rows] = np.maximum(features[own] * (1 - share) + features[other] * share + NOISE / 2 * noise, features.min(axis=0))
        values[rows] += spread * 0.1 * random.standard_normal(values[rows].shape, np.float32)
        scores = logits(values[rows])
        scores -= scores.max(axis=1, keepdims=True)
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        labels[rows] = (chances.cumsum(axis=1) < random.random((len(own), 1))).sum(axis=1).clip(max=scores.shape[1] - 1)
    return values, labels


def images_of(count: int) -> np.ndarray:
    """Tiny images, all different, that stand for the features."""
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def fill(prepared: Prepared, count: int, data: Path, folder: Path) -> None:
    """Put the enlarged features into the store, and the labels beside it."""
    real = read_dataset(data / "cifar10_12k")
    features = prepared.extract(real.images).values
    layers = prepared.extractor.layers
    teacher = choose_head(features, real.targets.array, layers=layers, head="kernel_ridge").estimator
    last = prepared.extractor.backbone.last
    values, labels = enlarged(features, teacher.logits, count, slice(last.start, last.stop))
    images = images_of(count)
    with FeatureStore(folder / "cache" / "features.sqlite") as store:
        for start in range(0, count, BLOCK):
            rows = slice(start, start + BLOCK)
            store.put(prepared.extractor.id, [image_digest(image) for image in images[rows]], values[rows])
    np.save(folder / f"labels-{count}.npy", labels)


def dataset(count: int, folder: Path) -> Dataset:
    """The images with their labels; every sixth is tested."""
    labels = np.load(folder / f"labels-{count}.npy")
    parts = np.where(np.arange(count) % 6 == 5, "test", "train")
    return dataset_from_arrays(images_of(count), [f"class {label}" for label in labels], parts=parts.tolist())


class Peaks(Listener):
    """Prints the peak of each stage, in MB: the kernel is told to begin anew."""

    def __init__(self) -> None:
        self.name, self.began = "start", time.perf_counter()

    def stage(self, name: str) -> None:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        now = time.perf_counter()
        print(f"{self.name:<40} {peak:>6.0f} MB {now - self.began:>7.1f} s", flush=True)
        self.name, self.began = name, now


def measure(count: int, folder: Path, head: str) -> None:
    """Fit, and print what it took and how true it is."""
    listener = Peaks()
    result = fit(dataset(count, folder), out=folder / "run", settings=FitSettings(cache=folder / "cache", head=head), listener=listener)
    listener.stage("end")
    test, curve = result.test, result.judged.learning_curve
    error, (_, low, high) = test.scores["calibration_error"], test.calibration_by_chance
    print(f"head: {result.head}; {result.choice.reason}")
    print(f"accuracy {test.accuracy:.4f} [{test.interval[0]:.4f}, {test.interval[1]:.4f}], log loss {test.scores['log_loss']:.4f}")
    print(f"calibration error {100 * error:.2f} %, by chance {100 * low:.2f} to {100 * high:.2f} %")
    print(json.dumps(None if curve is None else curve.to_dict()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--folder", type=Path, default=Path("scale"))
    parser.add_argument("--head", default="auto")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.images, options.folder, options.head)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare(ExtractorSettings("efficientnet_lite0", None, None, "auto", str(options.folder / "cache")))
    if not (options.folder / f"labels-{options.images}.npy").exists():
        fill(prepared, options.images, options.data, options.folder)
    print(f"features: {options.images * prepared.extractor.dim * 4 / 2**20:.0f} MB")
    command = [
        sys.executable,
        __file__,
        "--measure",
        "--images",
        str(options.images),
        "--folder",
        str(options.folder),
        "--head",
        options.head,
    ]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
