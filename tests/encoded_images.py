"""One picture as files of every format and mode that are read, with the metadata that decide about pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

STORED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transposition that turns the upright picture into the one that is stored


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: np.ndarray, *chunks: bytes, colour: int | None = None) -> bytes:
    """A PNG of 8 or 16 bits, (H, W, channels), with further chunks before the pixels; Pillow writes no colour of 16 bits."""
    height, width, channels = samples.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels] if colour is None else colour
    rows = b"".join(b"\0" + row.astype(samples.dtype.newbyteorder(">")).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.dtype.itemsize, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )  # fmt: skip


def turned(picture: np.ndarray, orientation: int) -> Image.Image:
    """The picture as it is stored under an orientation."""
    image = Image.fromarray(picture)
    return image.transpose(Image.Transpose(STORED[orientation])) if orientation > 1 else image


def cut_out(picture: np.ndarray) -> np.ndarray:
    """The picture with an opacity that falls from left to right."""
    alpha = np.broadcast_to(np.linspace(255, 0, picture.shape[1]).astype(np.uint8)[None, :, None], (*picture.shape[:2], 1))
    return np.dstack([picture, alpha])


def every_mode(picture: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the files."""
    image, gray = Image.fromarray(picture), Image.fromarray(picture).convert("L")
    deep = np.asarray(gray).astype(np.uint16)
    layered, exif = Image.fromarray(cut_out(picture)), Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"):
        yield f"rgb.{kind.lower()}", encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
        yield f"gray.{kind.lower()}", encoded(gray, kind, **({"lossless": True} if kind == "WEBP" else {}))
    for kind in ("PNG", "TIFF", "WEBP"):
        yield f"rgba.{kind.lower()}", encoded(layered, kind, **({"lossless": True} if kind == "WEBP" else {}))
        yield f"turned.{kind.lower()}", encoded(turned(picture, 6), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    for kind in ("PNG", "TIFF"):
        yield f"la.{kind.lower()}", encoded(layered.convert("LA"), kind)
        yield f"deep gray.{kind.lower()}", encoded(Image.fromarray(deep * 257), kind)
        yield f"one bit.{kind.lower()}", encoded(gray.convert("1"), kind)
        yield f"palette.{kind.lower()}", encoded(image.quantize(64), kind)
    yield "palette, transparent.png", encoded(image.quantize(64), "PNG", transparency=bytes(range(0, 256, 4)))
    yield "palette, transparent.gif", encoded(image.quantize(64), "GIF", transparency=3)
    yield "colour key.png", encoded(gray, "PNG", transparency=int(deep[0, 0]))
    yield "deep colour.png", png(picture.astype(np.uint16) * 257)
    yield "deep rgba.png", png(cut_out(picture).astype(np.uint16) * 257)
    yield "deep la.png", png(cut_out(picture)[:, :, [0, 3]].astype(np.uint16) * 257)
    yield "deep colour key.png", png(deep[:, :, None] * 257, chunk(b"tRNS", struct.pack(">H", int(deep[0, 0]) * 257)))
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2_000_000, zip=True)
    yield "long text.png", encoded(image, "PNG", pnginfo=text)
    yield "cmyk.jpeg", encoded(image.convert("CMYK"), "JPEG")
    yield "cmyk.tiff", encoded(image.convert("CMYK"), "TIFF")
    yield "lab.tiff", encoded(Image.merge("LAB", image.convert("YCbCr").split()), "TIFF")
    yield "integers.tiff", encoded(Image.fromarray(deep.astype(np.int32)), "TIFF")
    yield "float to 1.tiff", encoded(Image.fromarray((deep / 255).astype(np.float32)), "TIFF")
    yield "float to 255.tiff", encoded(Image.fromarray(deep.astype(np.float32)), "TIFF")
    yield "float below 0.tiff", encoded(Image.fromarray(deep.astype(np.float32) * 10 - 1000), "TIFF")
    yield "progressive.jpeg", encoded(image, "JPEG", progressive=True, subsampling=2)
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        yield f"orientation {orientation}.jpeg", encoded(turned(picture, orientation), "JPEG", exif=exif)
