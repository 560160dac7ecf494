"""The images that an export is compared on: the run's own, found by name and confirmed by digest, decoded one at a time."""

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


class DecodedImages(Sequence[npt.NDArray[np.uint8]]):
    """Images that are decoded at full size each time they are accessed: a few hundred photographs would not fit into memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> DecodedImages: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8] | DecodedImages:
        return DecodedImages(self.paths[index]) if isinstance(index, slice) else read_image(self.paths[index])


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of one part of a run.

    Attributes:
        part: ``train`` or ``test``.
        images: decoded when accessed.
        targets: int64 (n,), or bool (n, k) for several labels an image.
    """

    part: str
    images: DecodedImages
    targets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.images)


def sample_of(run: Run, part: str, count: int, *, data: Path | None = None) -> Sample:
    """Images of a run, spread evenly over the part.

    Args:
        run: the run.
        part: ``train`` or ``test``.
        count: at most so many.
        data: the folder of the data, if the images have been moved since.

    Returns:
        Those that are still there, unchanged by their SHA-256, and can be read; perhaps none.
    """
    names, arrays = (run.test_names, run.tested) if part == "test" else (run.training_names, run.reference)
    digests, targets = arrays.get("digests"), arrays.get("targets")
    if digests is None or targets is None or not 0 < len(names) == len(digests) == len(targets):
        return Sample(part, DecodedImages(()), np.zeros(0, dtype=np.int64))
    fitted_on = run.manifest.provenance.get("data")
    roots = [root for root in (data, Path(fitted_on) if isinstance(fitted_on, str) else None) if root is not None and root.is_dir()]
    order = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)).tolist()
    found = {row: path for row in order if (path := _found(run.path / names[row], names[row], roots, digests[row].tobytes()))}
    return Sample(part, DecodedImages(list(found.values())), targets[list(found)])


def some_sample_of(run: Run, count: int, *, data: Path | None = None) -> Sample:
    """Test images, or training images where no test image is left.

    Raises:
        DataError: none of either are left.
    """
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
        try:
            if place.is_file() and image_digest(source_bytes(place)) == digest:
                read_image(place)
                return place
        except (ImageError, OSError, ValueError):
            continue
    return None
