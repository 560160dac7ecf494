"""Anomaly detection: how well are defects found, how many false alarms are there, and how long does it take, against anomalib?

    python benchmarks/anomaly.py [DATA ...]                     a fit of each folder, which is laid out as in MVTec AD; by default
                                                                anomaly_cookie
    python benchmarks/anomaly.py --few                          fits on 1, 5, 10 and 20 of the good images
    python benchmarks/anomaly.py --variants                     what parts of the method bring: memory, PaDiM, the score of an image
    PEER=path/to/python python benchmarks/anomaly.py --peer     PatchCore of anomalib 2, in an environment of its own where
                                                                `pip install anomalib[cpu]` and `pip install headstart` were done

Goals on anomaly_cookie (31 good images to learn from, 14 good and 40 broken ones to test on; 256 px, two cores): AUROC of images 0.99; the
whole fit with its test within 30 s; false alarms on good test images inside the binomial interval of the rate that was asked for; as good
as anomalib's PatchCore on the same backbone and maps, and three times as fast.

Both sides read the same files and learn from the same maps (the last of strides 8 and 16 of EfficientNet-Lite0, with the same weights) at
the same size. Anomalib's scores are of the largest value of its map, re-weighted as in the paper.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from measurement_data import DATA

RATE = 0.05


def fitted(folder: Path, cache: Path, **settings: Any) -> tuple[Any, tuple[float, float]]:
    """The result of a fit with its run folder, and the seconds and seconds of processors that it took."""
    from headstart import FitSettings, fit

    with tempfile.TemporaryDirectory() as out:
        began, used = time.perf_counter(), time.process_time()
        result = fit(folder, out=Path(out) / "run", settings=FitSettings(cache=cache, false_alarm_rate=RATE, **settings))
        return result, (time.perf_counter() - began, time.process_time() - used)


def binomial(count: int, rate: float) -> tuple[int, int]:
    """The central 95 % of false alarms on so many good images."""
    from scipy.stats import binom

    return int(binom.ppf(0.025, count, rate)), int(binom.ppf(0.975, count, rate))


def show(name: str, result: Any, seconds: tuple[float, float]) -> None:
    test, model = result.test, result.choice.estimator
    low, high = test.interval
    pixels = "" if test.pixels is None else f"  pixels {test.pixels.roc_auc:.4f}  AUPRO {test.pixels.aupro:.4f}"
    print(
        f"{name:<28} {model.detector.name:<9} AUROC {test.roc_auc:.4f} [{low:.4f}, {high:.4f}] (goal 0.99){pixels}  "
        f"{seconds[0]:5.1f} s (goal 30), {seconds[1]:.1f} s of processors"
    )
    inside = binomial(test.good, RATE)
    print(
        f"{'':<28} {test.false_alarms} false alarms on {test.good} good test images at {RATE:.0%} (goal {inside[0]} to {inside[1]}); "
        f"{test.found} of {test.defects} defects found; {model.alarms.sentence()}"
    )


def few(folder: Path, cache: Path) -> None:
    """How many good images it takes: the first so many of them."""
    for count in (1, 5, 10, 20):
        with tempfile.TemporaryDirectory() as place:
            data = Path(place) / folder.name
            shutil.copytree(folder, data, ignore=shutil.ignore_patterns("train"))
            (data / "train" / "good").mkdir(parents=True)
            for path in sorted((folder / "train" / "good").iterdir())[:count]:
                shutil.copy(path, data / "train" / "good")
            show(f"{folder.name}, {count} good images", *fitted(data, cache))


def variants(folder: Path, cache: Path) -> None:
    """Images are read and their maps are computed once."""
    from headstart.heads.patch_memory import PatchMemory
    from headstart.heads.position_gaussians import PositionGaussians
    from headstart.metrics import roc_auc

    result, _ = fitted(folder, cache)
    table = result.table
    maps = [table.maps.image(row) for row in range(len(table))]
    bad = table.targets[table.test] > 0

    def area(scores: list[float]) -> float:
        return float(roc_auc(bad, np.array(scores))[0])

    for seed in range(3):
        for memory in (200, 500, 1000, 2000):
            found = PatchMemory.fit([maps[row] for row in table.train], memory=memory, seed=seed)
            tested = [maps[row] for row in table.test]
            plain = [float(found.distances(found.grid(one)).max()) for one in tested]
            smooth = [float(found.map(one).max()) for one in tested]
            print(
                f"seed {seed}  PatchCore of {memory:>5} patches: {area(smooth):.4f}; without smoothing {area(plain):.4f}; "
                f"re-weighted as in the paper {area([reweighted(found, one) for one in tested]):.4f}"
            )
        gaussians = PositionGaussians.fit([maps[row] for row in table.train], seed=seed)
        print(f"seed {seed}  PaDiM: {area([float(gaussians.map(maps[row]).max()) for row in table.test]):.4f}")


def reweighted(found: Any, maps: Any, neighbours: int = 9) -> float:
    """The score of equation 7 of the PatchCore paper."""
    patches = found.grid(maps)
    away = found.distances(patches)
    worst = patches[away.argmax()] - found.centre
    to_memory = np.linalg.norm(found.memory - worst, axis=1)
    nearest = found.memory[to_memory.argmin()]
    around = np.argsort(np.linalg.norm(found.memory - nearest, axis=1))[:neighbours]
    scaled = to_memory / np.sqrt(patches.shape[1])
    weight = 1 - np.exp(scaled.min()) / np.exp(scaled[around]).sum()
    return float(weight * away.max())


PEER = """
import json, sys, time
import numpy as np, torch
from pathlib import Path
from PIL import Image
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[2]))
folder, ratio, weights = Path(sys.argv[1]), float(sys.argv[3]), sys.argv[4]
def images(part):
    return sorted(path for path in (folder / part).glob("*/*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"))
def batches(paths):
    mean, std = np.array([0.5] * 3), np.array([0.5] * 3)
    for start in range(0, len(paths), 16):
        opened = [Image.open(path).convert("RGB") for path in paths[start : start + 16]]
        pixels = [np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC)) for image in opened]
        yield torch.from_numpy(((np.stack(pixels) / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
began, used = time.perf_counter(), time.process_time()
model = PatchcoreModel(layers=("blocks.2", "blocks.4"), backbone="tf_efficientnet_lite0", pre_trained=False, num_neighbors=9)
state = torch.load(weights, weights_only=True)
network = model.feature_extractor.feature_extractor
own = network.state_dict()
chosen = {}
for name in own:
    source = name if name in state else next((key for key in state if key.replace(".", "_") == name.replace(".", "_")), None)
    if source is not None and state[source].shape == own[name].shape: chosen[name] = state[source]
assert len(chosen) == len(own), f"{len(own) - len(chosen)} of {len(own)} weights are not in the file"
network.load_state_dict(chosen)
model.train()
train, test = images("train"), images("test")
with torch.no_grad():
    for batch in batches(train): model(batch)
    fitting = time.perf_counter()
    model.subsample_embedding(ratio)
    subsampled = time.perf_counter()
    model.eval()
    scores, maps = [], []
    for batch in batches(test):
        found = model(batch)
        scores += found.pred_score.reshape(-1).tolist()
        maps.append(found.anomaly_map.reshape(len(batch), *found.anomaly_map.shape[-2:]).numpy())
ended = time.perf_counter()
bad = np.array([path.parent.name != "good" for path in test])
scores = np.array(scores)
area = float((np.sign(scores[bad][:, None] - scores[~bad]) / 2 + 0.5).mean())
np.savez(sys.argv[5], maps=np.concatenate(maps), names=[str(path) for path in test])
times = {"seconds": ended - began, "used": time.process_time() - used, "coreset": subsampled - fitting}
print(json.dumps({"area": area, "memory": len(model.memory_bank), **times}))
"""


def peer(folder: Path, cache: Path, ratios: list[float]) -> None:
    """Both sides in turn, with as many threads as there are cores."""
    import torch

    from headstart.backbones import load_backbone, torch_network
    from headstart.engine import available_cores
    from headstart.tasks.anomaly.evaluation import PixelScores

    python = os.environ.get("PEER")
    if not python:
        sys.exit("Name the Python of an environment with anomalib in PEER.")
    weights = cache / "weights.pt"
    torch.save(torch_network(load_backbone("lite0", cache=cache)).model.state_dict(), weights)
    fitted(folder, cache)  # the backbone is converted once for all, which is no part of a fit
    result, seconds = fitted(folder, cache)
    show(f"Headstart on {folder.name}", result, seconds)
    for ratio in ratios:
        with tempfile.TemporaryDirectory() as place:
            saved = Path(place) / "maps.npz"
            command = [python, "-c", PEER, str(folder), str(available_cores()), str(ratio), str(weights), str(saved)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"anomalib failed:\n{done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            arrays = np.load(saved)
            names = [Path(str(image)).as_posix() for image in result.dataset.inputs]
            rows = np.array([names.index(Path(str(name)).as_posix()) for name in arrays["names"]])
            pixels = PixelScores.of(arrays["maps"], result.dataset.targets.take(rows))
        said = "" if pixels is None else f"  pixels {pixels.roc_auc:.4f}  AUPRO {pixels.aupro:.4f}"
        print(
            f"anomalib, coreset {ratio:<10g}   PatchCore AUROC {found['area']:.4f}{said}  {found['seconds']:.1f} s, "
            f"{found['used']:.1f} s of processors, of which {found['coreset']:.1f} s for a coreset of {found['memory']}. Its reading, fit "
            f"and test alone, without imports, take {found['seconds'] / seconds[0]:.1f} times as long, and "
            f"{found['used'] / seconds[1]:.1f} times the processors, as the whole fit of Headstart with the choice of a detector, "
            "threshold, intervals and report (goal 3)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--ratio", type=float, nargs="*", default=[0.1], help="of anomalib's coreset; 0.1 is its default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        for folder in arguments.data or [DATA / "anomaly_cookie"]:
            if arguments.peer:
                peer(folder, Path(cache), arguments.ratio)
            elif arguments.variants:
                variants(folder, Path(cache))
            elif arguments.few:
                few(folder, Path(cache))
            else:
                for seed in range(3):
                    show(f"{folder.name}, seed {seed}", *fitted(folder, Path(cache), seed=seed))


if __name__ == "__main__":
    main()
