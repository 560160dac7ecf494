"""How good and how fast is `headstart fit` on real sets: accuracy, seconds cold and warm, head against extraction?

    python benchmarks/fit_sets.py [--data FOLDER] [SET ...]        sets: cats_dogs chest_xray cifar10_12k digits/usps

Every fit is a process of its own, as a user starts it. "Cold" has an empty feature store, but a converted backbone; "warm" repeats the same
command.
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

GOALS = {"cats_dogs": (0.985, 20.0), "chest_xray": (0.965, 90.0), "cifar10_12k": (0.78, 120.0)}


def fit(data: Path, out: Path, cache: Path, *options: str) -> tuple[float, dict[str, object]]:
    """Seconds of the whole process, and the manifest."""
    command = [sys.executable, "-m", "headstart", "fit", str(data), "--out", str(out), "--cache", str(cache), "-q", *options]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    taken = time.perf_counter() - begun
    return taken, json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[*GOALS, "digits/usps"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    options = parser.parse_args()
    print("set            images  accuracy [95 % interval]   goal   cold s  goal   warm s  warm/cold  head/features  head")
    for name in options.sets:
        with tempfile.TemporaryDirectory() as folder:
            from headstart.backbones import load_backbone

            cache, out = Path(folder) / "cache", Path(folder) / "run"
            load_backbone(options.backbone, cache=cache, announce=lambda message: None)
            given = ("--backbone", options.backbone)
            cold, manifest = fit(options.data / name, out, cache, *given)
            warm, _ = fit(options.data / name, out, cache, *given)
            story: Any = manifest.get("story", manifest)  # protocol 1 had no story
            metrics, seconds = manifest["metrics"], story["seconds"]
            assert isinstance(metrics, dict)
            assert isinstance(seconds, dict)
            low, high = metrics["test_accuracy_interval"]
            images = sum(1 for _ in (out / "split.csv").open(encoding="utf-8")) - 1
            accuracy_goal, time_goal = GOALS.get(name, (None, None))
            chosen = next(row for row in story["evidence"] if row["chosen"])
            print(
                f"{name:<14} {images:>6}  {metrics['test_accuracy']:.4f} [{low:.4f}, {high:.4f}]  {accuracy_goal or '-':>6}  {cold:>6.1f}  "
                f"{time_goal or '-':>5}  {warm:>6.2f}  {warm / cold:>9.3f}  {seconds['head'] / seconds['features']:>13.2f}  "
                f"{chosen['head']} on {chosen.get('view', chosen['layers'])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
