"""Write the vocabulary of the Fisher vectors of dense SIFT, src/headstart/backbones/sift_vocabulary.safetensors.

    python docs/make_vocabulary.py

Descriptors come from dead leaves images (Lee, Mumford and Huang, "Occlusion models for natural images", 2001): shapes that occlude each
other, whose sizes follow a power law, with shading and noise. They have the statistics of edges in photographs, and are of no data set: so
nothing of anybody's test images is in the vocabulary, and it has no other licence than the code. 128 numbers are projected on their first
principal components; a Gaussian mixture with diagonal covariance is fitted to these, with the position of the descriptor in the image.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from sklearn.mixture import GaussianMixture

from headstart.backbones.handcrafted_graphs import VOCABULARY, Sift
from headstart.engine import open_engine
from headstart.onnx_graph import OnnxGraph

IMAGES, SAMPLE = 256, 60_000
FOLDER = Path(__file__).parents[1] / "src" / "headstart" / "backbones"


def dead_leaves(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """An image (side, side, 3), uint8, grey."""
    canvas = np.full((side, side), rng.uniform(0, 255), np.float32)
    down, across = np.mgrid[:side, :side] / side - 0.5
    for _ in range(300):
        radius = 3 / np.sqrt(rng.uniform(0.002, 1.0))  # density ~ radius^-3 above 3 pixels
        x, y = rng.uniform(-radius, side + radius, 2)
        mask = Image.new("L", (side, side))
        draw, kind = ImageDraw.Draw(mask), rng.integers(4)
        if kind == 0:
            flat = rng.uniform(0.3, 1.0)
            draw.ellipse((x - radius, y - flat * radius, x + radius, y + flat * radius), fill=255)
        elif kind == 3:  # a stroke, as in drawings and text
            end = rng.uniform(-3 * radius, 3 * radius, 2)
            draw.line((x, y, x + end[0], y + end[1]), fill=255, width=int(rng.integers(1, 6)))
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
            draw.polygon([(x + radius * np.cos(one), y + radius * np.sin(one)) for one in angles], fill=255)
        slope = rng.normal(0, 60, 2)
        leaf = rng.uniform(0, 255) + slope[0] * across + slope[1] * down + rng.normal(0, rng.exponential(6), (side, side))
        canvas = np.where(np.asarray(mask) > 0, leaf, canvas)
    return np.repeat(canvas.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def descriptors(feature: Sift, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The descriptors of images, float32 (n, P, 128)."""
    graph = OnnxGraph()
    pixels = graph.node("Transpose", graph.node("Cast", "images", to=1), perm=[0, 3, 1, 2])
    graph.node("Identity", feature.write_descriptors(graph, pixels), output="features")
    inputs, outputs = {"images": ("uint8", ("N", "H", "W", 3))}, {"features": ("float32", ("N", feature.count, 128))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sift.onnx"
        path.write_bytes(graph.model(inputs=inputs, outputs=outputs).SerializeToString())
        return np.stack([values for (values,) in open_engine(path, size=feature.size).run(images)])


def main() -> None:
    """Make the images, describe them, and fit."""
    rng, feature = np.random.default_rng(0), Sift()
    found = descriptors(feature, [dead_leaves(rng, feature.size) for _ in range(IMAGES)])
    places = np.broadcast_to(feature.positions(), (len(found), feature.count, 2)).reshape(-1, 2)
    rows = rng.choice(len(places), SAMPLE, replace=False)
    sample, places = found.reshape(-1, 128)[rows].astype(np.float64), places[rows]
    mean = sample.mean(axis=0)
    _, _, axes = np.linalg.svd(sample - mean, full_matrices=False)
    basis = axes[: feature.components].T
    mixture = GaussianMixture(feature.words, covariance_type="diag", random_state=0, reg_covar=1e-4, max_iter=60)
    mixture.fit(np.hstack([(sample - mean) @ basis, places]))
    tensors = {"mean": mean, "basis": basis, "means": mixture.means_, "variances": mixture.covariances_, "weights": mixture.weights_}
    save_file({name: value.astype(np.float16) for name, value in tensors.items()}, FOLDER / VOCABULARY)
    print(f"{FOLDER / VOCABULARY}: {(FOLDER / VOCABULARY).stat().st_size} bytes; least weight {mixture.weights_.min():.4f}")


if __name__ == "__main__":
    main()
