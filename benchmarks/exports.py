"""Is every run exported, to ONNX and to LiteRT, whatever its data, its backbone and its head?

    python benchmarks/exports.py FOLDER [--kinds NAME ...] [--backbones NAME[=WEIGHTS] ...] [--heads NAME ...] [--strategy partial]
        [--formats onnx openvino int8 litert] [--train 600] [--test 150]

For each kind of data (see `head_choice.py`, and more of the shared sets), each backbone and each head by name and `auto`: a run, fitted on
so many of the images and kept in FOLDER, and its export in each format. Prints the largest difference of a probability in any engine, from
the run on the same pixels and from the run on the files; for int8 the accuracies. Goal: every run is exported at the default
--max-difference.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from head_choice import Kind, folders, halves, kinds
from headstart import FitSettings, fit, load
from headstart.errors import HeadstartError
from headstart.export import SUFFIXES, export
from headstart.files import cache_folder
from headstart.heads import HEADS
from headstart.progress import Listener
from headstart.settings import FineTuning
from measurement_data import DATA


def sets(data: Path) -> dict[str, Callable[[], Kind]]:
    """The kinds of `head_choice.py` and further shared sets, by name."""
    found = kinds(data)
    if data.is_dir():
        found |= {
            "waste6": lambda: folders(data / "waste6"),
            "pacs_photo": lambda: halves(data / "pacs_photo_sketch" / "photo"),
            "pacs_sketch": lambda: halves(data / "pacs_photo_sketch" / "sketch"),
            "faces_orl": lambda: halves(data / "faces_orl"),
        }
    return found


def written(kind: Kind, folder: Path, counts: dict[str, int]) -> Path:
    """A folder with train and test parts of at most so many images, spread evenly over the kind."""
    for part, images, labels in (("train", kind.train, kind.train_labels), ("test", kind.test, kind.test_labels)):
        chosen = np.unique(np.linspace(0, len(labels) - 1, min(counts[part], len(labels))).round().astype(int))
        for row in chosen.tolist():
            place = folder / part / str(labels[row])
            place.mkdir(parents=True, exist_ok=True)
            image: Any = images[row]
            if isinstance(image, Path):
                shutil.copyfile(image, place / f"{row}{image.suffix}")
            else:
                Image.fromarray(image).save(place / f"{row}.png")
    return folder


def runs(options: argparse.Namespace) -> Iterator[Path]:
    """Fit what is not in the folder yet."""
    for name, make in sets(options.data).items():
        if options.kinds and name not in options.kinds:
            continue
        data = options.folder / "data" / name
        if not data.is_dir():
            written(make(), data, {"train": options.train, "test": options.test})
        for settings, suffix in variants(options):
            run = options.folder / f"{name}-{suffix}"
            if not run.is_dir():
                probe = fit(data, out=run, settings=settings, listener=Listener()).probe
                if probe is not None:
                    print(f"{run.name}: of the training, the {probe.shipped} is shipped", flush=True)
            yield run


def variants(options: argparse.Namespace) -> Iterator[tuple[FitSettings, str]]:
    """Settings for each backbone and head, and what the names of their runs end in."""
    for backbone in options.backbones:
        name, _, weights = backbone.partition("=")
        for head in options.heads:
            tuning = None if options.strategy is None else FineTuning(strategy=options.strategy, steps=options.steps)
            settings = FitSettings(backbone=name, weights=weights or None, head=head, cache=options.cache, fine_tuning=tuning)
            own = "" if name == FitSettings().backbone else f"-{name}"
            yield settings, f"{head}{own}{'' if tuning is None else f'-{tuning.strategy}'}"


def exported(path: Path, form: str, images: int | None) -> str:
    """One line on one export, which begins with "written" or "REFUSED"."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = export(load(path), Path(folder) / f"x{SUFFIXES[form]}", form=form, images=images)
        except HeadstartError as error:
            return f"REFUSED {error}"
    worst = max(done.parities, key=lambda one: one.difference)
    files = max(one.from_files for one in done.parities)
    same = min(one.same_from_files for one in done.parities)
    gate = f"{done.gates[-1].summary()} " if done.gates else ""
    return (
        f"written  {gate}difference {worst.difference:.1e} (median {worst.median:.1e}, {worst.engine}, {worst.images} images), "
        f"from files {files:.1e} ({same:.1%} same), {time.perf_counter() - begun:.0f} s"
    )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--heads", nargs="*", default=["auto", *HEADS])
    parser.add_argument("--backbones", nargs="*", default=[FitSettings().backbone], metavar="NAME[=WEIGHTS]")
    parser.add_argument("--strategy", choices=("partial", "full"), help="train the backbone further")
    parser.add_argument("--steps", type=int, help="of that training")
    parser.add_argument("--formats", nargs="*", default=["onnx", "litert"], choices=SUFFIXES)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--images", type=int, help="to compare on; by default as many as `headstart export` takes")
    parser.add_argument("--cache", type=Path, default=cache_folder(None))
    options = parser.parse_args(given)
    lines: dict[str, list[str]] = {form: [] for form in options.formats}
    for run in runs(options):
        for form, found in lines.items():
            found.append(exported(run, form, options.images))
            print(f"{run.name:<28} {form:<8} {found[-1]}", flush=True)
    for form, found in lines.items():
        print(f"{form}: {sum(line.startswith('written') for line in found)} of {len(found)} runs exported")


if __name__ == "__main__":
    main()
