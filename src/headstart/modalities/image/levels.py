"""Which samples of more than 8 bits are black and white in a data set: 12 bits in a file of 16 would otherwise come out nearly black."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from headstart.errors import setting
from headstart.modalities.image.decode import (
    FORMATS,
    MAX_PIXELS,
    ImageSource,
    Levels,
    image_name,
    is_pillow,
    quiet_decoding,
    source_bytes,
)  # fmt: skip
from headstart.text import enumeration, plural

_LOOKED_AT = 200  # images that are decoded for it, evenly spread
_THREADS = 4
_FAINT = 0.75  # black is the smallest value, and not 0, where that is above this share of white
_BRIGHTEST = 99.9  # percentile above which pixels of an image may be hot ones
_FEW = 0.05  # share of the images that may be unlike the others; one of ten may always be
_GAIN = 4  # how many times as bright the others must become for these to be clipped


class CommonLevels(NamedTuple):
    """The levels of a data set, and the images that are much brighter than these allow, of how many that were looked at."""

    levels: Levels
    clipped: tuple[str, ...] = ()
    of: int = 0


class _Span(NamedTuple):
    low: float
    high: float
    bright: float  # as `high`, but for the brightest thousandth
    kind: str  # of NumPy's types
    name: str


def common_levels(sources: Iterable[ImageSource]) -> CommonLevels:
    """The levels (black, white) that suit all images of more than 8 bits together; None where their types' own do, or there are none.

    White is the largest value that as many bits can hold as the images use, such as 4095; of floating point at least 1. Black is 0, or the
    smallest value if it is negative or above three quarters of white. Integers and floating point together have no common levels. A few hot
    pixels, or a few images, do not make all others nearly black: they are clipped.
    """
    deep = [source for source in sources if _may_be_deep(source)]
    chosen = deep[:: max(1, math.ceil(len(deep) / _LOOKED_AT))]
    if not chosen:
        return CommonLevels(None)
    with quiet_decoding(), ThreadPoolExecutor(_THREADS) as pool:
        spans = [span for span in pool.map(_span, chosen) if span is not None]
    if len({"f" if span.kind == "f" else "i" for span in spans}) != 1:
        return CommonLevels(None)
    high = max(span.high for span in spans)
    usual = sorted(span.bright for span in spans)[: len(spans) - max(int(_FEW * len(spans)), len(spans) >= 10)][-1]
    brightest = max(span.bright for span in spans)
    high = next((value for value in (usual, brightest) if _white(value) * _GAIN <= _white(high) and value > 0), high)
    clipped = tuple(span.name for span in spans if span.bright > _white(high))
    low = min(span.low for span in spans)
    white = high if low < 0 else _white(high)
    black = low if low < 0 or low > _FAINT * white else 0.0
    whole = (black, white) == (0, 65535) and {span.kind for span in spans} == {"u"}
    return CommonLevels(None if whole or black >= white else (black, white), clipped, len(spans))


def _white(high: float) -> float:
    """The largest value that as many bits can hold."""
    return float(2 ** max(1, math.ceil(high).bit_length()) - 1) if high > 0 else high


def clipped_note(found: CommonLevels) -> str:
    """A warning of images that are brighter than the levels allow."""
    assert found.levels is not None
    return (
        f"{len(found.clipped)} of {plural(found.of, 'image')} are much brighter than the others, and are white above {found.levels[1]:g}: "
        f"{enumeration([*found.clipped[:5]], count=len(found.clipped))}. Remove them if they are of another kind, or set the levels: "
        f"{setting('levels', '0,65535')}."
    )


def levels_note(levels: tuple[float, float]) -> str:
    """One line for the user."""
    black, white = levels
    return (
        f"Images of more than 8 bits are scaled from {black:g}..{white:g}, what these data use, to 0..255. A run scales all others "
        "in the same way."
    )


def _may_be_deep(source: ImageSource) -> bool:
    """Whether a file has more than 8 bits a sample, from its first bytes; a TIFF may."""
    if is_pillow(source):
        return source.mode in ("I", "F") or source.mode.startswith("I;")
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
    import numpy as np

    from headstart.modalities.image.rgb import deep_samples, low_bytes, open_image, span_of

    def spanned(samples: Any) -> _Span:
        low, high = span_of(samples)
        bright = float(np.percentile(np.nan_to_num(samples, posinf=high), _BRIGHTEST, method="lower"))
        return _Span(low, high, bright, samples.dtype.kind, image_name(source))

    try:
        data = source_bytes(source)
        if is_pillow(data):
            data.load()
            return spanned(deep_samples(data))
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
    return None if samples is None else spanned(samples)
