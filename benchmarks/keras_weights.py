"""Keras' own weight files, and whether a network with them computes what Keras computes.

    python benchmarks/keras_weights.py write FOLDER [NAME ...]      (with TensorFlow and Keras, in an environment of its own)
    python benchmarks/keras_weights.py compare FOLDER [NAME ...]    (with headstart[torch])

`write` makes each network of ``keras.applications`` with seeded weights, the statistics of its BatchNorms included, and writes three files
(``.h5`` with its top, ``.h5`` without, ``.weights.h5``) and what Keras computes for two images: the map before the top, pooled, after
``preprocess_input`` and for pixels divided by 255. `compare` loads each file as ``--weights`` does, and compares.
Goal: 1e-3 relative to the largest value, for every network and file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

NAMES = (
    *("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2", "InceptionV3", "Xception"),
    *("MobileNet", "MobileNetV2"), *(f"EfficientNetB{number}" for number in range(8)),
)  # fmt: skip
FILES = (".h5", "_notop.h5", ".weights.h5")
TOLERANCE = 1e-3


def seeded(model: Any) -> None:
    """Weights that keep the size of what flows through, and statistics that are not those of a new network."""
    random = np.random.default_rng(7)
    for layer in model.layers:
        kind, values = type(layer).__name__, layer.get_weights()
        if kind == "BatchNormalization":
            for index, name in enumerate(["gamma"] * (len(values) == 4) + ["beta", "mean", "variance"]):
                low, high = {"gamma": (0.6, 1.0), "beta": (-0.2, 0.2), "mean": (-0.2, 0.2), "variance": (0.6, 1.4)}[name]
                values[index] = random.uniform(low, high, values[index].shape).astype("f4")
        elif kind != "Normalization":
            for index, value in enumerate(values):
                fan = max(np.prod(value.shape[:-1]), 1) if kind != "DepthwiseConv2D" else np.prod(value.shape[:2])
                scale = np.sqrt(1.6 / fan) if value.ndim > 1 else 0.1
                values[index] = (random.standard_normal(value.shape) * scale).astype("f4")
        layer.set_weights(values)


def pictures(side: int) -> np.ndarray:
    """Two images (uint8) with coarse and fine structure."""
    random = np.random.default_rng(3)
    coarse = random.integers(40, 216, (2, 6, 6, 3)).repeat(-(-side // 6), 1).repeat(-(-side // 6), 2)[:, :side, :side]
    return np.clip(coarse + random.integers(-40, 41, (2, side, side, 3)), 0, 255).astype(np.uint8)


def write(folder: Path, names: list[str]) -> None:
    """The files and what Keras computes."""
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_CPP_MIN_LOG_LEVEL"] = "", "3"
    import h5py
    import keras
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        keras.backend.clear_session()
        whole = getattr(keras.applications, name)(weights=None)
        seeded(whole)
        side = whole.input_shape[1]
        bare = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(side, side, 3))
        # by position, since layers without a name of their own are numbered on
        tops = [layer for layer in whole.layers if layer.weights]
        for layer, theirs in zip([layer for layer in bare.layers if layer.weights], tops, strict=False):
            layer.set_weights(theirs.get_weights())
        for path, model in ((f"{name}.h5", whole), (f"{name}_notop.h5", bare)):
            with h5py.File(folder / path, "w") as file:
                save_weights_to_hdf5_group(file, model)
        bare.save_weights(folder / f"{name}.weights.h5")
        images = pictures(side)
        module = sys.modules[getattr(keras.applications, name).__module__]
        ready = module.preprocess_input(images.astype("f4"))
        pooled = bare.predict(ready, verbose=0).mean((1, 2))
        unit = bare.predict(images.astype("f4") / 255, verbose=0).mean((1, 2))
        np.savez(folder / f"{name}.npz", pooled=pooled, unit=unit)
        print(f"{name:<16} {side} px  Keras {keras.__version__}  largest feature {np.abs(pooled).max():.3g}", flush=True)


def compare(folder: Path, names: list[str]) -> None:
    """Each file against what Keras computed."""
    import dataclasses

    import torch

    from headstart.backbones import load_backbone, torch_network
    from headstart.engine import open_engine

    torch.set_grad_enabled(False)
    worst = 0.0
    for name in names:
        theirs, differences = np.load(folder / f"{name}.npz"), {}
        for ending in FILES:
            path = folder / f"{name}{ending}"
            with tempfile.TemporaryDirectory() as cache:
                backbone = load_backbone(name, weights=path, cache=Path(cache), announce=lambda message: None)
                side = backbone.record.input_size
                images, last = pictures(side), backbone.last
                found = np.stack([one for (one,) in open_engine(backbone.network, size=side).run(images)])[:, last.start : last.stop]
                differences[ending] = relative(found, theirs["pooled"])
        if backbone.record.channels == "bgr":  # what the recipes do: 0..1, and the channels as they are
            record = dataclasses.replace(backbone.record, mean=(0.0,) * 3, std=(1.0,) * 3, channels="rgb")
            network = torch_network(dataclasses.replace(backbone, record=record), weights=path, announce=lambda message: None)
            found = network(torch.from_numpy(images)).numpy()[:, last.start : last.stop]
            differences["0..1"] = relative(found, theirs["unit"])
        worst = max(worst, *differences.values())
        print(f"{name:<16} {side} px  " + "  ".join(f"{ending} {value:.1e}" for ending, value in differences.items()), flush=True)
    print(f"{len(names)} networks; the largest difference from Keras is {worst:.1e}")
    if not worst <= TOLERANCE:
        raise SystemExit(1)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    asked = parser.parse_args()
    {"write": write, "compare": compare}[asked.do](asked.folder, asked.names or list(NAMES))
