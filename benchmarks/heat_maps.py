"""Do heat maps show what the model looks at? Deletion and insertion scores against a random map and a map of the centre.

    python benchmarks/heat_maps.py [--data FOLDER of cats_dogs and others] [--sets NAME ...] [--images N] [--backbone NAME] [--head NAME]

For each set a head is fitted on the training images. Test images (100) are drawn by chance; a map explains the most probable class of its
image. Deletion takes the hottest pixels away (small is good), insertion puts them into a blurred image (large is good). Both are areas
under the curve of the probability (Petsiuk, Das and Saenko, "RISE", 2018). Differences to the random map are paired, with 95 % intervals by
the bootstrap.
Goal: the map that is used by default is better than the random map in both scores, beyond the intervals.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart import TransferClassifier
from headstart.data import list_images
from headstart.engine import Engine, open_engine
from headstart.errors import ParameterError
from headstart.explanation import HeatMaps
from headstart.explanation.heat_maps import blur
from headstart.modalities.image import Preprocessing
from headstart.onnx_graph import OnnxGraph
from measurement_data import DATA

Maps = Callable[[np.ndarray, np.ndarray], np.ndarray]
STEPS = 20
_BLUR = 8  # of the side: what is left of an image tells little of its class
_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Judgement:
    """np.ndarray of heat maps, one for each image.

    Attributes:
        deletion: float64 (n,), area under the curve of deletion, from 0 to 1; small is good.
        insertion: float64 (n,), area under the curve of insertion; large is good.
    """

    deletion: np.ndarray
    insertion: np.ndarray


def judge(engine: Engine, images: np.ndarray, heat: np.ndarray, targets: Sequence[int] | np.ndarray, *, steps: int = STEPS) -> Judgement:
    """Score heat maps by what the model says of images from which the hottest places are missing.

    Args:
        engine: runs the model; its only output is the probabilities (k,).
        images: uint8 (n, S, S, 3), prepared.
        heat: float32 (n, S, S). Only its order counts; where it is equal, pixels are taken in an order of chance.
        targets: the class of each image, (n,).
        steps: equal parts in which the pixels are taken away or put in.

    Raises:
        ParameterError: shapes that do not fit each other, or less than two steps.
    """
    targets = np.asarray(targets)
    if heat.shape != images.shape[:3] or targets.shape != (len(images),):
        raise ParameterError(f"Images {images.shape}, heat {heat.shape} and targets {targets.shape} do not fit each other.")
    if steps < 2:
        raise ParameterError(f"steps must be 2 or more, got {steps}.")
    curves = np.empty((len(images), 2, steps + 1))
    for index, (probabilities,) in enumerate(engine.run(_changed(images, heat, steps))):
        image, rest = divmod(index, 2 * (steps + 1))
        curves[image, rest // (steps + 1), rest % (steps + 1)] = probabilities[targets[image]]
    areas = (curves[:, :, 1:] + curves[:, :, :-1]).mean(axis=2) / 2
    return Judgement(areas[:, 0], areas[:, 1])


def _changed(images: np.ndarray, heat: np.ndarray, steps: int) -> Iterator[np.ndarray]:
    """For each image its deletions (towards its mean colour), then its insertions (into its blurred self)."""
    random = np.random.default_rng(0)
    for image, map_ in zip(images, heat, strict=True):
        chance = random.random(map_.size)
        order = np.lexsort((chance, -map_.ravel()))
        rank = np.empty(map_.size)
        rank[order] = np.arange(map_.size) / map_.size
        rank = rank.reshape(map_.shape)[:, :, None]
        grey = np.broadcast_to(np.round(image.mean(axis=(0, 1))).astype(np.uint8), image.shape)
        blurred = blur(image, radius=image.shape[0] / _BLUR)
        for before, after in ((image, grey), (blurred, image)):
            for step in range(steps + 1):
                yield np.where(rank < step / steps, after, before)


def random_maps(count: int, size: int, *, cells: int = 7, seed: int = 0) -> np.ndarray:
    """Heat of no meaning, as smooth as that of a model: float32 (count, size, size) from 0 to 1."""
    from PIL import Image

    random = np.random.default_rng(seed)
    grids = random.random((count, cells, cells), dtype=np.float32)
    resized = [np.asarray(Image.fromarray(grid, mode="F").resize((size, size), Image.Resampling.BICUBIC)) for grid in grids]
    return np.clip(np.stack(resized), 0, 1) if count else np.empty((0, size, size), np.float32)


def centre_map(size: int) -> np.ndarray:
    """Heat that says: what is photographed is in the middle. float32 (size, size), a Gaussian of a quarter of the side."""
    place = (np.arange(size) + 0.5) / size - 0.5
    line = np.exp(-((place / 0.25) ** 2) / 2)
    return np.outer(line, line).astype(np.float32)


def mean_interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """The mean of values (n,), and its 95 % interval by the bootstrap (percentiles of 2000 draws).

    Raises:
        ParameterError: no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ParameterError(f"A mean needs values in one row, got an array of shape {values.shape}.")
    drawn = np.random.default_rng(seed).integers(0, len(values), (_DRAWS, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def saved(classifier: TransferClassifier, folder: Path) -> Path:
    """The model from pixels to probabilities, as a run has it."""
    import onnx

    backbone, size = classifier.extractor_.backbone, classifier.extractor_.preprocessing.size
    network = onnx.load(str(backbone.network))
    graph = OnnxGraph()
    graph.node("Identity", graph.graft(network, feed={"images": "images"})["features"], output="features")
    graph.node("Identity", classifier.choice_.estimator.write_onnx(graph, "features"), output="logits")
    graph.node("Softmax", "logits", output="probabilities", axis=-1)
    count = len(classifier.classes_)
    outputs = {"features": ("N", backbone.dim), "logits": ("N", count), "probabilities": ("N", count)}
    model = graph.model(
        inputs={"images": (np.uint8, ("N", size, size, 3))},
        outputs={name: (np.float32, shape) for name, shape in outputs.items()},
        opset=max(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx")),
    )
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def maps_of(model: Path, preprocessing: Preprocessing, classes: list[str]) -> dict[str, Maps]:
    """The maps that are compared, by name; the random map first."""
    size = preprocessing.size

    def made(method: str) -> Maps:
        return HeatMaps(model, preprocessing=preprocessing, classes=classes, method=method)

    return {
        "random": lambda images, targets: random_maps(len(images), size),
        "centre": lambda images, targets: np.repeat(centre_map(size)[None], len(images), axis=0),
        "auto": made("auto"),
        "fast": made("fast"),
    }


def measure(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Fit on one set, and judge each kind of map."""
    data = options.data / name
    paths = list_images([data / "train"])
    classifier = TransferClassifier(backbone=options.backbone, head=options.head, cache=options.cache)
    classifier.fit(paths, [path.parent.name for path in paths])
    preprocessing, classes = classifier.extractor_.preprocessing, [str(label) for label in classifier.classes_]
    model = saved(classifier, folder)
    test = list_images([data / "test"])
    chosen = np.random.default_rng(options.seed).permutation(len(test))[: options.images]
    images = np.stack([preprocessing(test[index]) for index in chosen])
    engine = open_engine(model, outputs=("probabilities",), size=preprocessing.size)
    targets = np.array([row.argmax() for (row,) in engine.run(iter(images))])
    print(f"{name}: {len(images)} images, {classifier.choice_.reason}")
    print("map          deletion            less than random           insertion           more than random           s/image")
    base = None
    for kind, maps in maps_of(model, preprocessing, classes).items():
        maps(images[:2], targets[:2])  # opens what there is to open
        begun = time.perf_counter()
        heat = maps(images, targets)
        seconds = (time.perf_counter() - begun) / len(images)
        found = judge(engine, images, heat, targets, steps=options.steps)
        base = base or found
        cells = [mean_interval(found.deletion)[0], *mean_interval(base.deletion - found.deletion)]
        cells += [mean_interval(found.insertion)[0], *mean_interval(found.insertion - base.insertion)]
        print(
            f"{kind:<12} {cells[0]:.3f}      {cells[1]:+.3f} [{cells[2]:+.3f}, {cells[3]:+.3f}]      "
            f"{cells[4]:.3f}      {cells[5]:+.3f} [{cells[6]:+.3f}, {cells[7]:+.3f}]      {seconds:.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="*", default=["cats_dogs", "chest_xray"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--head", default="auto")
    parser.add_argument("--cache", default="auto", help="folder of the feature store")
    options = parser.parse_args()
    for name in options.sets:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, options, Path(folder))


if __name__ == "__main__":
    main()
