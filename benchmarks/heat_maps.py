"""Do heat maps show what the model looks at? Deletion and insertion scores against a random map and a map of the centre.

    python benchmarks/heat_maps.py [--data FOLDER of cats_dogs and others] [--sets NAME ...] [--images N] [--backbone NAME] [--head NAME]

For each set a head is fitted on the training images. Test images (100) are drawn by chance; a map explains the most probable class of its
image. Deletion takes the hottest pixels away (small is good), insertion puts them into a blurred image (large is good). Both are areas
under the curve of the probability. Differences to the random map are paired, with 95 % intervals by the bootstrap.
Goal: the map that is used by default is better than the random map in both scores, beyond the intervals.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headstart import TransferClassifier
from headstart.data import list_images
from headstart.engine import open_engine
from headstart.explain import HeatMaps, centre_map, judge, mean_interval, random_maps
from headstart.modalities.image import Preprocessing
from headstart.onnx_graph import OnnxGraph
from measurement_data import DATA

Maps = Callable[[np.ndarray, np.ndarray], np.ndarray]


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
