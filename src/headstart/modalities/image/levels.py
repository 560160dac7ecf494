"""Which samples of more than 8 bits are black and white in a data set: 12 bits in a file of 16 would otherwise come out nearly black."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from headstart.modalities.image.decode import FORMATS, MAX_PIXELS, ImageSource, Levels, quiet_decoding, source_bytes

_LOOKED_AT = 200  # images that are decoded for it, evenly spread
_THREADS = 4
_FAINT = 0.75  # black is the smallest value, and not 0, where that is above this share of white


class _Span(NamedTuple):
    low: float
    high: float
    kind: str  # of NumPy's types


def common_levels(sources: Iterable[ImageSource]) -> Levels:
    """The levels (black, white) that suit all images of more than 8 bits together; None where their types' own do, or there are none.

    White is the largest value that as many bits can hold as the images use, such as 4095; of floating point at least 1. Black is 0, or the
    smallest value if it is negative or above three quarters of white. Integers and floating point together have no common levels.
    """
    deep = [source for source in sources if _may_be_deep(source)]
    chosen = deep[:: max(1, math.ceil(len(deep) / _LOOKED_AT))]
    if not chosen:
        return None
    with quiet_decoding(), ThreadPoolExecutor(_THREADS) as pool:
        spans = [span for span in pool.map(_span, chosen) if span is not None]
    kinds = {"f" if span.kind == "f" else "i" for span in spans}
    if len(kinds) != 1:
        return None
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    white = high if low < 0 else float(2 ** max(1, math.ceil(high).bit_length()) - 1)
    black = low if low < 0 or low > _FAINT * white else 0.0
    whole = (black, white) == (0, 65535) and {span.kind for span in spans} == {"u"}
    return None if whole or black >= white else (black, white)


def levels_note(levels: tuple[float, float]) -> str:
    """One line for the user."""
    black, white = levels
    return (
        f"Images of more than 8 bits are scaled from {black:g}..{white:g}, what these data use, to 0..255. A run scales all others "
        "in the same way."
    )


def _may_be_deep(source: ImageSource) -> bool:
    """Whether a file has more than 8 bits a sample, from its first bytes; a TIFF may."""
    if isinstance(source, bytes):
        head = source[:32]
    elif isinstance(source, str | os.PathLike):
        try:
            descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except (OSError, ValueError):
            return False
        try:
            head = os.read(descriptor, 32)
        except OSError:
            return False
        finally:
            os.close(descriptor)
    else:
        return False
    return head[24:25] == b"\x10" if head.startswith(b"\x89PNG") else head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def _span(source: ImageSource) -> _Span | None:
    """The extremes of an image of more than 8 bits; None for others, and for those that cannot be decoded."""
    from headstart.modalities.image.rgb import deep_samples, low_bytes, open_image, span_of

    try:
        data = source_bytes(source)
        assert isinstance(data, bytes)
        with open_image(data, FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            low = low_bytes(data, image)
            if low is None and image.mode not in ("I", "F") and not image.mode.startswith("I;"):
                return None
            image.load()
            samples = deep_samples(image, low)
    except Exception:  # decoders raise anything
        return None
    return None if samples is None else _Span(*span_of(samples), samples.dtype.kind)
