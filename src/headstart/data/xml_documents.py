"""XML as annotation programs write it: read without entities, whatever its encoding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MOST_BYTES = 1 << 30


def read_xml(data: bytes, path: Path) -> Element:
    """The root of a document; what is not UTF-8, and names no other encoding, is read as Windows-1252.

    DataError for what is damaged, and for a document type or entities: they are not needed, and can grow without bound.
    """
    from xml.etree.ElementTree import TreeBuilder
    from xml.parsers import expat

    def refused(*_: object) -> None:
        raise DataError(f"{path}: the XML declares entities or a document type, which annotations never need and which is not read.")

    builder = TreeBuilder()
    parser = expat.ParserCreate(None if _names_encoding(data) else "windows-1252")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refused
    parser.EntityDeclHandler = refused
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data.lstrip(), True)
        return builder.close()
    except (expat.ExpatError, LookupError, AssertionError) as error:
        what = "empty" if not data.strip() else f"damaged XML: {error}"
        raise DataError(f"{path}: {what}. Export it again.") from None


def _names_encoding(data: bytes) -> bool:
    """Whether expat can tell the encoding: it is named, marked by the first bytes, or UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"encoding" in data[:200].partition(b"?>")[0]:
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
