"""From the bytes of an image to the network's input, in threads, with a lane of their own for very large images.

An image of a few hundred kilobytes may announce a hundred megapixels, and takes seconds and a gigabyte to decode. These go through one
thread, one after the other. So they never take more than that, and never keep ordinary images waiting.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from headstart.engine import available_cores
from headstart.modalities.image import quiet_decoding

if TYPE_CHECKING:
    from PIL import Image

_Result = TypeVar("_Result")
_LARGE_JPEG, _LARGE = 50_000_000, 8_000_000  # pixels; JPEGs are decoded at a fraction of their size
_KNOWN = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


class Lanes:
    """The threads of a service that decode, judge and explain. A context manager: it keeps decoders from printing as well."""

    def __init__(self) -> None:
        threads = max(2, available_cores())
        self._ordinary = ThreadPoolExecutor(threads, thread_name_prefix="headstart-decode")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="headstart-decode-large")
        self._judging = ThreadPoolExecutor(1, thread_name_prefix="headstart-judge")
        self._explaining = ThreadPoolExecutor(1, thread_name_prefix="headstart-explain")
        self._quiet = ExitStack()

    def __enter__(self) -> Lanes:
        self._quiet.enter_context(quiet_decoding())
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._ordinary, self._large, self._judging, self._explaining):
            pool.shutdown(cancel_futures=True)
        self._quiet.close()

    async def decode(self, data: Any, function: Callable[[], _Result]) -> _Result:
        """Run a function that decodes `data`, in the lane for images of their size."""
        loop = asyncio.get_running_loop()

        def small() -> tuple[_Result] | None:  # even to read a header is left to a thread: hostile ones take long
            return None if isinstance(data, bytes) and large_pixels(data) else (function(),)

        def large() -> _Result:
            try:
                return function()
            finally:
                _give_back_memory()

        done = await loop.run_in_executor(self._ordinary, small)
        return await loop.run_in_executor(self._large, large) if done is None else done[0]

    async def read(self, function: Callable[[], _Result]) -> _Result:
        """Run a function that reads a body: those of some megabytes would hold up everybody else's requests."""
        return await asyncio.get_running_loop().run_in_executor(self._ordinary, function)

    async def judge(self, function: Callable[[], _Result]) -> _Result:
        """Run a function of arrays, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._judging, function)

    async def explain(self, function: Callable[[], _Result]) -> _Result:
        """Run a function that makes heat maps, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._explaining, function)


def looks_like_an_image(data: bytes) -> bool:
    """Whether data begin as files of one of the allowed formats do; what they hold may still be damaged."""
    return data.startswith(_KNOWN) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def large_pixels(data: bytes) -> int:
    """The pixels that the header of an image announces if they are so many that it is decoded apart, else 0; 1 if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF")) as image:
            pixels = image.width * image.height
            return pixels if pixels > (_LARGE_JPEG if _cheap(image, data) else _LARGE) else 0
    except Exception:  # decoders raise everything on hostile files; the one that decodes will say why
        return 1


def _cheap(image: Image.Image, data: bytes) -> bool:
    """Whether it is a JPEG that is decoded at reduced scale without keeping all of its coefficients, as progressive ones have to."""
    return image.format in ("JPEG", "MPO") and not image.info.get("progressive")


def _give_back_memory() -> None:
    """Hand what a large image took back to the system, which the C library of Linux would keep for itself: some hundred megabytes."""
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    import ctypes

    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None  # another C library
