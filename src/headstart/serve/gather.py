"""Gathers images of many requests into bursts for the engine, without making any of them wait for others.

An engine is fastest when images follow each other without a gap. So there is one thread for each model: it sleeps until there is an
image, gives it to the engine at once, and goes on for as long as there are more. What comes while the engine computes joins the burst;
nobody waits for a burst to fill.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue

import numpy as np
import numpy.typing as npt

from headstart.engine import Engine, Outputs

Pixels = npt.NDArray[np.uint8]
LONGEST_BURST = 64
"""Images after which a burst ends. An engine hands out its last results when the burst ends."""

_Item = tuple[Pixels, "Future[Outputs]"]


class Gather:
    """A thread that runs images through an engine.

    Args:
        engine: runs the network.
        on_burst: called with the number of images of each burst.
    """

    def __init__(self, engine: Engine, *, on_burst: Callable[[int], None] | None = None) -> None:
        self._engine, self._on_burst = engine, on_burst
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="headstart-engine", daemon=True)
        self._thread.start()

    def submit(self, pixels: Pixels) -> Future[Outputs]:
        """Hand in one prepared image, uint8 (size, size, 3); the future gives the outputs of the network for it.

        Raises:
            RuntimeError: after `close`.
        """
        future: Future[Outputs] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            self._queue.put((pixels, future))
        return future

    def close(self) -> None:
        """Finish what was handed in, and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if not self._burst(item):
                return

    def _burst(self, first: _Item) -> bool:
        """Run `first` and what follows it; returns False when the end was met on the way."""
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
                if count >= LONGEST_BURST:
                    return
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    return
            more = False

        try:
            for outputs in self._engine.run(pixels()):
                begun.popleft().set_result(outputs)
        except BaseException as error:  # whoever waits must be told, whatever it was
            for future in begun:
                future.set_exception(error)
        if count and self._on_burst is not None:
            self._on_burst(count)
        return more
