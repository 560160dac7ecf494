"""For the benchmark of abuse: requests that nobody sends by accident. Everything is made from a seed."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BOUNDARY = b"----a-boundary-of-a-form"
FORM = f"multipart/form-data; boundary={BOUNDARY.decode()}"
PATHS = (
    "/predict", "/predict?top=3", "/predict?nearest=20", "/predict?explain=1", "/predict?top=0", "/predict?top=1e9",
    "/predict?nearest=-1", "/predict?model=../../etc/passwd", "/predict?model=%00", "/predict?explain=maybe",
    "/predict?" + "a=b&" * 500, "//predict", "/predict/..%2f",
)  # fmt: skip
_WORDS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\0", b"--", b"--" + BOUNDARY, b"--" + BOUNDARY + b"--", b"Content-Disposition: form-data",
    b'; name="file"', b'; filename="../../../etc/passwd"', b"; filename*=UTF-8''%ff%fe%00", b"Content-Transfer-Encoding: base64",
    b"Content-Length: -1", b"Content-Type: multipart/mixed; boundary=x", b"Content-Type: text/plain; charset=utf-7", b"\xff\xfe\xfd",
    b'"' * 40, b";" * 300, "\u202e\u0000\U0001f600".encode(), b"%s%n%x", b"A" * 5000, b"{{7*7}}", b"<script>", b"http://127.0.0.1:1/x.jpg",
)  # fmt: skip
_KINDS = (
    "multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary="', "multipart/mixed; boundary=x",
    "multipart/form-data; boundary=" + "x" * 3000, "multipart/form-data; boundary=\xff\xfe", f"{FORM}; charset=utf-16",
    f"{FORM}; charset=no-such", f"{FORM}; boundary=other", "application/json", "image/jpeg", "text/html", ";;;", "",
    "application/x-www-form-urlencoded",
)  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """One request: its body, where it goes, and its headers."""

    name: str
    body: bytes
    path: str
    headers: dict[str, str]


def part(data: bytes, *, name: str = "file", filename: str = "photo.jpg") -> bytes:
    """One part of a form."""
    top = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: image/jpeg\r\n\r\n'
    return b"--" + BOUNDARY + b"\r\n" + top.encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def mutated(images: list[bytes], *, count: int, seed: int) -> Iterator[Hostile]:
    """Forms with one to three small images, each changed in one to six ways."""
    random = np.random.default_rng(seed)
    for number in range(count):
        chosen = [images[index] for index in random.integers(len(images), size=random.integers(1, 4))]
        body = bytearray(form(*map(part, chosen)))
        for _ in range(random.integers(1, 7)):
            _mutate(body, random)
        kind = FORM if random.random() < 0.9 else _KINDS[random.integers(len(_KINDS))]
        path = PATHS[0] if random.random() < 0.8 else PATHS[random.integers(len(PATHS))]
        yield Hostile(f"mutated {number}", bytes(body), path, {"Content-Type": kind})


def _mutate(body: bytearray, random: np.random.Generator) -> None:
    """Change a body in place; half of the changes fall on what is not image."""
    if not body:
        return
    structure = [place for mark in (b"--" + BOUNDARY, b"Content-", b"\r\n\r\n") for place in _found(body, mark)]
    near = structure and random.random() < 0.5
    place = int(structure[random.integers(len(structure))] + random.integers(0, 60)) if near else int(random.integers(len(body)))
    place, length = min(place, len(body) - 1), int(random.integers(1, 200))
    word = _WORDS[random.integers(len(_WORDS))]
    match random.integers(7):
        case 0:
            body[place] ^= int(random.integers(1, 256))
        case 1:
            del body[place : place + length]
        case 2:
            body[place:place] = random.bytes(length)
        case 3:
            body[place:place] = word
        case 4:
            body[place : place + len(word)] = word
        case 5:
            body[place:place] = body[place : place + 20 * length]
        case _:
            del body[place:]


def _found(body: bytearray, mark: bytes) -> Iterator[int]:
    place = body.find(mark)
    while place >= 0:
        yield place
        place = body.find(mark, place + 1)


def bombs(image: bytes) -> Iterator[Hostile]:
    """Small requests that would be large if they were believed."""
    raw, as_json, as_form = {"Content-Type": "image/png"}, {"Content-Type": "application/json"}, {"Content-Type": FORM}
    zeros = b"\0" * 9_000_000
    yield Hostile("PNG of 50,000 x 50,000", png(50_000, 50_000), "/predict", raw)
    yield Hostile("PNG of 12,000 x 12,000", png(12_000, 12_000), "/predict?explain=1", raw)
    yield Hostile("PNG that says 2^31 - 1 squared", png(2**31 - 1, 2**31 - 1, rows=10), "/predict", raw)
    yield Hostile("PNG with 1 GB of text", png(8, 8, text=1 << 30), "/predict", raw)
    yield Hostile("64 PNGs of 9,900 x 9,900 in a form", form(*[part(png(9_900, 9_900))] * 64), "/predict", as_form)
    yield Hostile("JPEG that says 65,535 squared", _huge_jpeg(image), "/predict", {"Content-Type": "image/jpeg"})
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + b"\0" * 6 + b";"
    yield Hostile("GIF that says 65,535 squared", gif, "/predict", raw)
    yield Hostile("gzip as Content-Encoding", gzip.compress(zeros * 20, 9), "/predict", {"Content-Encoding": "gzip", **raw})
    yield Hostile("form of 100,000 parts", form(part(b"", filename="") * 100_000)[:9_900_000], "/predict", as_form)
    yield Hostile("form of 60,000 fields", form(_field() * 60_000), "/predict", as_form)
    yield Hostile(
        "form of 9 MB of headers", b"--" + BOUNDARY + b"\r\nX-A: " + zeros.replace(b"\0", b"a"), "/predict", {"Content-Type": FORM}
    )
    yield Hostile("form of boundaries", (b"\r\n--" + BOUNDARY) * 300_000, "/predict", as_form)
    yield Hostile("JSON 4,000,000 deep", b'{"images":' + b"[" * 4_000_000, "/predict", as_json)
    yield Hostile("JSON with a number of 9 MB", b'{"images":[' + b"9" * 9_000_000 + b"]}", "/predict", as_json)
    yield Hostile("JSON of 1,500,000 images", b'{"images":[' + b'"",' * 1_500_000 + b'""]}', "/predict", as_json)
    pixels = base64.b64encode(png(50_000, 50_000)).decode()
    yield Hostile("PNG of 50,000 x 50,000 in JSON", json.dumps({"images": [pixels]}).encode(), "/predict", as_json)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [2**40, 2**20, 2**10, 3], "data": [0]}
    yield Hostile("tensor of 2^70 bytes", json.dumps({"inputs": [tensor]}).encode(), "/v2/models/{model}/infer", as_json)
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 2**62}}
    said = json.dumps({"inputs": [tensor]}).encode()
    lengths = {"Inference-Header-Content-Length": str(len(said)), "Content-Type": "application/octet-stream"}
    yield Hostile("tensor of 2^62 binary bytes", said + b"\xff" * 64, "/v2/models/{model}/infer", lengths)


def _field() -> bytes:
    return b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'


def png(width: int, height: int, *, rows: int | None = None, text: int = 0) -> bytes:
    """A black-and-white PNG of zeros; `rows` of it are there, and a compressed text of so many zeros before them."""
    packer, row = zlib.compressobj(9), b"\0" * (1 + (width + 7) // 8 if width < 1_000_000 else 100)
    pixels = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))]
    if text:
        packer, block = zlib.compressobj(9), b"\0" * (1 << 20)
        chunks.append((b"zTXt", b"note\0\0" + b"".join(packer.compress(block) for _ in range(text >> 20)) + packer.flush()))
    chunks += [(b"IDAT", pixels), (b"IEND", b"")]
    packed = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _huge_jpeg(image: bytes) -> bytes:
    """A JPEG that claims to have 65,535 rows and columns."""
    place = next(place for mark in (b"\xff\xc0", b"\xff\xc2") if (place := image.find(mark)) >= 0)
    return image[: place + 5] + b"\xff\xff\xff\xff" + image[place + 9 :]
