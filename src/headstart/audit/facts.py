"""What the files of a data set are: bytes, format, size, JPEG compression, and a frame around the picture; read once, in threads."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from headstart.data import Dataset, Labels
from headstart.engine import ahead
from headstart.errors import ImageError
from headstart.modalities.image import Levels, image_digest, quiet_decoding, read_image, source_bytes
from headstart.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

_DEEPEST = 3  # the search ends at this part of the picture on each side; a wide film in a square has bars of a fifth
_TOLERANCE = 24  # grey levels: JPEG leaves ripples where a frame meets the picture
_ALIKE = 0.9  # this share of a line must have the brightness of the frame
_EDGE = 0.4  # and this share of the next line must not: a frame ends all along its length, the plain ground of a drawing does not
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Frame(NamedTuple):
    """The width of a frame in pixels: `across` of its left and right side, `along` of its top and bottom.

    Each is the smaller of its two sides, and 0 where the two are not of one brightness. `grey` is that brightness (0 to 255), or -1 without
    a frame.
    """

    across: int
    along: int
    grey: int

    @property
    def around(self) -> int:
        """The width of the frame on all four sides."""
        return min(self.across, self.along)

    def scaled(self, scale: float) -> Frame:
        """The frame of the same picture, `scale` times as large; one that is there stays at least a pixel wide."""
        across, along = (max(round(side * scale), 1) if side else 0 for side in (self.across, self.along))
        return Frame(across, along, self.grey)


def find_frame(pixels: npt.NDArray[np.uint8]) -> Frame:
    """Return the frame of one picture, uint8 (H, W, 3).

    A line of pixels along a side belongs to the frame if nine tenths of it are as bright as the outermost line, within a tolerance that
    JPEG needs. The frame must end within a third of the picture, at a line of which much is of another brightness: the plain ground of a
    drawing is not a frame.
    """
    grey = np.asarray(pixels.astype(np.float32) @ _LUMA)
    deep, wide = (max(1, side // _DEEPEST) for side in grey.shape)
    along, level = _pair(grey[:deep], grey[::-1][:deep])
    across, side_level = _pair(grey.T[:wide], grey.T[::-1][:wide])
    if along and across and abs(level - side_level) > _TOLERANCE:
        across, along = (across, 0) if across > along else (0, along)
    if not along and not across:
        return Frame(0, 0, -1)
    return Frame(across, along, round(level if along else side_level))


def _pair(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> tuple[int, float]:
    """The width that two opposite sides (lines, length) have in common, and their brightness."""
    levels = float(np.median(one[0])), float(np.median(other[0]))
    if abs(levels[0] - levels[1]) > _TOLERANCE:
        return 0, -1.0
    return min(_flat_lines(one, levels[0]), _flat_lines(other, levels[1])), (levels[0] + levels[1]) / 2


def _flat_lines(lines: npt.NDArray[np.float32], level: float) -> int:
    alike = (np.abs(lines - level) <= _TOLERANCE).mean(axis=1)
    flat = alike >= _ALIKE
    width = int(np.argmin(flat))
    return width if not flat[width] and 1 - alike[width] >= _EDGE else 0


_THREADS = 2
_IN_FLIGHT = 64  # bounds memory: so many files are read ahead at most
_DECODED_SIDE = 32  # pixels; JPEGs are decoded at an eighth of their size at best, which still reads all their data
_FRAME_SIDE = 512  # pixels; a frame that is thinner than a pixel at this scale is out of sight of any network
_FRAMES = 1000  # images whose frame is measured, as many of each class as of the others
_FRAMES_PER_CLASS = 20  # but so many of each at least
# How brightness is quantised by the table of ITU-T T.81, annex K, which the IJG library scales by the quality asked for.
_STANDARD_TABLE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip


class Fact(NamedTuple):
    """One file; sizes are 0 where unknown."""

    digest: bytes
    reason: str  # why it is refused; empty if it can be read
    format: str
    mode: str
    width: int
    height: int
    size: int
    quality: float = 0.0  # what the quantisation of a JPEG comes to on the usual scale of 1 to 100; 0 for other formats
    sampling: str = ""  # how the colours of a JPEG are stored, such as ``"4:2:0"``
    frame: Frame | None = None  # None where none was searched for
    span: tuple[int, int] | None = None  # the darkest and the brightest value of the pixels, but for the hundredth at each end


@dataclass(frozen=True)
class Facts:
    """The facts of all images of a data set, in its order."""

    rows: tuple[Fact, ...]

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Facts:
        """The facts of some images."""
        return Facts(tuple(self.rows[int(row)] for row in rows))

    def refused(self) -> dict[int, str]:
        """Return the reasons of the images that cannot be read, by index."""
        return {i: row.reason for i, row in enumerate(self.rows) if row.reason}

    def copies(self) -> list[list[int]]:
        """Return the indices of images with the same bytes, for each digest that occurs more than once."""
        by_digest = defaultdict[bytes, list[int]](list)
        for i, row in enumerate(self.rows):
            if row.digest:
                by_digest[row.digest].append(i)
        return [indices for indices in by_digest.values() if len(indices) > 1]


def gather_files(dataset: Dataset, *, deep: bool, progress: Progress | None) -> Facts:
    """Read and decode every image, in threads; `progress` is called with (done, all) after each.

    If `deep`, at full size, and with a search for a frame around every image; else JPEGs are decoded at a fraction of their size, which
    is several times as fast, and frames are searched for around some images of each class.
    """
    total = len(dataset)
    closely = np.ones(total, bool) if deep else _sample(dataset)
    if isinstance(dataset.inputs, np.ndarray):
        height, width = dataset.inputs.shape[1:3]
        frames = [find_frame(image) if close else None for image, close in zip(dataset.inputs, closely, strict=True)]
        array = Fact(b"", "", "array", "RGB", width, height, dataset.inputs[0].nbytes if total else 0)
        digests = map(image_digest, dataset.inputs)
        return Facts(tuple(array._replace(digest=digest, frame=frame) for digest, frame in zip(digests, frames, strict=True)))
    rows: list[Fact] = []

    def inspect(task: tuple[Path, bool]) -> Fact:
        path, close = task
        at_least = None if deep else _FRAME_SIDE if close else _DECODED_SIDE
        return inspect_file(path, at_least=at_least, framed=close, levels=dataset.levels)

    executor = ThreadPoolExecutor(_THREADS)
    try:
        with quiet_decoding():
            for row in ahead(executor, inspect, zip(dataset.inputs, closely.tolist(), strict=True), most=_IN_FLIGHT):
                rows.append(row)
                if progress is not None:
                    progress(len(rows), total)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)  # an interruption waits for none of them
    return Facts(tuple(rows))


def _sample(dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Choose images for a closer look, as many of each class; none where images have several labels, which no shortcut is measured for."""
    chosen = np.zeros(len(dataset), bool)
    if not isinstance(dataset.targets, Labels):
        return chosen
    random = np.random.default_rng(0)
    each = max(_FRAMES_PER_CLASS, _FRAMES // max(1, len(dataset.classes)))
    for target in range(min(len(dataset.classes), 2 * _FRAMES // each)):
        members = np.flatnonzero(dataset.targets.array == target)
        chosen[random.permutation(members)[:each]] = True
    return chosen


def inspect_file(path: Path, *, at_least: int | None, framed: bool = False, levels: Levels = None) -> Fact:
    """Return the facts of one file; one that cannot be read or decoded is a fact too. `framed` searches for a frame around the picture."""
    try:
        data = source_bytes(path)
    except ImageError as error:
        return Fact(b"", error.reason, "", "", 0, 0, 0)
    assert isinstance(data, bytes)
    header, reason, frame, span = _header(data), "", None, None
    try:
        pixels = read_image(data, at_least=at_least, name=str(path), levels=levels)
        some = pixels[:: pixels.shape[0] // 64 + 1, :: pixels.shape[1] // 64 + 1]
        span = int(np.percentile(some, 1)), int(np.percentile(some, 99))
        if framed:
            frame = find_frame(pixels).scaled(max(header.width, header.height) / max(pixels.shape[:2]))
    except ImageError as error:
        reason = error.reason
    return header._replace(digest=image_digest(data), reason=reason, size=len(data), frame=frame, span=span)


def _header(data: bytes) -> Fact:
    from PIL import Image

    known = Fact(b"", "", "", "", 0, 0, 0)
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:  # hostile headers raise anything; read_image says why
        known = known._replace(format=image.format or "", mode=image.mode, width=image.width, height=image.height)
        known = known._replace(quality=_jpeg_quality(image), sampling=_jpeg_sampling(image))
    return known


def _jpeg_quality(image: Image.Image) -> float:
    """The quality at which the IJG library would have made a table as coarse as the first one of this JPEG; 0 for other formats."""
    tables = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return 0.0
    sums = _sums_by_quality()
    return round(float(np.interp(-sum(tables[0]), -sums, np.arange(1, 101))), 1)


@lru_cache(maxsize=1)
def _sums_by_quality() -> npt.NDArray[np.int64]:
    """The sum of the table that the IJG library makes for each quality from 1 to 100; it falls as the quality grows."""
    quality = np.arange(1, 101)[:, None]
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.asarray(np.clip((_STANDARD_TABLE * percent + 50) // 100, 1, 255).sum(axis=1))


def _jpeg_sampling(image: Image.Image) -> str:
    """How coarse the colours of a JPEG are, as photographers write it; empty for other formats and for grey."""
    layers = getattr(image, "layer", None)
    if not layers or len(layers) < 3:
        return ""
    _, across, down, _ = layers[0]
    ratios = {layer[1:3] for layer in layers[1:3]}
    usual = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}
    return usual.get((across, down), f"{across}x{down}") if ratios == {(1, 1)} else f"{across}x{down} to {max(ratios)}"
