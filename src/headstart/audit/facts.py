"""`Facts`: what every file says about itself (digest, format, size, colour mode) and whether it can be decoded."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.datasets import Dataset
from headstart.errors import ImageError
from headstart.images import image_digest, quiet_decoding, read_image, source_bytes

Progress = Callable[[int, int], None]
_THREADS = 2
_IN_FLIGHT = 64  # bounds memory: so many files are read ahead at most
_DECODED_SIDE = 32  # pixels; JPEGs are decoded at an eighth of their size at best, which still reads all their data


class Fact(NamedTuple):
    """One file: `reason` is why it is refused, empty if it can be read; sizes are 0 where unknown."""

    digest: bytes
    reason: str
    format: str
    mode: str
    width: int
    height: int
    size: int


@dataclass(frozen=True)
class Facts:
    """The facts of all images of a data set, in its order."""

    rows: tuple[Fact, ...]

    def refused(self) -> dict[int, str]:
        """Return the reasons of the images that cannot be read, by index."""
        return {i: row.reason for i, row in enumerate(self.rows) if row.reason}

    def copies(self) -> list[list[int]]:
        """Return the indices of images with the same bytes, for each digest that occurs more than once."""
        by_digest: dict[bytes, list[int]] = {}
        for i, row in enumerate(self.rows):
            if row.digest:
                by_digest.setdefault(row.digest, []).append(i)
        return [indices for indices in by_digest.values() if len(indices) > 1]


def gather(dataset: Dataset, *, deep: bool, progress: Progress | None) -> Facts:
    """Read and decode every image, in threads.

    Args:
        dataset: files or an array.
        deep: decode at full size; otherwise JPEGs are decoded at a fraction of it, which is several times as fast.
        progress: called with (done, all) after each image.
    """
    if isinstance(dataset.images, np.ndarray):
        height, width = dataset.images.shape[1:3]
        return Facts(tuple(Fact(image_digest(image), "", "array", "RGB", width, height, image.nbytes) for image in dataset.images))
    rows: list[Fact] = []
    total = len(dataset)
    side = None if deep else _DECODED_SIDE
    with quiet_decoding():
        for row in _in_threads(lambda path: inspect_file(path, at_least=side), iter(dataset.images)):
            rows.append(row)
            if progress is not None:
                progress(len(rows), total)
    return Facts(tuple(rows))


def _in_threads(work: Callable[[Path], Fact], paths: Iterator[Path]) -> Iterator[Fact]:
    """Yield the results in order, with a bounded number of files in flight; an interruption waits for none of them."""
    executor = ThreadPoolExecutor(_THREADS)
    try:
        waiting: list[Future[Fact]] = [executor.submit(work, path) for path in islice(paths, _IN_FLIGHT)]
        waiting.reverse()
        while waiting:
            result = waiting.pop().result()
            for path in islice(paths, 1):
                waiting.insert(0, executor.submit(work, path))
            yield result
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def inspect_file(path: Path, *, at_least: int | None) -> Fact:
    """Return the facts of one file; a file that cannot be read or decoded is a fact too, and raises nothing."""
    try:
        data = source_bytes(path)
    except ImageError as error:
        return Fact(b"", error.reason, "", "", 0, 0, 0)
    if not isinstance(data, bytes):
        raise TypeError(f"{path!r} is not the path of a file")
    kind, mode, width, height = _header(data)
    reason = ""
    try:
        read_image(data, at_least=at_least, name=str(path))
    except ImageError as error:
        reason = error.reason
    return Fact(image_digest(data), reason, kind, mode, width, height, len(data))


def _header(data: bytes) -> tuple[str, str, int, int]:
    from PIL import Image

    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:  # hostile headers raise anything; read_image says why
        return image.format or "", image.mode, image.width, image.height
    return "", "", 0, 0
