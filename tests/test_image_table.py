"""The table of docs/reference/images.md, format by format: every row against an independent reader and the rule that the row states."""

# ruff: noqa: E501 - a row is a line

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from encoded_images import STORED, chunk, cut_out, encoded, png, turned
from headstart.errors import ImageError
from headstart.modalities.image import quiet_decoding, read_image

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "images.md"
Y, X = np.mgrid[:40, :56]
RGB = np.stack([X * 4, Y * 6, (X + Y) * 2], 2).astype(np.uint8)
GRAY = RGB[:, :, 0]
LAYERED = cut_out(RGB)
FALLING = LAYERED[:, :, 3]
EXIF = Image.Exif()
EXIF[0x0112] = 6
XMP = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
NAN = GRAY.astype(np.float32) / 255
NAN[3, 3] = np.nan
ITEMS = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)])


class Row(NamedTuple):
    """A line of the table: what the file is, what becomes of its samples, the file, its reader, and what the rule makes of the samples read."""

    format: str
    samples: str
    metadata: str
    rule: str
    data: bytes
    read: Callable[[bytes], Any] | None = None
    expected: Callable[[Any], Any] = lambda samples: samples
    tolerance: int = 0


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **({"photometric": "rgb" if samples.shape[-1] == 3 else "minisblack"} | options))
    return buffer.getvalue()


def of_tiff(data: bytes) -> Any:
    return np.asarray(tifffile.imread(io.BytesIO(data)))


def packed(samples: np.ndarray, bits: int, *chunks: bytes, colour: int = 0) -> bytes:
    """A PNG of fewer than 8 bits."""
    rows = b"".join(b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", *samples.shape[::-1], bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )  # fmt: skip


def over_white(samples: Any) -> Any:
    """Of 8 or 16 bits, (H, W, 2) or (H, W, 4)."""
    samples = samples / (1 if samples.dtype == np.uint8 else 257)
    alpha = samples[:, :, -1:] / 255
    return samples[:, :, :-1] * alpha + 255 * (1 - alpha)


def by_257(samples: Any) -> Any:
    return samples / 257


def of_cmyk(samples: Any) -> Any:
    inks = samples.astype(float) / (255 if samples.dtype == np.uint8 else 65535)
    return 255 * (1 - inks[:, :, :3]) * (1 - inks[:, :, 3:])


def upright(samples: Any) -> Any:
    return np.rot90(samples, -1)


def inverted(samples: Any) -> Any:
    return 255 - samples


DIVIDED, WHITE, TURNED, AS_STORED = "divided by 257", "laid over white", "turned upright", "as stored"
FIRST = "the first picture is taken"
NOT_READ = "refused by name, with a command that converts it"
PAGES = io.BytesIO()
with tifffile.TiffWriter(PAGES) as pages:
    pages.write(GRAY[::4, ::4], photometric="minisblack", subfiletype=1)
    pages.write(GRAY, photometric="minisblack")
png_of, jpeg_of, webp_of = imagecodecs.png_decode, imagecodecs.jpeg8_decode, imagecodecs.webp_decode
PALETTE = chunk(b"PLTE", ITEMS.T.astype(np.uint8).tobytes())
ROWS = [
    Row("PNG", "gray of 1 bit", "", "0 is black, 1 white", packed(GRAY >> 7, 1), png_of),
    Row("PNG", "gray of 2 bits", "", "scaled to 0..255", packed(GRAY >> 6, 2), png_of),
    Row("PNG", "gray of 4 bits", "", "scaled to 0..255", packed(GRAY >> 4, 4), png_of),
    Row("PNG", "gray of 8 bits", "", AS_STORED, png(GRAY[:, :, None]), png_of),
    Row("PNG", "gray of 16 bits", "", DIVIDED, png(GRAY[:, :, None].astype(np.uint16) * 251), png_of, by_257, 1),
    Row("PNG", "gray of 16 bits", "tRNS: a transparent value", f"{DIVIDED}; the value is white",
        png(GRAY[:, :, None].astype(np.uint16) * 257, chunk(b"tRNS", struct.pack(">H", 40 * 257))), lambda data: png_of(data)[..., :1],
        lambda gray: np.where(gray == 40 * 257, 255, gray / 257)),
    Row("PNG", "gray of 4 bits", "tRNS: a transparent value", "the value is white", packed(GRAY >> 4, 4, chunk(b"tRNS", b"\0\5")), png_of, over_white),
    Row("PNG", "gray and alpha, 8 bits", "", WHITE, png(LAYERED[:, :, 2:]), png_of, over_white, 1),
    Row("PNG", "gray and alpha, 16 bits", "", f"{DIVIDED}, {WHITE}", png(LAYERED[:, :, 2:].astype(np.uint16) * 257), png_of, over_white, 1),
    Row("PNG", "RGB of 8 bits", "", AS_STORED, png(RGB), png_of),
    Row("PNG", "RGB of 8 bits", "tRNS: a transparent colour", "the colour is white",
        png(RGB, chunk(b"tRNS", struct.pack(">HHH", *RGB[5, 5].tolist()))), png_of, over_white),
    Row("PNG", "RGB of 16 bits", "", "the upper 8 bits", png(RGB.astype(np.uint16) * 251), png_of, lambda samples: samples >> 8),
    Row("PNG", "RGBA of 8 bits", "", WHITE, png(LAYERED), png_of, over_white, 1),
    Row("PNG", "RGBA of 16 bits", "", f"the upper 8 bits, {WHITE}", png(LAYERED.astype(np.uint16) * 257), png_of, over_white, 1),
    Row("PNG", "palette of 8 bits", "", "the colours of the palette", packed(GRAY, 8, PALETTE, colour=3), png_of),
    Row("PNG", "palette of 8 bits", "tRNS: an opacity for each colour", WHITE,
        packed(GRAY, 8, PALETTE, chunk(b"tRNS", bytes(range(256))), colour=3), png_of, over_white, 1),
    Row("PNG", "RGB of 8 bits", "EXIF or XMP orientation", TURNED, png(np.rot90(RGB), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode())),
        png_of, upright),
    Row("PNG", "RGB of 8 bits", "gAMA, cHRM, sRGB, iCCP", "ignored", png(RGB, chunk(b"gAMA", struct.pack(">I", 100000))), png_of),
    Row("PNG", "RGB of 8 bits", "sBIT, bKGD", "ignored", png(RGB, chunk(b"sBIT", b"\5\6\5"), chunk(b"bKGD", bytes(6))), png_of),
    Row("PNG", "RGB of 8 bits", "texts and profiles of any length", "ignored", png(RGB, chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(3_000_000)))), png_of),
    Row("JPEG", "gray", "", AS_STORED, encoded(Image.fromarray(GRAY), "JPEG"), jpeg_of, tolerance=2),
    Row("JPEG", "YCbCr", "", "converted", encoded(Image.fromarray(RGB), "JPEG"), jpeg_of, tolerance=2),
    Row("JPEG", "YCbCr, progressive", "", "converted", encoded(Image.fromarray(RGB), "JPEG", progressive=True), jpeg_of, tolerance=2),
    Row("JPEG", "RGB", "Adobe marker: no transformation", AS_STORED, encoded(Image.fromarray(RGB), "JPEG", keep_rgb=True), jpeg_of, tolerance=2),
    Row("JPEG", "CMYK", "Adobe marker: inverted", "converted without colour management", encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        lambda data: jpeg_of(data, outcolorspace="CMYK"), lambda inks: of_cmyk(255 - inks), 4),
    Row("JPEG", "YCbCr", "EXIF or XMP orientation", TURNED, encoded(turned(RGB, 6), "JPEG", exif=EXIF), jpeg_of, upright, 2),
    Row("WebP", "RGB", "", AS_STORED, encoded(Image.fromarray(RGB), "WEBP", lossless=True), webp_of),
    Row("WebP", "RGBA", "", WHITE, encoded(Image.fromarray(LAYERED), "WEBP", lossless=True), webp_of, over_white, 1),
    Row("WebP", "RGB", "EXIF orientation", TURNED, encoded(turned(RGB, 6), "WEBP", lossless=True, exif=EXIF), webp_of, upright),
    Row("GIF", "palette", "", "the colours of the palette", encoded(Image.fromarray(GRAY), "GIF"), imagecodecs.gif_decode),
    Row("GIF", "animation", "", FIRST, encoded(Image.fromarray(GRAY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GRAY)]),
        lambda data: imagecodecs.gif_decode(data, index=0)),
    Row("BMP", "palette of 8 bits", "", "the colours of the palette", encoded(Image.fromarray(GRAY), "BMP"), imagecodecs.bmp_decode),
    Row("BMP", "RGB of 8 bits", "", AS_STORED, encoded(Image.fromarray(RGB), "BMP"), imagecodecs.bmp_decode),
    Row("TIFF", "1 bit", "", "0 is black, 1 white", tiff(GRAY > 127), of_tiff, lambda gray: gray * 255),
    Row("TIFF", "1 bit", "white is zero", "inverted", tiff(GRAY > 127, photometric="miniswhite"), of_tiff, lambda gray: 255 - gray * 255),
    Row("TIFF", "gray of 4 bits", "", "scaled to 0..255", tiff(GRAY >> 4, bitspersample=4), of_tiff, lambda gray: gray * 17),
    Row("TIFF", "gray of 8 bits", "", AS_STORED, tiff(GRAY), of_tiff),
    Row("TIFF", "gray of 8 bits", "white is zero", "inverted", tiff(GRAY, photometric="miniswhite"), of_tiff, inverted),
    Row("TIFF", "gray of 12 bits", "", "scaled from 0..4095", tiff(GRAY.astype(np.uint16) * 16, bitspersample=12), of_tiff, lambda gray: gray * (255 / 4095), 1),
    Row("TIFF", "gray of 16 bits", "", DIVIDED, tiff(GRAY.astype(np.uint16) * 251), of_tiff, by_257, 1),
    Row("TIFF", "gray of 16 bits", "white is zero", f"inverted, {DIVIDED}", tiff(GRAY.astype(np.uint16) * 251, photometric="miniswhite"), of_tiff,
        lambda gray: 255 - gray / 257, 1),
    Row("TIFF", "gray of 16 bits", "big-endian", DIVIDED, tiff(GRAY.astype(np.uint16) * 251, byteorder=">"), of_tiff, by_257, 1),
    Row("TIFF", "signed gray of 16 bits", "", "0..255 or 0..65535 if they fit, else from minimum to maximum",
        tiff(GRAY.astype(np.int16) * 9 - 1000), of_tiff, lambda gray: (gray + 1000) * (255 / (9 * 220)), 1),
    Row("TIFF", "signed gray of 16 bits", "big-endian, compressed", "the same", tiff(GRAY.astype(np.int16), byteorder=">", compression="deflate"), of_tiff),
    Row("TIFF", "integers of 32 bits", "", "0..255 or 0..65535 if they fit, else from minimum to maximum", tiff(GRAY.astype(np.int32) * 257), of_tiff, by_257),
    Row("TIFF", "floating point of 32 bits", "", "0..1 or 0..255 if they fit, else from minimum to maximum; NaN is 0", tiff(NAN), of_tiff,
        lambda gray: np.nan_to_num(gray) * 255, 1),
    Row("TIFF", "floating point of 32 bits", "big-endian, compressed", "the same", tiff(NAN, byteorder=">", compression="lzw", predictor=True), of_tiff,
        lambda gray: np.nan_to_num(gray) * 255, 1),
    Row("TIFF", "floating point of 32 bits", "white is zero", "inverted", tiff(GRAY.astype(np.float32) / 220, photometric="miniswhite"), of_tiff,
        lambda gray: 255 - gray * 255, 1),
    Row("TIFF", "palette of 8 bits", "", "the colours of the palette", tiff(GRAY, photometric="palette", colormap=(ITEMS * 257).astype(np.uint16)), of_tiff,
        lambda gray: ITEMS.T[gray]),
    Row("TIFF", "RGB of 8 bits", "strips or tiles, any compression", AS_STORED, tiff(RGB, tile=(16, 16), compression="lzw", predictor=True), of_tiff),
    Row("TIFF", "RGB of 8 bits", "planes side by side", AS_STORED, tiff(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), of_tiff,
        lambda planes: planes.transpose(1, 2, 0)),
    Row("TIFF", "RGB of 16 bits", "", "the upper 8 bits", tiff(RGB.astype(np.uint16) * 251), of_tiff, lambda samples: samples >> 8),
    Row("TIFF", "RGB of 16 bits", "planes side by side", "the upper 8 bits",
        tiff(RGB.transpose(2, 0, 1).astype(np.uint16) * 251, photometric="rgb", planarconfig="separate"), of_tiff,
        lambda planes: planes.transpose(1, 2, 0) >> 8),
    Row("TIFF", "RGBA of 8 or 16 bits", "unassociated alpha", WHITE, tiff(LAYERED, photometric="rgb", extrasamples=["unassalpha"]), of_tiff, over_white, 1),
    Row("TIFF", "RGBA of 8 or 16 bits", "associated (premultiplied) alpha", WHITE,
        tiff(np.dstack([np.rint(RGB * (FALLING[:, :, None] / 255)).astype(np.uint8), FALLING]), photometric="rgb", extrasamples=["assocalpha"]), of_tiff,
        lambda samples: samples[:, :, :3] + (255.0 - samples[:, :, 3:]), 2),
    Row("TIFF", "gray and alpha, 8 bits", "unassociated or associated alpha", WHITE,
        tiff(np.dstack([GRAY, FALLING]), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]), of_tiff, over_white, 1),
    Row("TIFF", "RGB and further samples", "unspecified extra samples", "the first three",
        tiff(np.dstack([RGB, GRAY, GRAY]), photometric="rgb", extrasamples=["unspecified"] * 2), of_tiff, lambda samples: samples[:, :, :3]),
    Row("TIFF", "CMYK of 8 or 16 bits", "", "converted without colour management",
        tiff(np.dstack([255 - RGB, GRAY // 2]), photometric="separated", planarconfig="contig"), of_tiff, of_cmyk, 2),
    Row("TIFF", "YCbCr", "JPEG compression", "converted", tiff(RGB, photometric="ycbcr", compression="jpeg"), of_tiff, tolerance=8),
    Row("TIFF", "gray of 16 bits", "orientation", TURNED, tiff(np.rot90(GRAY.astype(np.uint16)) * 257, extratags=[(274, 3, 1, 6, True)]), of_tiff,
        lambda gray: upright(gray) / 257),
    Row("TIFF", "several pictures", "thumbnails marked as such", "the first picture that is no thumbnail", PAGES.getvalue(),
        lambda data: tifffile.imread(io.BytesIO(data), key=1)),
    Row("BigTIFF", "all of the above", "", "as TIFF", tiff(GRAY, bigtiff=True), of_tiff),
    Row("TIFF", "floating point of 16 or 64 bits, or of colour", "", NOT_READ, tiff(GRAY / 255.0)),
    Row("TIFF", "gray and alpha, 16 bits", "", NOT_READ,
        tiff(np.dstack([GRAY, FALLING]).astype(np.uint16), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])),
    Row("TIFF", "several bands of gray", "", NOT_READ, tiff(RGB, photometric="minisblack", planarconfig="contig")),
    Row("HEIC, AVIF, JPEG 2000, JPEG XL, DICOM, EXR", "", "", NOT_READ, encoded(Image.fromarray(RGB), "JPEG2000")),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.format}, {row.samples}, {row.metadata}")
def test_every_row_of_the_table(row: Row) -> None:
    with quiet_decoding():
        if row.read is None:
            with pytest.raises(ImageError, match=r"is not read; convert it first: "):
                read_image(row.data)
            return
        pixels = read_image(row.data)
    expected = np.asarray(row.expected(row.read(row.data)), dtype=float)
    expected = np.broadcast_to(expected.reshape(*expected.shape[:2], -1), pixels.shape)
    assert np.ptp(expected) > 100
    assert np.abs(pixels - expected).max() <= max(row.tolerance, 0.5)


def table() -> str:
    """The table of the page."""
    lines = ["| format | samples | metadata | what becomes of it |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.format} | {row.samples} | {row.metadata} | {row.rule} |" for row in ROWS)])


def test_the_page_has_these_rows() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "packbits", "zstd"])
@pytest.mark.parametrize(
    "layout", [{}, {"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": True}, {"rowsperstrip": 7}, {"planarconfig": "separate"}]
)
def test_layouts_of_tiff_make_no_difference(layout: dict[str, Any], compression: str | None) -> None:
    for samples in (
        RGB,
        RGB.astype(np.uint16) * 257,
        GRAY,
        GRAY.astype(np.uint16) * 257,
        GRAY.astype(np.float32) / 255,
        GRAY.astype(np.int16),
    ):
        stored, options = samples, {"photometric": "rgb" if samples.ndim == 3 else "minisblack", "compression": compression, **layout}
        if "planarconfig" in layout:
            if samples.ndim == 2:
                continue
            stored = samples.transpose(2, 0, 1)
        for predictor in (False, True) if compression in ("deflate", "lzw", "zstd") else (False,):
            pixels = read_image(tiff(stored, **options, predictor=predictor))
            expected = (
                samples if samples.dtype in (np.uint8, np.int16) else samples * 255.0 if samples.dtype == np.float32 else samples // 257
            )
            np.testing.assert_allclose(pixels, np.broadcast_to(expected.reshape(40, 56, -1), pixels.shape), atol=1)


def test_orientations_are_those_of_the_standard() -> None:
    assert sorted(STORED) == list(range(2, 9))
    for orientation in range(1, 9):
        data = tiff(np.asarray(turned(RGB, orientation)), extratags=[(274, 3, 1, orientation, True)])
        np.testing.assert_array_equal(read_image(data), RGB)
