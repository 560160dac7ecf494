"""The images that an export is checked with: the run's own, found again by name and by digest, decoded one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from headstart.errors import DataError, ImageError
from headstart.modalities.image import image_digest, read_image, source_bytes
from headstart.run import Run


class Decoded(Sequence[npt.NDArray[np.uint8]]):
    """Images that are decoded whole, at full size, each time they are asked for: a few hundred photographs would not fit into memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> Decoded: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8] | Decoded:
        return Decoded(self.paths[index]) if isinstance(index, slice) else read_image(self.paths[index])


@dataclass(frozen=True, eq=False)
class RealImages:
    """Images of one part of a run.

    Attributes:
        part: ``train`` or ``test``.
        images: decoded when asked for.
        targets: int64 (n,), or bool (n, k) for several labels an image.
    """

    part: str
    images: Decoded
    targets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.images)


def real_images(run: Run, part: str, count: int, *, data: Path | None = None) -> RealImages:
    """Images of a run, spread evenly over the part.

    Args:
        run: the run.
        part: ``train`` or ``test``.
        count: so many at most.
        data: the folder of the data, where the images have been moved since.

    Returns:
        Those that are still there, unchanged by their SHA-256, and can be read; perhaps none.
    """
    names, arrays = (run.test_names, run.tested) if part == "test" else (run.training_names, run.reference)
    digests, targets = arrays.get("digests"), arrays.get("targets")
    if digests is None or targets is None or not len(names) == len(digests) == len(targets):
        return RealImages(part, Decoded(()), np.zeros(0, dtype=np.int64))
    roots = _roots(run, data)
    order = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)) if names else np.zeros(0, dtype=int)
    paths, rows = [], []
    for row in order.tolist():
        path = _found(run.path / names[row], names[row], roots, digests[row].tobytes())
        if path is not None:
            paths.append(path)
            rows.append(row)
    return RealImages(part, Decoded(paths), targets[rows])


def some_real_images(run: Run, count: int, *, data: Path | None = None) -> RealImages:
    """Test images, or training images where no test image is there.

    Raises:
        DataError: neither are there.
    """
    for part in ("test", "train"):
        found = real_images(run, part, count, data=data)
        if len(found):
            return found
    raise DataError(
        f"None of the images of {run.path} are where they were when it was fitted, and an export is checked with them. "
        "Give their folder with --data."
    )


def _roots(run: Run, data: Path | None) -> list[Path]:
    told = run.manifest.get("provenance", {}).get("data")
    given = [data] if data is not None else []
    return [root for root in [*given, *([Path(told)] if isinstance(told, str) else [])] if root.is_dir()]


def _found(path: Path, name: str, roots: Sequence[Path], digest: bytes) -> Path | None:
    """The file with these bytes: at its old place, or below one of the folders by the end of its name."""
    parts = PurePosixPath(name).parts
    ends = [PurePosixPath(*parts[begin:]) for begin in range(len(parts)) if ".." not in parts[begin:]]
    for place in (path, *(root / end for root in roots for end in ends)):
        try:
            if place.is_file() and image_digest(source_bytes(place)) == digest:
                read_image(place)
                return place
        except (ImageError, OSError, ValueError):
            continue
    return None
