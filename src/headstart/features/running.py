"""Inputs on their way through an engine: read in threads ahead of it; images whole, in views, or window by window."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.engine import Engine, Outputs, ahead
from headstart.errors import UnreadableError
from headstart.features.stage_maps import MapRequest, larger_square, part_of, viewed
from headstart.modalities import Preprocessing
from headstart.modalities.image import ImageSource, upright_size
from headstart.pixels.windows import Windows

Images: TypeAlias = Sequence[ImageSource] | npt.NDArray[np.uint8]
"""Inputs of any modality; a text is a string, and of images a string is a path."""

_Pixels: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class ImageResult:
    """The result of one image: its position, the SHA-256 of its bytes, and the network's outputs or the refusal."""

    index: int
    digest: bytes
    outputs: Outputs | UnreadableError
    further: tuple[Outputs, ...] = ()  # those of the views after the first
    size: tuple[int, int] = (0, 0)  # height and width of the image, where they were asked for


def run_images(
    images: Images, indices: Iterable[int], *, engine: Engine, preprocessing: Preprocessing, pool: ThreadPoolExecutor,
    request: MapRequest | None = None, windows: Windows | None = None, sizes: bool = False,
) -> Iterator[ImageResult]:  # fmt: skip
    """Decode those images whose positions are in `indices`, ahead of the engine by a bounded number, and yield the results in that order.

    Images are paths, bytes or arrays, or one uint8 array (n, H, W, 3). With `sizes`, each result has the size of its image. By a
    `request`, several views of an image go through the network; with `windows`, before them all windows of its square.
    """
    begun: deque[_Begun] = deque()
    larger = None if request is None else larger_square(preprocessing)  # type: ignore[arg-type]

    def decode(index: int) -> _Begun:
        begins = _Begun(index)
        try:
            data = preprocessing.read(images[index])
            begins.digest = preprocessing.digest(data)
            name = preprocessing.called(images[index])
            pixels = preprocessing(data, name=name)
            begins.size = upright_size(data) if sizes else (0, 0)
            begins.views = [pixels] if windows is None else windows.cut(pixels)
            if larger is not None and request is not None:
                enlarged = cache(partial(larger, data, name=name))
                if windows is None:
                    begins.views = [viewed(pixels, enlarged, view) for view in request.of(index)]
                else:
                    begins.views += [part_of(enlarged(), view, size=windows.side) for view in request.of(index)]
            begins.count = len(begins.views)
        except UnreadableError as error:
            begins.refusal = error
        return begins

    def pixels() -> Iterator[_Pixels]:
        for begins in ahead(pool, decode, indices):
            begun.append(begins)
            while begins.views:
                yield begins.views.pop(0)

    def refusals() -> Iterator[ImageResult]:
        while begun and (refusal := begun[0].refusal) is not None:
            one = begun.popleft()
            yield ImageResult(one.index, one.digest, refusal)

    found: list[Outputs] = []
    for outputs in engine.run(pixels()):
        if not found:
            yield from refusals()
        found.append(outputs)
        if len(found) == begun[0].count:
            one = begun.popleft()
            yield ImageResult(one.index, one.digest, found[0], tuple(found[1:]), one.size)
            found = []
    yield from refusals()


@dataclass
class _Begun:
    """An image on its way through the engine: its views that are still to be fed, or why it was refused."""

    index: int
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    views: list[_Pixels] = field(default_factory=list)
    count: int = 0
    refusal: UnreadableError | None = None
