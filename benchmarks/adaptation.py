"""What does adapting to unlabelled images of another world bring?

    python benchmarks/adaptation.py [PAIR ...] [--draws 3] [--data FOLDER] [--method auto] [--peer] [--rarer]

Pairs of worlds: `photo-sketch` and `sketch-photo` (PACS, 60 a class), `usps-mnist` and `mnist-usps`, and seven of the waste images: the
same world, blurred, noisy, in other colours, inverted, cut, and of low resolution (70 a class of either, of other images). For each draw
four fifths of the source are labelled, and all of the target is given without labels. Prints the accuracy on the target before and after,
the accuracy on the source out of sample before and after, what was chosen, and the seconds. `--peer` adds skada's CORAL, subspace
alignment, transfer components and linear transport with logistic regression on the same features (pip install skada), beside ours.
With `--rarer`, half of the classes are rarer in the target: of these only a fifth of the images are left.

Goals: photo-sketch 55 %; usps-mnist and mnist-usps better by 5 points; on no pair worse than without by more than the standard error;
skada's methods no better and no faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from headstart import FitSettings
from headstart.adaptation import METHODS, Source, adapt
from headstart.adaptation.trials import Worlds, try_methods
from headstart.features.prepared import ExtractorSettings, Prepared, prepare
from headstart.heads.labels import encode
from headstart.modalities.image import read_image
from headstart.selection import choose_head
from measurement_data import DATA

Array = npt.NDArray[Any]
Change = Callable[[Image.Image], Image.Image]

_NOISE = np.random.default_rng(0)
CHANGED: dict[str, Change] = {
    "same": lambda image: image,
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "noise": lambda image: _pixels(np.asarray(image, float) + _NOISE.normal(0, 40, np.asarray(image).shape)),
    "colour": lambda image: _pixels(np.asarray(image, float) * [1.4, 0.9, 0.5]),
    "inverted": ImageOps.invert,
    "cut": lambda image: image.crop((image.width // 4, image.height // 4, 3 * image.width // 4, 3 * image.height // 4)),
    "coarse": lambda image: image.resize((48, 48)).resize(image.size),
}
REAL = {
    "photo-sketch": ("pacs_photo_sketch/photo", "pacs_photo_sketch/sketch"),
    "sketch-photo": ("pacs_photo_sketch/sketch", "pacs_photo_sketch/photo"),
    "usps-mnist": ("digits/usps", "digits/mnist"),
    "mnist-usps": ("digits/mnist", "digits/usps"),
}
EACH = 70  # images of a class of the waste in either world


def _pixels(values: Array) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def of_folder(prepared: Prepared, folder: Path) -> tuple[Array, Array]:
    """Features and labels of images in class folders, at any depth."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return np.asarray(prepared.extract(paths).complete("a benchmark")), np.array([path.parent.name for path in paths])


def of_waste(prepared: Prepared, folder: Path, change: Change) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Features and labels of waste as it is, and of other waste after a change."""
    generator, plain, changed = np.random.default_rng(0), [], []
    names = sorted({path.parent.name for path in folder.rglob("*.jpg")})
    for name in names:
        paths = sorted(path for path in folder.rglob("*.jpg") if path.parent.name == name)
        drawn = [paths[place] for place in generator.permutation(len(paths))[: 2 * EACH]]
        small = [Image.fromarray(read_image(path)) for path in drawn]
        for image in small:
            image.thumbnail((256, 256))
        half = len(small) // 2
        plain += [(np.asarray(image), name) for image in small[:half]]
        changed += [(np.asarray(change(image).convert("RGB")), name) for image in small[half:]]

    def features(images: list[tuple[Array, str]]) -> tuple[Array, Array]:
        squares = np.stack([prepared.extractor.preprocessing(pixels) for pixels, _ in images])
        return np.asarray(prepared.extract(squares).complete("a benchmark")), np.array([name for _, name in images])

    return features(plain), features(changed)


def peers(source: Array, labels: Array, target: Array, truth: Array) -> list[tuple[str, float, float]]:
    """skada's methods with logistic regression: name, accuracy on the target, seconds."""
    import skada
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    domains = np.concatenate([np.ones(len(source)), -np.full(len(target), 2)]).astype(int)
    both = np.concatenate([source, target])
    masked = np.concatenate([np.unique(labels, return_inverse=True)[1], np.full(len(target), -1)])
    adapters = {
        "coral": skada.CORALAdapter(reg=0.1), "subspace": skada.SubspaceAlignmentAdapter(n_components=60),
        "tca": skada.TransferComponentAnalysisAdapter(n_components=60), "ot": skada.LinearOTMappingAdapter(reg=0.1),
    }  # fmt: skip
    found = []
    for name, adapter in adapters.items():
        began = time.perf_counter()
        model = skada.make_da_pipeline(StandardScaler(), adapter, LogisticRegression(max_iter=300))
        model.fit(both, masked, sample_domain=domains)
        named = np.unique(labels)[model.predict(target, sample_domain=-np.full(len(target), 2))]
        found.append((name, float((named == truth).mean()), time.perf_counter() - began))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=[*REAL, *(f"waste-{name}" for name in CHANGED)])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--rarer", action="store_true")
    options = parser.parse_args()
    prepared = prepare(ExtractorSettings.of(FitSettings()))
    layers = prepared.extractor.layers
    for pair in options.pairs:
        if pair in REAL:
            (features, labels), (target, truth) = (of_folder(prepared, options.data / name) for name in REAL[pair])
        else:
            (features, labels), (target, truth) = of_waste(prepared, options.data / "waste6", CHANGED[pair.removeprefix("waste-")])
        if options.rarer:
            common = np.unique(truth)[len(np.unique(truth)) // 2 :]
            left = np.isin(truth, common) | (np.random.default_rng(0).random(len(truth)) < 0.2)
            target, truth = target[left], truth[left]
        rows = []
        for draw in range(options.draws):
            drawn = np.sort(np.random.default_rng(draw).permutation(len(labels))[: round(0.8 * len(labels))])
            source, known = features[drawn], labels[drawn]
            choice = choose_head(source, known, layers=layers)
            began = time.perf_counter()
            world = Source(features=source, targets=encode(known), choice=choice, layers=layers, seed=draw)
            found = adapt(world, target, method=options.method)
            took = time.perf_counter() - began
            before, after = (float((one.estimator.predict(target) == truth).mean()) for one in (choice, found.choice))
            rows.append((before, after, found.record.before[0], found.record.after[0], took))
            chosen = ", ".join(found.record.methods) or "none"
            print(
                f"  {pair} draw {draw}: {before:.1%} -> {after:.1%}; source {rows[-1][2]:.1%} -> {rows[-1][3]:.1%}; {took:.1f} s; {chosen}"
            )
            if options.peer:
                codes = np.unique(known, return_inverse=True)[1]
                slices = [(layer.name, layer.start, layer.stop) for layer in layers]
                worlds = Worlds(source, target, codes, len(np.unique(known)), draw, slices)
                ours = {one.row.method: one for one in try_methods(worlds, ["coral", "subspace", "ot", "tca"])}
                for name, accuracy, seconds in peers(source, known, target, truth):
                    mine = ours[name]
                    right = float((np.unique(known)[mine.probabilities.argmax(axis=1)] == truth).mean())
                    print(
                        f"    {name}: ours {right:.1%} in {mine.row.seconds:.2f} s with its scores, skada {accuracy:.1%} in {seconds:.2f} s"
                    )
        mean = np.mean(rows, axis=0)
        print(
            f"{pair}: target {mean[0]:.1%} -> {mean[1]:.1%}, source {mean[2]:.1%} -> {mean[3]:.1%}, {mean[4]:.1f} s, {len(rows)} draws",
            flush=True,
        )


if __name__ == "__main__":
    main()
