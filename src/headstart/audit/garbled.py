"""Garbled texts: UTF-8 that was read in another encoding, and what it should have been.

A text is called garbled only where decoding it again proves it: runs of characters that are, byte for byte, UTF-8. Letters and quotation
marks that stand side by side by right can be that too, as in ``«ESPAÑ»`` or ``café »``, so single letters of other scripts, and
capitals before a quotation mark, are not taken for proof.
"""

from __future__ import annotations

import re
from functools import cache

REPLACED = "\N{REPLACEMENT CHARACTER}"
"""What decoders put in the place of bytes that they cannot read."""

_WINDOWS = {bytes([byte]).decode("cp1252", "ignore") or chr(byte): byte for byte in range(128, 256)}  # as browsers read it
_BYTES = {chr(byte): byte for byte in range(128, 256)} | _WINDOWS
_LEADS = {2: "\xc2-\xdf", 3: "\xe0-\xef", 4: "\xf0-\xf4"}
_QUOTES = frozenset("\u2018\u2019\u201a\u201c\u201d\u201e\u2013\u2014\u2026\u2039\u203a\u00bb\u00ab")
_WHOLE = ("cp1251", "gb18030", "cp437", "mac_roman")  # encodings in which a whole text is tried
_PROVEN = 4  # characters beyond ASCII that must all be UTF-8 again in one of these
_TWICE = 2  # how often a text may have been garbled


def ungarbled(text: str) -> str | None:
    """The text as it should have been, or None where it is not garbled."""
    if text.isascii():
        return None
    found = None
    for _ in range(_TWICE):
        better = _whole_decoded(text) or _parts_decoded(text)
        if better is None:
            break
        found = text = better
    return found


def _parts_decoded(text: str) -> str | None:
    """The text with every run of characters decoded that is UTF-8 read as Windows-1252 or Latin-1; None where there is no such run."""
    proven = False

    def decoded(run: re.Match[str]) -> str:
        nonlocal proven
        characters = [one[0] for one in _sequence().finditer(run[0])]
        try:
            meant = [bytes(_BYTES[one] for one in sequence).decode() for sequence in characters]
        except UnicodeDecodeError:
            return run[0]
        before = text[run.start() - 1 : run.start()]
        several = len(meant) > 1 and any(map(_is_plain, meant))
        proven = proven or several or any(_is_proof(read, one, before) for read, one in zip(characters, meant, strict=True))
        return "".join(meant)

    better = _run().sub(decoded, text)
    return better if proven else None


@cache
def _sequence() -> re.Pattern[str]:
    """One character of UTF-8, its bytes read as Windows-1252 or Latin-1."""
    rest = "[" + "".join(re.escape(one) for one, byte in _BYTES.items() if byte < 0xC0) + "]"
    return re.compile("|".join(f"[{lead}]{rest}{{{length - 1}}}" for length, lead in sorted(_LEADS.items(), reverse=True)))


@cache
def _run() -> re.Pattern[str]:
    return re.compile(f"(?:{_sequence().pattern})+")


def _is_plain(meant: str) -> bool:
    """Whether a character is of a script or kind that texts are commonly in."""
    code = ord(meant)
    return (
        0xA0 <= code < 0x250
        or 0x370 <= code < 0x530
        or 0x590 <= code < 0x700
        or 0x900 <= code < 0x1100
        or 0x1E00 <= code < 0x1F00
        or (
            0x2010 <= code < 0x27C0
            or 0x3000 <= code < 0x3100
            or 0x3400 <= code < 0xA000
            or 0xAC00 <= code < 0xD7A4
            or 0xFF00 <= code < 0xFFF0
            or 0x1F300 <= code < 0x1FB00
        )
    )


def _is_proof(read: str, meant: str, before: str) -> bool:
    """Whether a single character, which was read as two to four, must be garbled: no text in order has these side by side."""
    code = ord(meant)
    if len(read) == 2:
        return 0xA0 <= code < 0x180 and (read[1] not in _QUOTES or before.islower() or (read[0] in "ÂÃ" and not before.isupper()))
    return 0x2010 <= code < 0x2200 or 0x1F300 <= code < 0x1FB00 or 0x1E00 <= code < 0x1F00


def _whole_decoded(text: str) -> str | None:
    """The text, where all of it is UTF-8 read in the encoding of a country or an old system."""
    beyond = sum(not one.isascii() for one in text)
    for encoding in _WHOLE if beyond >= _PROVEN else ():
        try:
            meant = text.encode(encoding).decode()
        except UnicodeError:
            continue
        if not meant.isascii() and all(_is_plain(one) for one in meant if not one.isascii()):
            return meant
    return None
