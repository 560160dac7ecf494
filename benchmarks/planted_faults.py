"""Does the audit find faults that were put into good data: wrong labels, broken files, shortcuts?

    python benchmarks/planted_faults.py [FOLDER] [--seeds N] [--only labels|files|shortcuts]

FOLDER has train/CLASS and test/CLASS; cats_dogs by default. Everything is planted in copies, in a temporary folder.
Wrong labels: 1 % of the training labels, drawn anew for every seed; a head is chosen and fitted on what is left of the truth, and its
out-of-sample logits rank the images. Broken files: ten of different kinds. Shortcuts: the first class saved in another way than the rest.
The goals stand beside the figures. What is said of the data as they are stands first: it should be nothing, or true.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import get_sampling

from headstart.audit import check
from headstart.audit.label_errors import rank_label_errors
from headstart.backbones import load_backbone
from headstart.data import Dataset, read_dataset
from headstart.features import BackboneExtractor
from headstart.files import cache_folder
from headstart.selection import choose_head
from measurement_data import DATA

WRONG = 0.01
LOOKED_AT = 0.03  # share of the ranking in which the wrong labels should be


def rank_wrong_labels(dataset: Dataset, *, seeds: int) -> None:
    """Plant, fit, rank: how many of the wrong labels come first, and how many are called wrong."""
    rows = dataset.part("train", "")
    extractor = BackboneExtractor(load_backbone("efficientnet_lite0", cache=cache_folder()))
    features = extractor([dataset.inputs[i] for i in rows])
    truth, layers = dataset.targets.array[rows][features.kept], extractor.layers
    classes, count = len(dataset.classes), round(WRONG * len(truth))
    early, first, named, right, seconds = [], [], [], [], 0.0
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        wrong = random.choice(len(truth), count, replace=False)
        targets = truth.copy()
        targets[wrong] = (targets[wrong] + random.integers(1, classes, count)) % classes
        choice = choose_head(features.values, targets, layers=layers)
        begun = time.perf_counter()
        errors = rank_label_errors(choice.out_of_sample, targets)
        seconds += time.perf_counter() - begun
        early.append(np.isin(wrong, errors.order[: round(LOOKED_AT * len(truth))]).mean())
        first.append(np.isin(wrong, errors.order[:count]).mean())
        called = errors.order[: errors.likely]
        named.append(len(called))
        right.append(np.isin(called, wrong).sum())
    clean = rank_label_errors(choose_head(features.values, truth, layers=layers).out_of_sample, truth)
    print(
        f"wrong labels: {count} of {len(truth)}, {seeds} draws: {np.mean(early):.1%} within the first {LOOKED_AT:.0%} "
        f"(worst draw {min(early):.0%}; goal 80%), {np.mean(first):.1%} within the first {WRONG:.0%}; "
        f"called probably wrong: {np.mean(named):.1f}, of which planted {np.mean(right):.1f}; "
        f"in the labels as they are: {clean.likely}; {1000 * seconds / seeds:.1f} ms a ranking"
    )


def copied(source: Path, target: Path) -> Path:
    """A copy of the data that may be broken."""
    shutil.copytree(source, target)
    return target


def images_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def break_files(folder: Path) -> set[Path]:
    """Break ten files, each in another way, and return them."""
    chosen = np.random.default_rng(0).choice(np.array(images_of(folder), dtype=object), 10, replace=False)
    data = [path.read_bytes() for path in chosen]
    zeroed = bytearray(data[6])
    zeroed[2:40] = bytes(38)
    broken = (
        b"", data[1][:20], data[2][: len(data[2]) // 2], data[3][:-2000], b"<html><body>404 Not Found</body></html>",
        b"PK\x03\x04" + data[5], bytes(zeroed), bytes(len(data[7])), b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        data[9][100:],
    )  # fmt: skip
    for path, contents in zip(chosen, broken, strict=True):
        path.write_bytes(contents)
    return set(chosen)


def as_png(path: Path) -> None:
    with Image.open(path) as image:
        image.convert("RGB").save(path.with_suffix(".png"))
    path.unlink()


def with_border(colour: str, width: int) -> Callable[[Path], None]:
    """Lay a border over the outermost pixels, keeping size and compression."""

    def change(path: Path) -> None:
        with Image.open(path) as image:
            inside = ImageOps.crop(image.convert("RGB"), width)
            options = {"qtables": image.quantization, "subsampling": get_sampling(image)} if image.format == "JPEG" else {}
            ImageOps.expand(inside, width, fill=colour).save(path, **options)

    return change


def at_quality(quality: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with Image.open(path) as image:
            image.convert("RGB").save(path, quality=quality)

    return change


def at_qualities(first: int, rest: int, dataset: Path) -> None:
    """Save everything again, the first class at another quality: the difference between the classes is the quality alone."""
    for path in images_of(dataset):
        at_quality(first if path.parent.name == sorted(p.name for p in path.parents[1].iterdir())[0] else rest)(path)


def plant_shortcuts(source: Path, scratch: Path) -> None:
    """Save the first class in another way and see what the audit names."""

    def shortcuts(folder: Path) -> list[str]:
        return [f"{finding.severity}: {finding.message.partition(',')[0]}, {finding.message.partition('told in ')[2].partition(' of')[0]}; "
                + "; ".join(finding.examples[:2])
                for finding in check(read_dataset(folder)).findings if finding.kind == "shortcut"]  # fmt: skip

    def first_class(change: Callable[[Path], None]) -> Callable[[Path], None]:
        def plant(folder: Path) -> None:
            name = min(path.name for path in (folder / "train").iterdir())
            for path in images_of(folder):
                if path.parent.name == name:
                    change(path)

        return plant

    faults: dict[str, tuple[str, Callable[[Path], None]]] = {
        "as PNG": ("file format", first_class(as_png)),
        "2-pixel black border": ("border", first_class(with_border("black", 2))),
        "2-pixel white border": ("border", first_class(with_border("white", 2))),
        "2-pixel grey border": ("border", first_class(with_border("#808080", 2))),
        "JPEG quality 70": ("JPEG compression", first_class(at_quality(70))),
        "JPEG quality 90, the rest 95": ("JPEG compression", lambda folder: at_qualities(90, 95, folder)),
    }
    print("shortcuts in the data as they are:", shortcuts(source) or "none", "  (goal: no warning)", flush=True)
    for number, (fault, (wanted, plant)) in enumerate(faults.items()):
        folder = copied(source, scratch / f"shortcut{number}")
        plant(folder)
        found = shortcuts(folder)
        verdict = (
            "found and named" if any(f"From the {wanted} alone" in text and text.startswith("warning") for text in found) else "MISSED"
        )
        print(f"{fault}: {verdict}", *found, sep="\n    ", flush=True)
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "cats_dogs")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", choices=("labels", "files", "shortcuts"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.only in (None, "labels"):  # what follows needs no backbone
            rank_wrong_labels(read_dataset(options.folder), seeds=options.seeds)
        if options.only in (None, "files"):
            folder = copied(options.folder, Path(scratch) / "broken")
            broken = break_files(folder)
            refused = {folder / name for name in check(read_dataset(folder)).refused}
            print(
                f"broken files: {len(broken & refused)} of {len(broken)} found, {len(refused - broken)} others refused  (goal: all, none)"
            )
            shutil.rmtree(folder)
        if options.only in (None, "shortcuts"):
            plant_shortcuts(options.folder, Path(scratch))


if __name__ == "__main__":
    main()
