"""Decoding: JPEG through libjpeg-turbo at reduced scale (simplejpeg), everything else through Pillow.

The rules, in one place:

* formats are recognised by content, never by suffix, and only those of `FORMATS` are opened;
* of an animation the first frame is taken, and it becomes upright RGB of 8 bits as `headstart.modalities.image.rgb` says;
* truncated files, files whose header announces more than `MAX_PIXELS` pixels, and anything that makes a decoder fail are refused.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from headstart.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
Levels: TypeAlias = tuple[float, float] | None
Box: TypeAlias = tuple[float, float, float, float]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | npt.NDArray[Any] | Image.Image"

DECODER_VERSION = 3
"""Part of every extractor's id: raise it whenever a change here alters a single pixel."""

MAX_PIXELS = 100_000_000
"""Larger images are refused: 100 megapixels take 300 MB as RGB, and three times that while Pillow converts some kinds.

A bomb of a few KB can announce far more."""

_MAX_JPEG_PIXELS = 250_000_000  # decoded at an eighth of the scale if need be, so that phone panoramas pass
_MAX_BYTES = 1 << 29
_EMPTY = "the file is empty"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF")

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"})


def is_image_name(name: str) -> bool:
    """Whether a file name ends like one of the formats that can be read (any case)."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - called for every file of a data set


def is_pillow(source: Any) -> TypeGuard[Image.Image]:
    """Whether this is an image of Pillow, which is not imported to find out."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(source, pillow.Image)


def image_name(source: ImageSource) -> str:
    """What an image is called in messages: its path, ``<bytes>``, ``<array>`` or ``<image>``."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "<bytes>" if isinstance(source, bytes) else "<array>" if isinstance(source, np.ndarray) else "<image>"


def source_bytes(source: ImageSource) -> bytes | Pixels | Image.Image:
    """Read a file's bytes; pass all else through. ImageError where it cannot be read, is empty or larger than 512 MiB."""
    if not isinstance(source, str | os.PathLike):
        return source
    path = os.fspath(source)
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(path, "not a regular file")
            if status.st_size > _MAX_BYTES:
                raise ImageError(path, f"file of {status.st_size >> 20} MiB is larger than the limit of {_MAX_BYTES >> 20} MiB")
            data = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(path, f"cannot be read ({reason})") from None
    if not data:
        raise ImageError(path, _EMPTY)
    return data


def image_digest(data: bytes | npt.NDArray[Any] | Image.Image) -> bytes:
    """SHA-256 (32 bytes) of a file's bytes, or of an array's shape, type and values; of an image of Pillow, of those it becomes."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).digest()
    if not isinstance(data, np.ndarray):
        data = read_image(data)
    header = f"array {data.dtype.str} {data.shape}\n".encode()
    return hashlib.sha256(header + np.ascontiguousarray(data).tobytes()).digest()


@lru_cache(maxsize=1)
def _libtiff_handlers() -> tuple[Any, ...]:
    """What sets the two handlers through which Pillow's bundled libtiff prints; nothing where it is not found, and keeps printing."""
    import ctypes

    import PIL

    package = Path(PIL.__file__).parent
    found = [*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")]
    if not found:
        return ()
    try:
        library = ctypes.CDLL(str(found[0]))
        setters = (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler)
    except (OSError, AttributeError):
        return ()
    for setter in setters:
        setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return setters


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Silence what decoders print about odd files (Python warnings, and libtiff's own lines on stderr) while a whole data set is read.

    Enter it once, in the thread that starts the decoding threads: both settings belong to the process. What was refused, and why, is
    in the `ImageError`, so nothing is hidden.
    """
    pillow_log, handlers = logging.getLogger("PIL"), _libtiff_handlers()
    level, before = pillow_log.level, [set_handler(None) for set_handler in handlers]
    pillow_log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        pillow_log.setLevel(level)
        for set_handler, handler in zip(handlers, before, strict=True):
            set_handler(handler)


def read_image(source: ImageSource, *, at_least: int | None = None, name: str | None = None, levels: Levels = None) -> Pixels:
    """Decode one image to upright RGB: uint8 (H, W, 3), C-contiguous.

    Arrays are uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Both sides may be reduced while decoding, but not below `at_least` pixels
    (JPEG only, to a half, a quarter or an eighth). An ImageError, with the reason, calls the image `name`; by default by its path. Samples
    of more than 8 bits are scaled from `levels`, black and white, to 0 and 255; by default as their type and their own values suggest.
    """
    return read_reduced(source, at_least=at_least, name=name, levels=levels)[0]


def read_reduced(source: ImageSource, *, at_least: int | None = None, name: str | None = None, levels: Levels = None) -> tuple[Pixels, Box]:
    """As `read_image`, and where the image lies among the pixels: left, top, right and bottom, float.

    A JPEG of 1001 columns, reduced to a half, has 501. The image ends in the middle of the last one: whoever takes that for a whole one
    moves all others by up to half a pixel.
    """
    name = name or image_name(source)
    data = source_bytes(source)
    if isinstance(data, np.ndarray):
        return _unreduced(_from_array(data, name))
    if not isinstance(data, bytes):
        return _decode_with_pillow(data, name, at_least, levels)
    if not data:
        raise ImageError(name, _EMPTY)
    found = _decode_jpeg(data, name, at_least) if data[:3] == b"\xff\xd8\xff" else None
    return _decode_with_pillow(data, name, at_least, levels) if found is None else found


def upright_size(source: ImageSource) -> tuple[int, int]:
    """Height and width of an image once it is turned upright, from its header; what `read_image` refuses may have any."""
    from PIL import Image

    from headstart.modalities.image.rgb import orientation

    data = source_bytes(source)
    if isinstance(data, np.ndarray):
        return int(data.shape[0]), int(data.shape[1])
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) if isinstance(data, bytes) else nullcontext(data) as image:
            width, height = image.size
            return (width, height) if orientation(image) >= 5 else (height, width)
    except Exception as error:  # as in decoding
        raise ImageError(image_name(source), f"its size cannot be read ({_reason(error)})") from None


def typical_side(sources: Sequence[ImageSource] | Pixels, *, at_most: int) -> int:
    """The median of the shorter sides of images in pixels, going by 15 of them; about `at_most` where it is that or more. 0 without any."""
    sides = []
    for index in np.unique(np.linspace(0, len(sources) - 1, 15).astype(int)).tolist() if len(sources) else []:
        with suppress(ImageError), quiet_decoding():
            sides.append(min(read_image(sources[index], at_least=at_most).shape[:2]))
    return int(np.median(sides)) if sides else 0


def _unreduced(pixels: Pixels) -> tuple[Pixels, Box]:
    return pixels, (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))


def _reduction(height: int, width: int, at_least: int | None) -> int:
    """How many rows and columns become one: 1, 2, 4 or 8.

    With these libjpeg-turbo computes the means of blocks of pixels; its other scales leave out high frequencies, are slower, and Pillow has
    none of them.
    """
    if at_least is None:
        return 1
    most = max(min(height, width) // max(at_least, 1), 1)
    return max(step for step in (1, 2, 4, 8) if step <= most or height * width > MAX_PIXELS * (step // 2) ** 2)


def _covered(pixels: Pixels, reduction: int, stored: tuple[int, int], orientation: int) -> Box:
    """Where an image of `stored` rows and columns lies after it was reduced, which filled up the last ones, and turned upright."""
    height, width = pixels.shape[:2]
    over_y, over_x = (-side % reduction / reduction for side in (stored if orientation < 5 else stored[::-1]))
    left = over_x if orientation in (2, 3, 6, 7) else 0.0
    top = over_y if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + width - over_x, top + height - over_y


def _from_array(array: npt.NDArray[Any], name: str) -> Pixels:
    if array.dtype != np.uint8:
        raise ImageError(name, f"array of {array.dtype}; images are uint8 from 0 to 255")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(name, f"array of shape {array.shape}; an image is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    return rgb_of_array(array)


def rgb_of_array(array: npt.NDArray[np.uint8]) -> Pixels:
    """Gray, RGB, or RGB with opacity, which is laid over white, (..., 1, 3 or 4), as RGB (..., 3)."""
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    elif array.shape[-1] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(array)


def _decode_jpeg(data: bytes, name: str, at_least: int | None) -> tuple[Pixels, Box] | None:
    """Decode an ordinary JPEG; None where Pillow should have the last word (CMYK, harmless or real damage)."""
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _refuse_large(name, width, height, _MAX_JPEG_PIXELS)
    if space not in ("YCbCr", "Gray", "GRAY", "RGB") or (at_least is None and width * height > MAX_PIXELS):
        return None
    try:
        reduction = _reduction(height, width, at_least)
        rows, columns = -(-height // reduction), -(-width // reduction)
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=rows, min_width=columns, min_factor=1, strict=True)
    except ValueError:
        return None
    orientation = _jpeg_orientation(data)
    if orientation != 1:
        from headstart.modalities.image.rgb import turned

        pixels = turned(pixels, orientation)
    return np.ascontiguousarray(pixels), _covered(pixels, reduction, (height, width), orientation)


def _jpeg_orientation(data: bytes) -> int:
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:  # the segments before the pixels
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data.find(b"Exif\x00\x00", 0, at) < 0 and data.find(b"tiff:Orientation", 0, at) < 0:
        return 1
    from PIL import Image

    from headstart.modalities.image.rgb import orientation

    with suppress(Exception), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return orientation(image)
    return 1  # damaged EXIF in a JPEG that decodes: the pixels are what counts


def _refuse_large(name: str, width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise ImageError(name, f"{width}x{height} is {width * height / 1e6:.0f} megapixels; the limit is {limit / 1e6:.0f}")


def _decode_with_pillow(data: bytes | Image.Image, name: str, at_least: int | None, levels: Levels) -> tuple[Pixels, Box]:
    from headstart.modalities.image.rgb import orientation, read_rgb, upright_rgb

    drafts: list[tuple[int, tuple[int, int], int]] = []

    def opened(image: Image.Image) -> None:
        width, height = image.size
        _refuse_large(name, width, height, _MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS)
        reduction = _reduction(height, width, at_least)
        if reduction > 1 and image.draft(None, (width // reduction, height // reduction)) is not None:
            drafts.append((reduction, (height, width), orientation(image)))

    with decoding(name, data if isinstance(data, bytes) else b""):
        if isinstance(data, bytes):
            pixels = read_rgb(data, levels, formats=FORMATS, opened=opened)
            return (pixels, _covered(pixels, *drafts[-1])) if drafts else _unreduced(pixels)
        _refuse_large(name, data.width, data.height, MAX_PIXELS)
        return _unreduced(upright_rgb(data, levels))


@contextmanager
def decoding(name: str, data: bytes) -> Iterator[None]:
    """Raise ImageError, with the reason, for whatever Pillow raises in the block on a file of these bytes."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(name, _describe_unknown(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(name, f"its header announces more than {MAX_PIXELS / 1e6:.0f} megapixels") from None
    except Exception as error:  # decoders raise SyntaxError, struct.error, ZeroDivisionError and more on hostile files
        raise ImageError(name, f"cannot be decoded ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower():
        return "the file is cut off"
    if text.startswith("decoder error"):
        return "its data are damaged"
    return text[:160] or type(error).__name__


_SIGNATURES = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "WebP", b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF", b"BM": "BMP",
}  # fmt: skip
_PILLOW = "python -c \"from PIL import Image; Image.open('IN').save('OUT.png')\""
_MAGICK = "magick IN OUT.png (of ImageMagick)"
_HEIF = ("heic", "heix", "hevc", "hevx", "heim", "heis", "hevm", "hevs", "mif1", "mif2", "msf1")
_OTHERS: tuple[tuple[int, tuple[bytes, ...], str, str], ...] = (  # place and lower case of the signature, kind, and what converts it
    (0, (b"%pdf",), "a PDF", "pdftoppm -png IN OUT (of Poppler)"),
    (0, (b"<svg", b"<?xm"), "SVG or XML", "rsvg-convert IN -o OUT.png (of librsvg), if it is SVG"),
    (0, (b"<!do", b"<htm"), "an HTML page", ""),
    (0, (b"version https://",), "a pointer of Git LFS", "git lfs pull (in its repository)"),
    (0, (b"pk\x03\x04",), "a zip", "unzip IN"),
    (0, (b"\x1f\x8b",), "a gzip", "gunzip -c IN > OUT"),
    (0, (b"rar!", b"7z\xbc\xaf"), "an archive", "7z x IN (of 7-Zip)"),
    (4, tuple(f"ftyp{brand}".encode() for brand in _HEIF), "HEIC", "heif-convert IN OUT.png (of libheif)"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF", _PILLOW),
    (4, (b"ftypcrx",), "a raw photo", "darktable-cli IN OUT.png (of darktable)"),
    (0, (b"fujifilmccd-raw",), "a raw photo", "darktable-cli IN OUT.png (of darktable)"),
    (4, (b"ftyp",), "a video", "ffmpeg -i IN -frames:v 1 OUT.png (of FFmpeg)"),
    (8, (b"avi ",), "a video", "ffmpeg -i IN -frames:v 1 OUT.png (of FFmpeg)"),
    (8, (b"wave",), "a sound", ""),
    (0, (b"\x00\x00\x00\x0cjp  ", b"\xffo\xffq"), "JPEG 2000", _PILLOW),
    (0, (b"\x00\x00\x00\x0cjxl ", b"\xff\x0a"), "JPEG XL", "djxl IN OUT.png (of libjxl)"),
    (128, (b"dicm",), "DICOM", "dcmj2pnm --write-png IN OUT.png (of DCMTK)"),
    (0, (b"8bps",), "a Photoshop file", "magick 'IN[0]' OUT.png (of ImageMagick)"),
    (0, (b"\x00\x00\x01\x00",), "an icon", _PILLOW),
    (0, (b"v/1\x01",), "OpenEXR", _MAGICK),
    (0, (b"#?radiance",), "Radiance HDR", _MAGICK),
    (0, (b"simple  =",), "FITS", _MAGICK),
    (0, (b"dds ",), "DDS", _PILLOW),
    (0, (b"qoif",), "QOI", _PILLOW),
    (0, tuple(f"p{kind}{space}".encode() for kind in range(1, 7) for space in " \n\r\t"), "PBM, PGM or PPM", _PILLOW),
    (0, (b"\x93numpy",), "an array of NumPy", ""),
)  # fmt: skip


def begins_as_image(data: bytes) -> bool:
    """Whether data begin as files of an allowed format do; the rest may still be damaged."""
    return data.startswith(tuple(_SIGNATURES)) and (data[:4] != b"RIFF" or data[8:12] in (b"", b"WEBP"))


def _tiff_samples(data: bytes) -> str:
    """What the pixels of a TIFF consist of; empty for other files."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with suppress(Exception):
        tags = ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        kind = {2: "signed integers", 3: "floating point"}.get(max(tags.get(339, (1,))), "unsigned integers")
        layout = f"photometric interpretation {tags.get(262, 'unknown')}, compression {tags.get(259, 1)}"
        return f"{tags.get(277, 1)} x {max(tags.get(258, (1,)))} bits ({kind}) a pixel, {layout},"
    return ""


def _describe_unknown(data: bytes) -> str:
    """Say what a file seems to be that no decoder recognises, from its first bytes."""
    allowed = "allowed are JPEG, PNG, WebP, GIF, BMP and TIFF"
    if samples := _tiff_samples(data):
        return f"a TIFF of {samples} is not read; convert it first: magick IN OUT.png (of ImageMagick); {allowed}"
    for start, kind in _SIGNATURES.items():
        if data.startswith(start) and (kind != "WebP" or data[8:12] == b"WEBP"):
            return f"starts like a {kind} file, but its header is damaged"
    for at, starts, kind, command in _OTHERS:
        if data[at : at + 16].lower().startswith(starts):
            return f"it looks like {kind}, which is not read{'; convert it first: ' if command else ''}{command}; {allowed}"
    return f"not an image of a known format (it starts with {data[:8].hex(' ')}); {allowed}"
