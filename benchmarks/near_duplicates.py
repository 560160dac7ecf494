"""Are near copies found that were put into real data, and are pictures left alone that are merely alike?

    python benchmarks/near_duplicates.py [SETS] [--data FOLDER] [--repeats 5] [--features]

Into each set are put near copies of 2 % of its images: resized to a half, saved as JPEG of quality 50, cropped to 95 % of each side at a
place of chance, mirrored, and all of it at once. Half of them go to the other part.
Found is a copy that is grouped with its original. A false alarm is an image that is named and is neither a copy that was put in nor the
original of one. A set may hold near copies of its own (CIFAR-10 does): the pairs behind the false alarms are listed for looking at.
`--features` searches the features too, which are computed and kept in the cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.audit.copies import find_near_copies
from headstart.audit.near_copies import NearCopies, near_copies
from headstart.data import Dataset, read_dataset
from headstart.modalities.image import image_digest, read_image
from measurement_data import DATA

SETS = ("cats_dogs", "chest_xray", "cifar10_12k", "digits/usps")
SHARE = 0.02


def halved(image: Image.Image) -> Image.Image:
    return image.resize((max(8, image.width // 2), max(8, image.height // 2)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = round(image.width * 0.95), round(image.height * 0.95)
    left, top = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


Change = Callable[[Image.Image, np.random.Generator], tuple[Image.Image, int]]
KINDS: dict[str, Change] = {  # to a picture and the quality of its JPEG
    "resized": lambda image, random: (halved(image), 90),
    "recompressed": lambda image, random: (image, 50),
    "cropped": lambda image, random: (cropped(image, random), 90),
    "mirrored": lambda image, random: (mirrored(image), 90),
    "all": lambda image, random: (halved(cropped(mirrored(image), random)), 60),
}


def planted(dataset: Dataset, folder: Path, random: np.random.Generator) -> tuple[Dataset, np.ndarray, list[str]]:
    """The data with copies put in; which image each copy is of; and of what kind it is."""
    originals = random.choice(len(dataset), round(SHARE * len(dataset)), replace=False)
    kinds = [list(KINDS)[i % len(KINDS)] for i in range(len(originals))]
    paths = []
    for number, (row, kind) in enumerate(zip(originals, kinds, strict=True)):
        picture, quality = KINDS[kind](Image.fromarray(read_image(dataset.inputs[row])), random)
        paths.append(folder / f"{kind} {number}.jpg")
        picture.save(paths[-1], quality=quality)
    parts = dataset.parts[originals].copy()
    if (dataset.parts == "test").any():
        parts[::2] = np.where(parts[::2] == "test", "train", "test")
    targets = dataset.targets.array[np.concatenate([np.arange(len(dataset)), originals])]
    whole = replace(
        dataset, images=(*dataset.inputs, *paths), targets=targets, parts=np.concatenate([dataset.parts, parts]), groups=None, root=None
    )
    return whole, originals, kinds


def searched(dataset: Dataset, with_features: bool) -> tuple[NearCopies, list[bytes], float]:
    digests = [image_digest(Path(path).read_bytes()) for path in dataset.inputs]
    values, layers = None, ()
    if with_features:
        from headstart import TransferClassifier
        from headstart.backbones import load_backbone
        from headstart.files import cache_folder

        values = TransferClassifier().extract(dataset.inputs).values
        layers = load_backbone("efficientnet_lite0", cache=cache_folder(None)).layers
    begun = time.perf_counter()
    return near_copies(dataset.inputs, digests=digests, features=values, layers=layers), digests, time.perf_counter() - begun


def measure(dataset: Dataset, repeats: int, with_features: bool) -> None:
    found, put_in, false, seconds = Counter(), Counter(), [], []
    pairs: dict[tuple[str, str], float] = {}
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            whole, originals, kinds = planted(dataset, Path(folder), np.random.default_rng(seed))
            copies, digests, taken = searched(whole, with_features)
            findings = find_near_copies(whole, copies, digests=digests)
        seconds.append(taken)
        group_of = {row: number for number, group in enumerate(copies.components) for row in group}
        for place, (row, kind) in enumerate(zip(originals.tolist(), kinds, strict=True), len(dataset)):
            put_in[kind] += 1
            found[kind] += group_of.get(place, -1) == group_of.get(row, -2)
        untouched = set(range(len(dataset))) - set(originals.tolist())
        false.append(len(untouched & set(group_of)) / len(untouched))
        names = dataset.names()
        for (one, other), value in zip(copies.pairs.tolist(), copies.likeness.tolist(), strict=True):
            if {one, other} <= untouched:
                pairs[names[one], names[other]] = value
    rates = "  ".join(f"{kind} {found[kind]}/{put_in[kind]}" for kind in KINDS)
    print(f"  found {found.total() / put_in.total():.1%} (goal 95 %): {rates}")
    print(f"  false alarms {np.mean(false):.2%} of {len(dataset)} untouched images, at most {np.max(false):.2%} (goal under 0.5 %)")
    print(f"  {np.median(seconds):.1f} s; the last time: {'; '.join(f'{finding.kind}: {finding.count}' for finding in findings)}")
    for (one, other), value in sorted(pairs.items(), key=lambda item: -item[1])[:12]:
        print(f"    {one} ~ {other} ({value:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--features", action="store_true")
    options = parser.parse_args()
    for name in options.sets:
        dataset = read_dataset(options.data / name)
        print(f"{name}: {len(dataset)} images, and near copies of {SHARE:.0%} of them, {options.repeats} times", flush=True)
        measure(dataset, options.repeats, options.features)


if __name__ == "__main__":
    main()
