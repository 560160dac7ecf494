"""The images of a run on which an exported file is compared with it: found by name, confirmed by digest, decoded one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, ImageError
from headstart.modalities.image import Levels, image_digest, read_image, source_bytes
from headstart.modalities.text import Text
from headstart.run import Run


@dataclass(frozen=True, eq=False)
class Sample(Sequence[npt.NDArray[np.uint8]]):
    """Images of one part of a run, ``train`` or ``test``; `targets` are int64 (n,), or bool (n, k) for several labels an image.

    They are decoded at full size, as the programs of `headstart.export.snippets` do, each time they are accessed: a few hundred photographs
    would not fit into memory.
    """

    part: str
    paths: Sequence[Any]
    targets: npt.NDArray[Any]
    levels: Levels = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        from headstart.modalities.image.rgb import read_rgb

        data = source_bytes(self.paths[index])
        assert isinstance(data, bytes)
        return read_rgb(data, self.levels)


class TextSample(Sample):
    """Texts of one part of a run; they are kept by the run itself."""

    def __getitem__(self, index: Any) -> Any:
        return self.paths[index]


def sample_of(run: Run, part: str, count: int, *, data: Path | None = None) -> Sample:
    """At most `count` images of a run, spread evenly over the part, as far as they are there, unchanged by their SHA-256, and can be read.

    `data` is the folder of the data, if the images have been moved since.
    """
    names, arrays = (run.test_names, run.tested) if part == "test" else (run.training_names, run.reference)
    digests, targets = arrays.get("digests"), arrays.get("targets")
    if digests is None or targets is None or not 0 < len(names) == len(digests) == len(targets):
        return Sample(part, (), np.zeros(0, dtype=np.int64))
    if any(isinstance(name, Text) for name in names):
        order = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)).tolist()
        return TextSample(part, [names[row] for row in order], targets[order])
    fitted_on = run.manifest.provenance.get("data")
    roots = [root for root in (data, Path(fitted_on) if isinstance(fitted_on, str) else None) if root is not None and root.is_dir()]
    order = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)).tolist()
    found = {row: path for row in order if (path := _found(run.path / names[row], names[row], roots, digests[row].tobytes()))}
    return Sample(part, list(found.values()), targets[list(found)], run.preprocessing.levels)


def some_sample_of(run: Run, count: int, *, data: Path | None = None) -> Sample:
    """Test images, or training images where no test image is left. Raises DataError where none of either are left."""
    for part in ("test", "train"):
        if found := sample_of(run, part, count, data=data):
            return found
    raise DataError(
        f"None of the images of {run.path} are where they were when it was fitted, and an export is compared on them. "
        "Give their folder with --data."
    )


def _found(path: Path, name: str, roots: Sequence[Path], digest: bytes) -> Path | None:
    """The file with these bytes: at its old place, or below one of the folders by the end of its name."""
    parts = PurePosixPath(name).parts
    ends = [PurePosixPath(*parts[begin:]) for begin in range(len(parts)) if ".." not in parts[begin:]]
    for place in (path, *(root / end for root in roots for end in ends)):
        with suppress(ImageError, OSError, ValueError):
            if place.is_file() and image_digest(source_bytes(place)) == digest:
                read_image(place)
                return place
    return None
