"""What does fine-tuning reach, and in what time?

    python benchmarks/fine_tuning_sets.py [cifar10_12k] [chest_xray] [digits] [same_seed] [default-waste6] ...     # needs headstart[torch]
    python benchmarks/fine_tuning_sets.py default [--options "--seed 1"]

Each fit is a process of its own with an empty feature store; the embedded backbone has been converted before. The probe is the head on the
frozen backbone, of the same run and tested on the same images; the difference has a 95 % interval (Agresti and Min) and McNemar's p-value.
``default-NAME`` is `--strategy partial` as it is, on measurement data or on a kind that benchmarks/head_choice.py draws (``glyphs`` needs
matplotlib); ``default`` is all of these, and at the end comes their mean gain, and where the model is worse than the probe by more than the
standard error of the difference.

Goals: cifar10_12k 90 % within 15 minutes; chest_xray (split by patient) better than its probe in accuracy or AUC, or said that it is
not; digits (usps, 5 folds) 97.5 %; two runs with one seed give identical weights; by default worse than the probe by more than its error
on none, and better by 0.5 points in the mean.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from head_choice import Kind, cells, digits8, glyphs, shapes, textures
from measurement_data import DATA

DRAWN = (digits8, textures, shapes, glyphs, cells)
RUNS: dict[str, tuple[str, list[str]]] = {
    "cifar10_12k": (
        "cifar10_12k",
        ["--strategy", "partial", "--unfreeze", "5", "--image-size", "160", "--epochs", "5", "--label-smoothing", "0.1"],
    ),
    "chest_xray": (
        "chest_xray",
        ["--strategy", "partial", "--unfreeze", "5", "--epochs", "4", "--lr", "3e-4", "--augment", "rotation=5,shift=0.05"],
    ),
    "digits": (
        "digits/usps",
        [
            "--strategy", "partial", "--unfreeze", "5", "--image-size", "64", "--epochs", "8",
            "--augment", "rotation=10,shift=0.05", "--folds", "5",
        ],
    ),
    "same_seed": ("cats_dogs", ["--strategy", "partial", "--epochs", "2"]),
    "default-chest_xray": ("chest_xray", ["--strategy", "partial", "--group-from", r"(person\d+|IM-\d+)"]),
    **{f"default-{name}": (name, ["--strategy", "partial"]) for name in ("waste6", "cats_dogs", "digits/usps")},
    **{f"default-{kind.__name__}": (kind.__name__, ["--strategy", "partial"]) for kind in DRAWN},
}  # fmt: skip


def drawn(kind: Callable[[], Kind], folder: Path) -> Path:
    """A kind of images as files, in a train and a test part."""
    made = kind()
    for part, images, labels in (("train", made.train, made.train_labels), ("test", made.test, made.test_labels)):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:04d}.png", compress_level=1)
    return folder


def fit(data: str, options: list[str], folder: Path, name: str) -> tuple[dict[str, Any], float]:
    """The manifest of a run, and the seconds of the whole process."""
    out, cache = folder / name, folder / "cache"
    for left in cache.glob("features.sqlite*"):
        left.unlink()
    kinds = {kind.__name__: kind for kind in DRAWN}
    where = drawn(kinds[data], folder / "drawn" / data) if data in kinds else DATA / data
    begun = time.perf_counter()
    command = [sys.executable, "-m", "headstart", "fit", str(where), "--out", str(out), "--cache", str(cache), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "manifest.json").read_text(encoding="utf-8")), time.perf_counter() - begun


def show(name: str, manifest: dict[str, Any], seconds: float) -> tuple[float, float]:
    """Print what came of a run; the gain over its probe, and its standard error."""
    metrics, training = manifest["metrics"], manifest["story"]["training"]
    low, high = metrics["test_accuracy_interval"]
    probe = training["probe"]
    print(f"{name}: {metrics['test_accuracy']:.4f} [{low:.3f}, {high:.3f}] in {seconds:.0f} s, {', '.join(training['trained'])} trained, "
          f"{training['shipped']} shipped")  # fmt: skip
    gain, (worst, best) = probe["gain"], probe["gain_interval"]
    print(f"  probe {probe['accuracy']:.4f}; fine-tuning {100 * gain:+.2f} points [{100 * worst:+.2f}, {100 * best:+.2f}], "
          f"p = {probe['p_value']:.2g}, ROC AUC {probe['auc_gain']:+.4f}")  # fmt: skip
    print(f"  {manifest['story']['reason']}", flush=True)
    if "cross_validation" in metrics:
        print(f"  cross-validated: {metrics['cross_validation']['accuracy']:.4f}")
    return gain, (best - worst) / (2 * 1.96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", choices=["default", *RUNS, []], default=list(RUNS))
    parser.add_argument("--options", help="more options of `headstart fit`, for all runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from headstart.backbones import load_backbone

        load_backbone(cache=Path(folder) / "cache", announce=lambda message: None)
        defaults = [name for name in RUNS if name.startswith("default-")]
        names = [one for name in arguments.runs for one in (defaults if name == "default" else [name])]
        gains: dict[str, tuple[float, float]] = {}
        for name in names:
            data, options = RUNS[name]
            options = [*options, *(arguments.options or "").split()]
            manifest, seconds = fit(data, options, Path(folder), name.replace("/", "-"))
            gains[name] = show(name, manifest, seconds)
            if name == "same_seed":
                again, _ = fit(data, options, Path(folder), "again")
                same = all(manifest["files"][file] == again["files"][file] for file in ("model.onnx", "head.safetensors"))
                print(f"  the same command again: model.onnx and head.safetensors are {'identical' if same else 'DIFFERENT'}")
        found = [gains[name] for name in defaults if name in gains]
        if len(found) > 1:
            worse = [name for name in defaults if name in gains and gains[name][0] < -gains[name][1]]
            print(f"mean gain of {len(found)} sets: {100 * sum(gain for gain, _ in found) / len(found):+.2f} points; "
                  f"worse by more than the error: {', '.join(worse) or 'none'}")  # fmt: skip


if __name__ == "__main__":
    main()
