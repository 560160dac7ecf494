"""Every network of the catalogue with seeded random weights: converted to ONNX, and its features compared with PyTorch's.

    python benchmarks/conversions.py [NAME ...]         (needs headstart[torch]; by default what is downloaded, some minutes)

Random weights say nothing about accuracy, but everything about whether a network can be loaded, converted and run: the comparison is with
PyTorch, on other images than those that the conversion checks itself with, by ONNX Runtime and by the engine that `fit` uses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from headstart.backbones import catalogue, find, load_backbone, torch_network
from headstart.backbones.stages import noise
from headstart.engine import open_engine

TOLERANCE = 1e-3  # relative to the largest value of each layer


def main() -> None:
    """Print a line a network, and a last line with the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or [record.name for record in catalogue() if not record.embedded]
    worst: dict[str, float] = {}
    for name in names:
        record, began = find(name), time.perf_counter()
        with tempfile.TemporaryDirectory() as cache:
            backbone = load_backbone(name, weights="random", cache=Path(cache), announce=lambda message: None)
            taken, side = time.perf_counter() - began, record.input_size
            images = noise(side, side, seed=11, count=2)
            with torch.inference_mode():
                expected = torch_network(backbone, weights="random", announce=lambda message: None)(images).numpy()
            found = np.stack([one for (one,) in open_engine(backbone.network, size=side).run(images.numpy())])
            parts = [slice(layer.start, layer.stop) for layer in backbone.layers]
            worst[name] = max(float(np.abs(found[:, part] - expected[:, part]).max() / np.abs(expected[:, part]).max()) for part in parts)
            size = backbone.network.stat().st_size / 1e6
        print(f"{record.name:<46} {side} px  {len(parts):>2} layers  {size:7.1f} MB  {taken:5.1f} s  {worst[name]:.1e}", flush=True)
    last = max(worst, key=worst.__getitem__)
    print(f"{len(worst)} networks; the largest difference from PyTorch is {worst[last]:.1e} ({last})")
    if worst[last] > TOLERANCE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
