"""Does the preprocessing inside an exported file give the pixels that the library gives, and at what speed?

    python benchmarks/resize_graph.py FOLDER [FOLDER ...] [--images 1000] [--scaled 200]

Photographs of all sizes, spread evenly over the folders, decoded at full size, through the graph in each engine that is installed and
through `Preprocessing`; and some of them again, scaled to sides of 16 to 4,000 pixels by chance, with noise. Goal: every pixel the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.engine import open_session
from headstart.export.preprocessing_graph import write_preprocessing
from headstart.modalities.image import Preprocessing, is_image_name, read_image
from headstart.onnx_graph import OnnxGraph

WAYS = (
    Preprocessing(224, 0.875), Preprocessing(288, 0.95), Preprocessing(224, 0.9, "bilinear"), Preprocessing(224, 1.0, "bicubic", "squash"),
    Preprocessing(224, 0.95, "lanczos"),
)  # fmt: skip


def scaled(image: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """An image at a size of chance, with noise in each pixel: enlarged photographs alone would be smooth."""
    long = np.exp(generator.uniform(np.log(16), np.log(4000)))
    sides = (long * np.clip([1.0, np.exp(generator.uniform(-1.2, 0))], 0, 1)).round().astype(int)
    width, height = generator.permutation(np.maximum(sides, 1)).tolist()
    pixels = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), dtype=np.int16)
    return np.clip(pixels + generator.integers(-12, 13, pixels.shape, dtype=np.int16), 0, 255).astype(np.uint8)


def main() -> None:
    """Count the pixels that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--scaled", type=int, default=200)
    options = parser.parse_args()
    files = sorted(path for folder in options.folders for path in folder.rglob("*") if is_image_name(path.name))
    files = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, options.images).round().astype(int))]
    for preprocessing in WAYS:
        graph, size = OnnxGraph(), preprocessing.size
        graph.node("Identity", write_preprocessing(graph, "images", preprocessing), output="pixels")
        model = graph.model(inputs={"images": (np.uint8, ("N", "h", "w", 3))}, outputs={"pixels": (np.uint8, ("N", size, size, 3))})
        for engine in filter(importlib.util.find_spec, ("onnxruntime", "openvino")):
            run, differing, pixels, spent = open_session(model.SerializeToString(), kind=engine, outputs=["pixels"]), 0, 0, [0.0, 0.0]
            generator, sizes = np.random.default_rng(0), set()
            for number in range(len(files) + options.scaled):
                image = read_image(files[number % len(files)])
                if number >= len(files):
                    image = scaled(image, generator)
                sizes.add(image.shape)
                begun = time.perf_counter()
                found = run({"images": image[None]})["pixels"][0]
                between = time.perf_counter()
                wanted = preprocessing(image)
                spent[0] += between - begun
                spent[1] += time.perf_counter() - between
                pixels += int((found != wanted).any(axis=2).sum())
                differing += int((found != wanted).any())
            each, own = (1000 * seconds / (number + 1) for seconds in spent)
            print(
                f"{preprocessing.id:<28} {engine:<11} {number + 1} images of {len(sizes)} sizes: {differing} differ, in {pixels} pixels; "
                f"{each:.1f} ms an image (Pillow {own:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
