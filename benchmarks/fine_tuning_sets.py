"""What does fine-tuning reach, and in what time?

    python benchmarks/fine_tuning_sets.py [cifar10_12k] [chest_xray] [digits] [same_seed]        (needs headstart[torch])

Each fit is a process of its own with an empty feature store; the embedded backbone has been converted before. The probe is the head on the
frozen backbone, of the same run and tested on the same images; the difference has a 95 % interval (Agresti and Min) and McNemar's p-value.

Goals: cifar10_12k 90 % within 15 minutes; chest_xray (split by patient) better than its probe in accuracy or AUC, or said that it is
not; digits (usps, 5 folds) 97.5 %; two runs with one seed give identical weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measurement_data import DATA

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
}  # fmt: skip


def fit(data: str, options: list[str], folder: Path, name: str) -> tuple[dict[str, Any], float]:
    """The manifest of a run, and the seconds of the whole process."""
    out, cache = folder / name, folder / "cache"
    for left in cache.glob("features.sqlite*"):
        left.unlink()
    begun = time.perf_counter()
    command = [sys.executable, "-m", "headstart", "fit", str(DATA / data), "--out", str(out), "--cache", str(cache), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "manifest.json").read_text(encoding="utf-8")), time.perf_counter() - begun


def show(name: str, manifest: dict[str, Any], seconds: float) -> None:
    metrics, training = manifest["metrics"], manifest["story"]["training"]
    low, high = metrics["test_accuracy_interval"]
    probe = training["probe"]
    print(f"{name}: {metrics['test_accuracy']:.4f} [{low:.3f}, {high:.3f}] in {seconds:.0f} s, {', '.join(training['trained'])} trained")
    gain, (worst, best) = probe["gain"], probe["gain_interval"]
    print(f"  probe {probe['accuracy']:.4f}; fine-tuning {100 * gain:+.2f} points [{100 * worst:+.2f}, {100 * best:+.2f}], "
          f"p = {probe['p_value']:.2g}, ROC AUC {probe['auc_gain']:+.4f}")  # fmt: skip
    if "cross_validation" in metrics:
        print(f"  cross-validated: {metrics['cross_validation']['accuracy']:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], default=list(RUNS))
    parser.add_argument("--options", help="in place of those of the script, for one run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from headstart.backbones import load_backbone

        load_backbone(cache=Path(folder) / "cache", announce=lambda message: None)
        for name in arguments.runs:
            data, options = RUNS[name]
            options = arguments.options.split() if arguments.options else options
            manifest, seconds = fit(data, options, Path(folder), name)
            show(name, manifest, seconds)
            if name == "same_seed":
                again, _ = fit(data, options, Path(folder), "again")
                same = all(manifest["files"][file] == again["files"][file] for file in ("model.onnx", "head.safetensors"))
                print(f"  the same command again: model.onnx and head.safetensors are {'identical' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
