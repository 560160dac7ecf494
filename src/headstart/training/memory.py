"""How the C library gives memory to a training: without a system call for every activation."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_LARGEST = 32 << 20  # bytes; what glibc allows


def reuse_memory() -> None:
    """Let glibc keep the memory of freed activations for the next ones, for the rest of the process; elsewhere nothing.

    By default it maps every larger block anew and clears its pages: of the time of a training on stored maps, a sixth.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP, _LARGEST)
            library.mallopt(_TRIM, 1 << 30)
