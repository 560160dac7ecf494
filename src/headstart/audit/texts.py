"""What is wrong with texts one by one: nothing in them, characters that are none, garbled letters, markup, and more than is read."""

from __future__ import annotations

import html.entities
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from headstart.audit.excerpts import excerpt
from headstart.audit.facts import Fact, Facts
from headstart.audit.findings import Finding, Severity
from headstart.audit.garbled import REPLACED, ungarbled
from headstart.audit.languages import find_mixed_languages
from headstart.data import Dataset
from headstart.modalities.text import text_digest
from headstart.progress import Progress
from headstart.text import plural

_LOOKED_AT = 100_000  # characters of one text
_WARNED = 0.01  # share of the texts from which on a fault is a warning
_MOST_UNSEEN = 1000  # characters looked at
_CUT = 0.05  # share of the texts that are not read to the end from which on it is a warning
_TAGS = (
    "a|abbr|article|b|blockquote|body|br|button|center|code|dd|div|dl|dt|em|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|"
    "label|li|link|meta|nav|ol|option|p|pre|s|script|section|select|small|span|strike|strong|style|sub|sup|svg|table|tbody|td|th|thead|"
    "title|tr|tt|u|ul|video"
)
_ENTITY = re.compile(r"&(?:#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")


def gather_texts(dataset: Dataset, *, deep: bool, progress: Progress | None) -> Facts:
    """The facts of all texts: digest, length in bytes, and for those with nothing in them why they are refused."""
    rows = [
        Fact(text_digest(text), "" if text.strip() else "empty", "text", "", 0, 0, len(text.encode("utf-8", "surrogatepass")))
        for text in map(str, dataset.inputs)
    ]
    if progress is not None and rows:
        progress(len(rows), len(rows))
    return Facts(tuple(rows))


def _is_seen(character: str) -> bool:
    """Whether a character leaves a mark: spaces, control and format characters do not."""
    return unicodedata.category(character)[0] not in "ZC" or character == REPLACED


def find_text_faults(dataset: Dataset, facts: Facts | None = None) -> list[Finding]:
    """Return a finding for each kind of fault that texts have; `facts` is not needed."""
    texts, names = [str(one)[:_LOOKED_AT] for one in dataset.inputs], dataset.names()
    found = []
    for kind, fault, message in _FAULTS:
        rows = [(i, said) for i, text in enumerate(texts) if (said := fault(text)) is not None]
        severity: Severity = "warning" if len(rows) >= _WARNED * len(texts) else "note"
        told = f"{_many(len(rows), len(texts))} {message}"
        found += Finding.of(kind, severity, told, [f"{names[i]}: {said}" for i, said in rows], len(rows))
    return [*found, *find_mixed_languages(dataset)]


def find_long_texts(dataset: Dataset, cut: npt.ArrayLike, *, limit: int) -> list[Finding]:
    """Return a finding about the texts of which a part is not read, bool (n,), by a network that takes `limit` pieces of one text."""
    rows = np.flatnonzero(np.asarray(cut, bool))
    share = len(rows) / max(1, len(dataset))
    names = dataset.names()
    message = (
        f"{_many(len(rows), len(dataset))} longer than the {limit} pieces that are read of one ({share:.1%}); the rest is left out. "
        "If what tells the classes apart stands at the end, shorten the texts, or split them."
    )
    examples = [f"{names[i]}: {len(str(dataset.inputs[i]))} characters" for i in rows.tolist()]
    return Finding.of("long texts", "warning" if share >= _CUT else "note", message, examples, len(rows))


def _many(count: int, every: int) -> str:
    return f"{count} of {plural(every, 'text')} {'is' if count == 1 else 'are'}"


def _unseen(text: str) -> str | None:
    if not text.strip() or any(map(_is_seen, text[:_MOST_UNSEEN])):
        return None
    return f"{plural(len(text), 'character')}, none of which is seen"


def _control(text: str) -> str | None:
    found = None if text.isprintable() else _CONTROLS.search(text)
    if found is None:
        return None
    counts = Counter(_CONTROLS.findall(text))
    return ", ".join(f"{count} x U+{ord(one):04X}" for one, count in counts.most_common(3))


_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1d\x1f\x7f-\x84\x86-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")  # 1e parts a pair


def _replaced(text: str) -> str | None:
    place = text.find(REPLACED)
    return None if place < 0 else f"{text.count(REPLACED)} in {excerpt(text, place)}"


def _garbled(text: str) -> str | None:
    meant = ungarbled(text)
    if meant is None:
        return None
    place = next((i for i, (a, b) in enumerate(zip(text, meant, strict=False)) if a != b), 0)
    return f"{excerpt(text, place)} should be {excerpt(meant, place)}"


def _markup(text: str) -> str | None:
    tag = _tags().search(text) if "<" in text else None
    entity = next((one for one in _ENTITY.finditer(text) if _is_entity(one[0])), None) if "&" in text else None
    first = min((one for one in (tag, entity) if one), key=lambda one: one.start(), default=None)
    return None if first is None else f"{excerpt(first[0][:40])} in {excerpt(text, first.start())}"


def _is_entity(text: str) -> bool:
    return text[1] == "#" or text[1:] in html.entities.html5


@cache
def _tags() -> re.Pattern[str]:
    return re.compile(rf"</?(?:{_TAGS})(?:\s[^<>=]{{0,100}}=[^<>]{{0,2000}}|\s*/)?>|<!--|<!doctype", re.IGNORECASE)


_FAULTS: Sequence[tuple[str, Callable[[str], str | None], str]] = (
    ("empty", _unseen, "empty to the eye: nothing but characters without a shape. Drop them."),
    (
        "garbled", _garbled,
        "garbled (mojibake): UTF-8 that was read in another encoding. Read the original again as UTF-8, or replace the texts.",
    ),
    (
        "lost characters", _replaced,
        "damaged: U+FFFD stands where characters were lost when bytes were read in a wrong encoding. "
        "Read the original again in its encoding.",
    ),
    (
        "control characters", _control,
        "interspersed with control characters, or code points that are no characters: "
        "part of another file, or of a program's output? Take them out.",
    ),
    (
        "markup", _markup,
        "marked up: HTML was left in. Tags and entities tell of the source rather than of the content; take them out, from all texts.",
    ),
)  # fmt: skip
