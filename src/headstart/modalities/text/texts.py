"""`Text`: a string that knows where it came from; and pairs of texts as one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from headstart.errors import TextError
from headstart.text import printable

TEXT_SUFFIXES = (".txt", ".text", ".md")
MOST_BYTES = 64 << 20  # of a file of one text

PAIR = "\x1e"
"""Between the two texts of a pair: ASCII's record separator, which no text is read with."""


class Text(str):
    """A text with the `name` that messages and tables call it by: the row of a list, or a path."""

    name: str

    def __new__(cls, text: str, name: str) -> Self:
        """`text`, called `name`."""
        made = super().__new__(cls, text)
        made.name = printable(name)
        return made

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return (type(self), (str(self), self.name))


def joined_pair(first: str, second: str) -> str:
    """Two texts as one, which a network sees as a pair."""
    return f"{first.replace(PAIR, ' ')}{PAIR}{second.replace(PAIR, ' ')}"


def clean(text: str) -> str:
    """The text as it can be written into any file: zero bytes become spaces, lone surrogates, which are no characters, U+FFFD."""
    text = text.replace("\0", " ")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text_name(text: str) -> str:
    """What a text is called in messages: its name where it has one, else ``<text>``."""
    return text.name if isinstance(text, Text) else "<text>"


def text_digest(text: str) -> bytes:
    """SHA-256 (32 bytes) of the text in UTF-8; a lone surrogate is its own."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def is_text_name(name: str) -> bool:
    """Whether a file is called like one of text."""
    return name[name.rfind(".") :].lower() in TEXT_SUFFIXES


def read_text_file(path: Path) -> str:
    """The text in a file: UTF-8, UTF-16 with its mark, else Windows-1252. TextError where it cannot be read, is empty, or is no text."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TextError(str(path), f"file of {path.stat().st_size >> 20} MiB is larger than the limit of {MOST_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise TextError(str(path), f"cannot be read ({error.strerror or error})") from None
    text = decoded(data, str(path))
    if not text.strip():
        raise TextError(str(path), "empty")
    return text


def decoded(data: bytes, name: str) -> str:
    """The text in bytes: UTF-8, UTF-16 with its mark, else Windows-1252. TextError, with the name, where they are no text."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        if b"\0" in data[:4096] or encoding == "utf-16":
            raise TextError(name, "not a text file: save it as text in UTF-8") from None
        return data.decode("cp1252", "replace")


def excerpt(text: str, most: int) -> str:
    """The text on one line, of one of more than `most` characters the beginning and the end; a pair with a bar between the two."""
    line = " ".join(text.replace(PAIR, " | ").split())
    return line if len(line) <= most else f"{line[: most * 2 // 3]} … {line[-most // 3 :]}"
