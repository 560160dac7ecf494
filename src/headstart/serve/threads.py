"""The threads of a service: those that decode and explain, and for each model one that runs the engine.

An image of a few hundred kilobytes may announce a hundred megapixels, and takes seconds and a gigabyte to decode. Such images go through
one thread, one after the other, so that they never take more memory than that and never delay ordinary images.

An engine is fastest when images follow each other without a gap. So its thread sleeps until there is an image, passes it to the engine at
once, and continues for as long as there are more. Images that arrive while the engine computes join the batch; no image waits for a batch
to fill.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from headstart.engine import Engine, OfProcess, Outputs, available_cores
from headstart.modalities.image import quiet_decoding

Pixels = npt.NDArray[np.uint8]
MAX_BATCH = 64
"""Images after which a batch ends. An engine returns its last results when the batch ends."""

_Result = TypeVar("_Result")
_Item = tuple[Pixels, "Future[Outputs]"]
_LARGE_JPEG, _LARGE = 50_000_000, 8_000_000  # pixels; JPEGs are decoded at a fraction of their size


class WorkerThreads:
    """The threads of a service that decode, compute and explain. A context manager, which also keeps decoders from printing."""

    def __init__(self) -> None:
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._quiet = ExitStack()

    def __enter__(self) -> WorkerThreads:
        counts = {"decode": max(2, available_cores()), "decode-large": 1, "compute": 1, "explain": 1}
        self._pools = {name: ThreadPoolExecutor(count, thread_name_prefix=f"headstart-{name}") for name, count in counts.items()}
        self._quiet.enter_context(quiet_decoding())
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
        self._quiet.close()

    async def decode(self, data: Any, function: Callable[[], _Result]) -> _Result:
        """Run a function that decodes `data`, in the thread for images of their size."""

        def small() -> tuple[_Result] | None:  # even headers are read in a thread: hostile ones take long
            return None if isinstance(data, bytes) and large_pixels(data) else (function(),)

        def large() -> _Result:
            try:
                return function()
            finally:
                _malloc_trim()(0)

        done = await self.run("decode", small)
        return await self.run("decode-large", large) if done is None else done[0]

    async def run(self, name: Literal["decode", "decode-large", "compute", "explain"], function: Callable[[], _Result]) -> _Result:
        """Run a function in one of the pools; those that compute on arrays or make heat maps take one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._pools[name], function)


class BatchingQueue:
    """A thread that runs the images of many requests through an engine; `on_batch` is called with the number of images of each batch."""

    def __init__(self, engine: Engine, *, on_batch: Callable[[int], None] = lambda count: None) -> None:
        self._engine, self._on_batch = engine, on_batch
        self._started = OfProcess(self._start)  # workers that are forked from a process with the model have no thread of it

    def _start(self) -> threading.Thread:
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._closed, self._lock = False, threading.Lock()
        thread = threading.Thread(target=self._work, name="headstart-engine", daemon=True)
        thread.start()
        return thread

    def submit(self, pixels: Pixels) -> Future[Outputs]:
        """Queue one preprocessed image, uint8 (size, size, 3), for the outputs of the network; RuntimeError after `close`."""
        future: Future[Outputs] = Future()
        self._started()
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            self._queue.put((pixels, future))
        return future

    def close(self) -> None:
        """Finish the images in the queue, and end the thread."""
        thread = self._started()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if not self._run_batch(item):
                return

    def _run_batch(self, first: _Item) -> bool:
        """Run `first` and what follows it; returns False when the queue was closed meanwhile."""
        begun: deque[Future[Outputs]] = deque()
        count, more = 0, True

        def pixels() -> Iterator[Pixels]:
            nonlocal count, more
            item: _Item | None = first
            while item is not None:
                image, future = item
                if future.set_running_or_notify_cancel():
                    begun.append(future)
                    count += 1
                    yield image
                if count >= MAX_BATCH:
                    return
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    return
            more = False

        try:
            for outputs in self._engine.run(pixels()):
                begun.popleft().set_result(outputs)
        except BaseException as error:  # every waiting request must be told, whatever the error
            for future in begun:
                future.set_exception(error)
        if count:
            self._on_batch(count)
        return more


def large_pixels(data: bytes) -> int:
    """The pixels that the header of an image announces if they are so many that it is decoded apart, else 0; 1 if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF")) as image:
            pixels = image.width * image.height
            # JPEGs are decoded at reduced scale, but of progressive ones all coefficients are held.
            cheap = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
            return pixels if pixels > (_LARGE_JPEG if cheap else _LARGE) else 0
    except Exception:  # decoders raise anything on hostile files; the one that decodes will give the reason
        return 1


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int]:
    """Returns the memory of a large image to the system: the C library of Linux would keep some hundred megabytes."""
    import ctypes

    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return lambda kept: 0  # another C library
