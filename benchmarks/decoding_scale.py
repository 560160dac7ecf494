"""What does decoding JPEGs at a reduced scale change, against full decoding, and what time does it save?

    python benchmarks/decoding_scale.py RUN [--data FOLDER ...] [--images 60] [--megapixels 0 1 2 4 12 24]

RUN is a run of `headstart fit`; the folders hold JPEGs of any kind, spread evenly over which images are taken. With 0 megapixels they are
decoded as they are, otherwise enlarged first, with the grain of a sensor, and encoded with a quality of 85 to 95. For each size a line for
full decoding and for each factor, how many times larger than its target an image is decoded at least:
  reduced      share of the images that are not decoded at full size
  levels       mean and largest difference of the squares that the network is given, of 255
  probability  mean and largest difference, and the share of the images with the same label
  ms           for an image, decoding and resizing, the median
`noise` is full decoding with one level more or less in a fifth of the values: what a difference of rounding does to this run. `naive`
resizes as if the last, incomplete pixels of a reduced image were whole ones, at factor 1.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from headstart import load
from headstart.modalities.image import Preprocessing, is_image_name, preprocessing, read_image
from measurement_data import DATA

SETS = ("cats_dogs", "waste6", "chest_xray", "det_raccoon", "pacs_photo_sketch", "seg_human", "seg_camvid_small", "multitask_small")
FACTORS = (1.0, 1.5, 2.0, 2.5, 3.0)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass
class Way:
    """One way to a square: what it gave, and in what time."""

    squares: list[Pixels] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, work: Callable[[], Pixels]) -> None:
        begun = time.perf_counter()
        self.squares.append(work())
        self.seconds.append(time.perf_counter() - begun)


def enlarged(path: Path, megapixels: float, rng: np.random.Generator) -> bytes:
    """A JPEG file of about so many megapixels; the file as it is for 0."""
    if not megapixels:
        return path.read_bytes()
    image = Image.open(path).convert("RGB")
    by = math.sqrt(megapixels * 1e6 / (image.width * image.height))
    image = image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.LANCZOS)
    grain = 3 * rng.standard_normal((image.height, image.width, 1), dtype=np.float32)
    file = io.BytesIO()
    pixels = (np.asarray(image) + grain).clip(0, 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(85, 96)))
    return file.getvalue()


def reduced(data: bytes, square: Preprocessing, factor: float) -> Pixels:
    """The square, of an image decoded at least so many times as large."""
    with patch.object(preprocessing, "OVERSAMPLING", factor):
        return square(data)


def naive(data: bytes, square: Preprocessing) -> Pixels:
    """The square, where the box ignores that the image ends within the last pixels."""
    return square(read_image(data, at_least=math.ceil(square.size / square.crop)))


def noisy(square: Pixels, rng: np.random.Generator) -> Pixels:
    """One level more or less in a fifth of the values."""
    noise = rng.choice([-1, 0, 0, 0, 0, 0, 0, 0, 0, 1], square.shape)
    return (square.astype(np.int64) + noise).clip(0, 255).astype(np.uint8)


def measure(run: Any, files: list[Path], megapixels: float) -> None:
    """Decode some images in every way, and print a line for each."""
    square, rng = run.preprocessing, np.random.default_rng(0)
    ways: dict[str, Way] = {name: Way() for name in ("full", *map(str, FACTORS), "naive", "noise")}
    smaller = dict.fromkeys(ways, 0)
    for path in files:
        data = enlarged(path, megapixels, rng)
        ways["full"].add(lambda data=data: square(read_image(data)))
        side = min(read_image(data).shape[:2])
        for factor in FACTORS:
            ways[str(factor)].add(partial(reduced, data, square, factor))
            smaller[str(factor)] += side >= 2 * math.ceil(factor * square.size / square.crop)
        ways["naive"].add(partial(naive, data, square))
        ways["noise"].add(partial(noisy, ways["full"].squares[-1], rng))
    smaller["naive"] = smaller["1.0"]
    probabilities = {name: run.predict(way.squares).probabilities for name, way in ways.items()}
    expected = probabilities["full"]
    for name, way in ways.items():
        levels = [np.abs(one.astype(int) - other) for one, other in zip(way.squares, ways["full"].squares, strict=True)]
        moved = np.abs(probabilities[name] - expected).max(axis=1)
        same = (probabilities[name].argmax(axis=1) == expected.argmax(axis=1)).mean()
        print(
            f"{megapixels:5g} MP  {name:<6} reduced {smaller[name] / len(files):4.0%}   "
            f"levels {np.mean([one.mean() for one in levels]):5.2f} {max(one.max() for one in levels):4d}   "
            f"probability {moved.mean():.5f} {moved.max():.4f}   same {same:6.1%}   "
            f"{1000 * float(np.median(way.seconds)):6.1f} ms",
            flush=True,
        )


def main() -> None:
    """Measure every folder as it is, and the first one enlarged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", metavar="FOLDER", help="the shared sets by default")
    parser.add_argument("--images", type=int, default=60, help="of each folder")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0, 1, 2, 4, 12, 24])
    options = parser.parse_args()
    run = load(options.run)
    for folder in options.data or [DATA / name for name in SETS]:
        files = sorted(path for path in folder.rglob("*") if is_image_name(path.name) and path.read_bytes()[:3] == b"\xff\xd8\xff")
        files = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, options.images).round().astype(int))]
        for megapixels in options.megapixels if folder == (options.data or [DATA / SETS[0]])[0] else options.megapixels[:1]:
            print(f"{folder.name}: {len(files)} images")
            measure(run, files, megapixels)


if __name__ == "__main__":
    main()
