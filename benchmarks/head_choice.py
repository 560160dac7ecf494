"""Is `auto` better than logistic regression on the last layer, and what does choosing cost against extracting?

    python benchmarks/head_choice.py [--data FOLDER of cats_dogs, chest_xray, cifar10_12k and digits] [--kinds NAME ...] [--backbone NAME]

For each kind of data: test accuracy of last-layer logistic regression (standardised, C by 5-fold cross-validation; the protocol of the
linear-probe literature) and of `auto`, their difference with its (paired) standard error, what was chosen, the seconds of extracting the
training images' features and of choosing and fitting the head, and the ratio of the two. Five kinds are drawn here or come with
scikit-learn, the others lie in the folder of measurement data.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from headstart.backbones import load_backbone
from headstart.features import BackboneExtractor
from headstart.files import cache_folder
from headstart.heads import LogisticHead
from headstart.maps import LayerMap
from headstart.selection import choose_head
from measurement_data import DATA

SIZE = 128


@dataclass(frozen=True, eq=False)
class Kind:
    """Training and test images (paths or arrays) with their labels, and groups of the training images."""

    train: Sequence[Path] | np.ndarray
    train_labels: np.ndarray
    test: Sequence[Path] | np.ndarray
    test_labels: np.ndarray
    groups: np.ndarray | None = None


def split(images: list[Image.Image], labels: Sequence[int], count: int) -> Kind:
    """The first `count` images train, in an order of chance."""
    stacked = np.stack([np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in images])
    order = np.random.default_rng(1).permutation(len(images))
    stacked, y = stacked[order], np.asarray(labels)[order]
    return Kind(stacked[:count], y[:count], stacked[count:], y[count:])


def digits8() -> Kind:
    """Handwritten digits of 8 x 8 pixels (from scikit-learn)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return split([Image.fromarray((255 - picture * 15.9).astype(np.uint8)) for picture in data.images], data.target, 900)


def textures() -> Kind:
    """Ten textures: noise of five frequencies, with and without direction, folded or cut off."""
    rng = np.random.default_rng(0)
    fx, fy = np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96), indexing="ij")
    radius, angle = np.hypot(fx, fy) + 1e-9, np.arctan2(fy, fx)

    def draw(kind: int) -> Image.Image:
        frequency = [0.06, 0.08, 0.1, 0.12, 0.15][kind % 5] * np.exp(rng.normal(0, 0.12))
        band = np.exp(-((np.log(radius / frequency) / 0.35) ** 2))
        if kind >= 5:
            band = band * np.abs(np.cos(angle - rng.uniform(0, np.pi))) ** (2 if kind % 2 else 6)
        field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(96, 96))) * band).real
        field /= field.std()
        if kind in (2, 7):
            field = np.abs(field) * 2 - 1.5
        if kind in (3, 8):
            field = np.sign(field) * 0.8
        field = field + rng.normal(0, 0.5, field.shape)
        return Image.fromarray(np.clip(128 + 45 * field[..., None] * rng.uniform(0.3, 1, 3), 0, 255).astype(np.uint8))

    labels = [number % 10 for number in range(1200)]
    return split([draw(label) for label in labels], labels, 500)


def shapes() -> Kind:
    """Polygons of three to seven sides and ellipses, among lines, on a noisy ground."""
    rng = np.random.default_rng(0)

    def draw(kind: int) -> Image.Image:
        ground = Image.fromarray(rng.integers(90, 166, (64, 64, 3)).astype(np.uint8)).resize((224, 224))
        image = ground.filter(ImageFilter.GaussianBlur(2))
        pen = ImageDraw.Draw(image)
        for _ in range(rng.integers(2, 6)):
            pen.line(rng.integers(0, 224, 4).tolist(), fill=tuple(rng.integers(0, 255, 3).tolist()), width=3)
        (x, y), radius, flat = rng.uniform(70, 150, 2), rng.uniform(18, 50), rng.uniform(0.75, 1)
        turns = rng.uniform(0, 6.3) + np.linspace(0, 2 * np.pi, [3, 4, 5, 6, 7, 40][kind], endpoint=False)
        corners = [(x + radius * np.cos(turn), y + flat * radius * np.sin(turn)) for turn in turns]
        pen.polygon(corners, fill=tuple(rng.integers(0, 255, 3).tolist()))
        return image

    labels = [number % 6 for number in range(1500)]
    return split([draw(label) for label in labels], labels, 700)


def glyphs() -> Kind:
    """Letters that look alike (O Q 0 C G D 8 B), in the fonts of matplotlib, turned, blurred and noisy."""
    import matplotlib

    rng = np.random.default_rng(0)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = sorted(str(path) for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)

    def draw(kind: int) -> Image.Image:
        image = Image.new("L", (64, 64), int(rng.integers(150, 255)))
        font = ImageFont.truetype(fonts[rng.integers(len(fonts))], int(rng.integers(24, 44)))
        ImageDraw.Draw(image).text(rng.integers(8, 22, 2).tolist(), "OQ0CGD8B"[kind], fill=int(rng.integers(0, 110)), font=font)
        image = image.rotate(rng.uniform(-25, 25), fillcolor=200).filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2)))
        return Image.fromarray(np.clip(np.asarray(image) + rng.normal(0, 18, (64, 64)), 0, 255).astype(np.uint8))

    labels = [number % 8 for number in range(1200)]
    return split([draw(label) for label in labels], labels, 500)


def cells() -> Kind:
    """Stained cells of four kinds that differ in number, size and nucleus."""
    rng = np.random.default_rng(0)

    def draw(kind: int) -> Image.Image:
        image = Image.new("RGB", (160, 160), (235, int(rng.integers(205, 230)), 225))
        pen = ImageDraw.Draw(image)
        for _ in range(int(rng.poisson([14, 14, 9, 20][kind])) + 2):
            (x, y), radius, flat = rng.uniform(0, 160, 2), rng.uniform(7, 12) * [1, 1.15, 1.3, 0.85][kind], rng.uniform(0.75, 1)
            pen.ellipse((x - radius, y - flat * radius, x + radius, y + flat * radius), fill=(220, int(rng.integers(140, 190)), 200))
            nucleus = radius * rng.uniform(0.35, 0.6) * [1, 1.25, 1, 1.2][kind]
            x, y = x + rng.uniform(-2, 2), y + rng.uniform(-2, 2)
            pen.ellipse((x - nucleus, y - nucleus, x + nucleus, y + nucleus), fill=(110, 60, int(rng.integers(130, 180))))
        return image.filter(ImageFilter.GaussianBlur(1.2))

    labels = [number % 4 for number in range(1200)]
    return split([draw(label) for label in labels], labels, 500)


def folders(root: Path, group: str | None = None) -> Kind:
    """A folder with train and test parts, each with a folder for every class."""

    def part(name: str) -> tuple[list[Path], np.ndarray]:
        paths = sorted(path for path in (root / name).glob("*/*") if path.is_file())
        return paths, np.array([path.parent.name for path in paths])

    (train, train_labels), (test, test_labels) = part("train"), part("test")
    groups = None
    if group is not None:
        found = [re.search(group, path.name) for path in train]
        groups = np.array([match.group(0) if match else path.name for match, path in zip(found, train, strict=True)])
    return Kind(train, train_labels, test, test_labels, groups)


def halves(root: Path) -> Kind:
    """A folder of classes without parts: half trains."""
    paths = np.array(sorted(path for path in root.glob("*/*") if path.is_file()))
    labels = np.array([path.parent.name for path in paths])
    order = np.random.default_rng(0).permutation(len(paths))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    return Kind(list(paths[train]), labels[train], list(paths[test]), labels[test])


def kinds(data: Path) -> dict[str, Callable[[], Kind]]:
    """All kinds of data that are there, by name."""
    drawn: dict[str, Callable[[], Kind]] = {
        "digits8": digits8,
        "textures": textures,
        "shapes": shapes,
        "glyphs": glyphs,
        "cells": cells,
    }
    if data.is_dir():
        drawn |= {
            "cats_dogs": lambda: folders(data / "cats_dogs"),
            "usps": lambda: halves(data / "digits" / "usps"),
            "mnist": lambda: halves(data / "digits" / "mnist"),
            "chest_xray": lambda: folders(data / "chest_xray", r"person\d+|IM-\d+"),
            "cifar10": lambda: folders(data / "cifar10_12k"),
        }
    return drawn


@dataclass(frozen=True)
class Row:
    """What one kind of data gave: accuracies in percent, seconds."""

    name: str
    images: int
    plain: float
    auto: float
    error: float
    extracting: float
    choosing: float
    chosen: str

    def __str__(self) -> str:
        return (
            f"{self.name:<12}{self.images:>7}{self.plain:>9.2f}{self.auto:>9.2f}{self.auto - self.plain:>+9.2f} ± {self.error:<5.2f}"
            f"{self.extracting:>9.2f}{self.choosing:>9.2f}{self.choosing / self.extracting:>8.3f}  {self.chosen}"
        )


def measure(name: str, kind: Kind, extractor: BackboneExtractor) -> Row:
    """Extract, choose, and compare on the test images."""
    begun = time.perf_counter()
    train = extractor(kind.train)
    extracting = time.perf_counter() - begun
    test = extractor(kind.test)
    y, truth = kind.train_labels[train.kept], kind.test_labels[test.kept]
    groups = None if kind.groups is None else kind.groups[train.kept]
    begun = time.perf_counter()
    choice = choose_head(train.values, y, layers=extractor.layers, groups=groups)
    choosing = time.perf_counter() - begun
    last = extractor.layers[-1]
    plain_map = LayerMap(((last.name, last.start, last.stop),), floor=0.0, clip=1e9).fit(train.values)
    plain = LogisticHead().fit(plain_map.transform(train.values), y, groups=groups).predict(plain_map.transform(test.values)) == truth
    auto = choice.estimator.predict(test.values) == truth
    difference = auto.astype(float) - plain
    best = choice.evidence[0]
    chosen = f"{best.head} on {len(best.layers)} layers, {best.accuracy:.1%} out of sample"
    error = 100 * float(difference.std() / np.sqrt(len(difference)))
    return Row(name, len(y), 100 * float(plain.mean()), 100 * float(auto.mean()), error, extracting, choosing, chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--kinds", nargs="*", help="names of the kinds to measure; all by default")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    options = parser.parse_args()
    backbone = load_backbone(options.backbone, cache=cache_folder())
    extractor = BackboneExtractor(backbone)
    extractor(np.zeros((4, SIZE, SIZE, 3), dtype=np.uint8))
    print("kind         images  last LR     auto    gain ± error   extract   choose   ratio  chosen")
    rows = []
    for name, make in kinds(options.data).items():
        if options.kinds and name not in options.kinds:
            continue
        rows.append(measure(name, make(), extractor))
        print(rows[-1], flush=True)
    plain, auto = np.mean([row.plain for row in rows]), np.mean([row.auto for row in rows])
    worse = [row.name for row in rows if row.auto < row.plain - row.error]
    print(f"mean of {len(rows)} kinds: last-layer logistic regression {plain:.2f}, auto {auto:.2f}")
    print(f"worse by its error: {', '.join(worse) or 'none'}; largest ratio {max(row.choosing / row.extracting for row in rows):.3f}")


if __name__ == "__main__":
    main()
