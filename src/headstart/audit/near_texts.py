"""Near copies: texts that are the same but for case, spaces and punctuation, or that share at least four fifths of their shingles.

A shingle is a run of characters; two texts are as alike as the Jaccard index of their sets of them (Broder, "On the resemblance and
containment of documents", SEQUENCES 1997). The search leaves nothing out, and is no estimate: two sets that are so alike have a member in
common among the rarest of each (Chaudhuri, Ganti and Kaushik, "A primitive operator for similarity joins in data cleaning", ICDE 2006).
Bits that stand for the sets show most of the pairs found so to be too unlike (Sandes, Teodoro and Melo, "Bitmap filter", Information
Systems 88, 2020); of the others the index is counted out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.audit.near_copies import NearCopies, components
from headstart.errors import ParameterError

ALIKE = 0.8
"""The Jaccard index from which on two texts are near copies."""

_ORDER, _SHORT_ORDER = 5, 2  # characters of a shingle; of scripts with a character for a syllable or a word the second
_FEWEST = 16  # shingles: shorter texts are alike by chance, and are copies only if nothing but case, spaces and punctuation differs
_LONGEST = 20_000  # characters compared of one text
_BLOCK, _TEXTS = 1 << 22, 1 << 18  # characters, or members of sets, and texts, held at a time
_PAIRS = 1 << 20  # pairs held at a time
_WINDOW = 256  # texts that each is compared with among those with a certain shingle, the nearest in size first
_BUCKETS = 1 << 22  # in which shingles are counted, to know the rare ones
_BITS = 36  # of the hash of a shingle: two in one pair of texts are the same by chance once in millions of pairs
_WORDS = 8  # of 64 bits that stand for a text
_STEP, _CODE = np.uint64(0x9E3779B97F4A7C15), np.uint64((1 << _BITS) - 1)
_DENSE = r"\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"

_SCRIPTS = (range(0x3400), range(0xA000, 0xAC00), range(0xD7A4, 0x17000), range(0x1B000, 0x20000), range(0xE0000, 0xE0200))

Codes: TypeAlias = npt.NDArray[np.uint64]
Numbers: TypeAlias = npt.NDArray[np.int64]
Sets: TypeAlias = tuple[Codes, Numbers]
"""The members of some sets (m,), ascending in each, and where each set ends, with a zero before them (n + 1,)."""


def near_texts(texts: Sequence[str], *, digests: Sequence[bytes], alike: float = ALIKE) -> NearCopies:
    """Find the texts that are the same, as `NearCopies` has it.

    Texts that differ in case, spaces and punctuation only have the likeness 1; others that of their shingles, at least `alike`:
    with 1, shingles are not looked at. Texts that
    are joined by some pairs are not compared again, so that the pairs of a group are enough to hold it together, and not all. A text is
    compared as far as its 20,000th character. Among texts that share a rare shingle with thousands of others, as those made of one form
    do, each is compared with the 256 that are nearest in length. Of texts with the same bytes, that is the same SHA-256 in `digests`, one
    is compared.

    Raises:
        ParameterError: there are not as many digests as texts, or `alike` is not above 0.5 and at most 1.
    """
    if len(digests) != len(texts):
        raise ParameterError(f"there are {len(texts)} texts and digests of {len(digests)}; one for each text is needed")
    if not 0.5 < alike <= 1:
        raise ParameterError(f"alike must be above 0.5 and at most 1, got {alike}")
    same = _numbered(digests)
    first = np.unique(same, return_index=True)[1]
    plain = [normalised(texts[row]) for row in first.tolist()]
    there = np.flatnonzero([bool(one) for one in plain])  # texts of nothing are no copies
    number = _numbered([plain[row] for row in there.tolist()])
    own = there[np.unique(number, return_index=True)[1]]  # the first text of each form
    equal = np.column_stack([own[number], there])[own[number] != there]
    different = [plain[row][:_LONGEST] for row in own.tolist()] if alike < 1 else []
    pairs, likeness = _alike(different, alike)
    pairs = np.concatenate([equal, np.sort(own[pairs], axis=1)])
    component = components(pairs, len(first))
    groups = _groups(component[same], np.bincount(component, minlength=1) > 1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return NearCopies(first[pairs][order], np.concatenate([np.ones(len(equal)), likeness])[order], groups)


def _groups(component: Numbers, chosen: npt.NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    """The members of the chosen components, ascending."""
    rows = np.flatnonzero(chosen[component]) if len(component) else component
    rows = rows[np.argsort(component[rows], kind="stable")]
    parts = np.split(rows, np.flatnonzero(np.diff(component[rows])) + 1)
    return tuple(tuple(part.tolist()) for part in parts if len(part))


def _numbered(values: Sequence[bytes] | Sequence[str]) -> Numbers:
    """A number for each value, by its first place: equal for equal values."""
    places: dict[bytes | str, int] = {}
    return np.array([places.setdefault(value, len(places)) for value in values], np.int64)


def normalised(text: str) -> str:
    """The text without what does not tell apart: case, punctuation, and all spaces but one between words.

    Of a text of punctuation only, such as an emoticon, the spaces are taken out.
    """
    plain = unicodedata.normalize("NFKC", text).casefold() if not text.isascii() else text.lower()
    return _separators().sub(" ", plain).strip() or "".join(plain.split())


@cache
def _separators() -> re.Pattern[str]:
    """Runs of punctuation, spaces and control characters; symbols, such as those of emotions and of money, are none."""
    kinds = ("P", "Z", "Sk", "Cc", "Cf")
    every = [code for part in _SCRIPTS for code in part if unicodedata.category(chr(code)).startswith(kinds)]
    ends = np.flatnonzero(np.diff(every) > 1)
    starts, stops = [every[0], *(every[end + 1] for end in ends)], [*(every[end] for end in ends), every[-1]]
    return re.compile("[" + "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in zip(starts, stops, strict=True)) + "]+")


def shingles(texts: Sequence[str]) -> Sets:
    """The shingles of each text as sets of hashes: runs of five characters, or of two where most are of a script such as the Chinese."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    sizes = np.array([len(text) for text in texts], np.int64)
    rows, ends = np.repeat(np.arange(len(texts)), sizes), np.cumsum(sizes)
    mixed = _mixed(points + _STEP)
    dense = np.array([_is_dense(text) for text in texts], bool)
    codes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for order, own in ((_ORDER, ~dense), (_SHORT_ORDER, dense)):
        if not own.any():
            continue
        length = max(0, len(points) - order + 1)
        hashes = np.zeros(length, np.uint64)
        for place in range(order):
            hashes = hashes * _STEP + mixed[place : place + length]
        row = rows[:length]
        whole = (np.arange(length) + order <= ends[row]) & own[row]
        codes.append(_mixed(hashes[whole] + np.uint64(order)) & _CODE)
        owners.append(row[whole])
    keys = np.sort(np.concatenate(codes) | (np.concatenate(owners).astype(np.uint64) << np.uint64(_BITS)))
    keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]
    owner = (keys >> np.uint64(_BITS)).astype(np.int64)
    return keys & _CODE, np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(texts)))])


def _is_dense(text: str) -> bool:
    return not text.isascii() and 2 * len(_dense().findall(text)) > len(text)


@cache
def _dense() -> re.Pattern[str]:
    return re.compile(f"[{_DENSE}]")


def _alike(texts: Sequence[str], alike: float) -> tuple[Numbers, npt.NDArray[np.float64]]:
    """Pairs (m, 2) of different texts whose shingles are so much alike, and how much (m,): enough to join all that belong together."""
    counts = np.zeros(_BUCKETS, np.int32)
    sizes, bits = np.zeros(len(texts), np.int64), np.zeros((len(texts), _WORDS), np.uint64)
    for block in _blocks(texts):
        codes, ends = shingles(texts[block])
        counts += np.bincount((codes % np.uint64(_BUCKETS)).astype(np.int64), minlength=_BUCKETS).astype(np.int32)
        sizes[block], bits[block] = np.diff(ends), _bits(codes, ends)
    entries = [_rarest(*shingles(texts[block]), counts, alike, block.start) for block in _blocks(texts)]
    pairs, likeness = np.empty((0, 2), np.int64), np.empty(0)
    together, unlike = np.arange(len(texts)), np.empty(0, np.int64)
    for found in _candidates(entries, sizes, bits, together, alike):
        keys = np.setdiff1d(found[:, 0] * len(texts) + found[:, 1], unlike)
        some = np.column_stack([keys // len(texts), keys % len(texts)])
        index = _jaccard(texts, some, sizes)
        unlike = np.union1d(unlike, keys[index < alike])
        pairs, likeness = np.concatenate([pairs, some[index >= alike]]), np.concatenate([likeness, index[index >= alike]])
        together[:] = components(pairs, len(texts))
    return pairs, likeness


def _blocks(texts: Sequence[str]) -> Iterator[slice]:
    """Slices of texts of about `_BLOCK` characters."""
    block = np.cumsum([len(text) for text in texts]) // _BLOCK + np.arange(len(texts)) // _TEXTS
    starts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(texts)]
    yield from (slice(a, b) for a, b in pairwise(starts) if a < b)


def _rarest(codes: Codes, ends: Numbers, counts: npt.NDArray[np.int32], alike: float, start: int) -> tuple[Codes, Numbers]:
    """Of each text so many of its rarest shingles that a text that is alike has one of them among its own rarest; and whose they are."""
    sizes = np.diff(ends)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    common = (8 * np.log2(counts[(codes % np.uint64(_BUCKETS)).astype(np.int64)])).astype(np.uint64)  # of at most 8 bits
    keys = np.sort((rows.astype(np.uint64) << np.uint64(_BITS + 8)) | (common << np.uint64(_BITS)) | codes)
    rank = np.arange(len(codes)) - np.repeat(ends[:-1], sizes)
    most = np.where(sizes >= _FEWEST, sizes - np.ceil(alike * sizes - 1e-9).astype(np.int64) + 1, 0)
    kept = rank < most[rows]
    return keys[kept] & _CODE, rows[kept] + start


def _candidates(
    entries: list[tuple[Codes, Numbers]], sizes: Numbers, bits: Codes, together: Numbers, alike: float
) -> Iterator[Numbers]:  # fmt: skip
    """Pairs (m, 2), the smaller first, that share a rare shingle, and whose sizes and bits allow them to be alike; some more than once.

    Those that are `together` (n,) by the time are left out: where hundreds of texts are alike, few pairs are needed to say so.
    """
    if not entries:
        return
    codes, rows = (np.concatenate(values) for values in zip(*entries, strict=True))
    entries.clear()
    order = np.lexsort((sizes[rows], codes))
    codes, rows = codes[order], rows[order]
    most = (1 - alike) / (1 + alike) + 1e-9
    waiting = [np.empty((0, 2), np.int64)]
    for shift in range(1, _WINDOW + 1):
        places = np.flatnonzero(codes[shift:] == codes[:-shift])
        if not len(places):
            break
        places = places[sizes[rows[places]] >= (alike - 1e-9) * sizes[rows[places + shift]]]
        for begin in range(0, len(places), _PAIRS):
            some = places[begin : begin + _PAIRS]
            a, b = rows[some], rows[some + shift]
            apart = together[a] != together[b]
            a, b = a[apart], b[apart]
            possible = _differing(bits, a, b) <= most * (sizes[a] + sizes[b])
            waiting.append(np.sort(np.column_stack([a, b])[possible], axis=1))
            if shift & (shift - 1) == 0 or sum(map(len, waiting)) > _PAIRS:
                yield np.unique(np.concatenate(waiting), axis=0)
                waiting = waiting[:1]
    yield np.unique(np.concatenate(waiting), axis=0)


def _bits(codes: Codes, ends: Numbers) -> Codes:
    """Bits (n, `_WORDS`) that stand for sets: each member turns one of them over, so that they differ in as many bits as sets at most."""
    sizes = np.diff(ends)
    cells = np.repeat(np.arange(len(sizes)), sizes) * (64 * _WORDS) + (codes >> np.uint64(22)).astype(np.int64) % (64 * _WORDS)
    odd = (np.bincount(cells, minlength=len(sizes) * 64 * _WORDS) & 1).astype(np.uint8).reshape(len(sizes), 64 * _WORDS)
    return np.packbits(odd, axis=1).view(np.uint64)


def _differing(bits: Codes, a: Numbers, b: Numbers) -> Numbers:
    """How many bits differ (m,)."""
    found = bits[a] ^ bits[b]
    one, two, four = (np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F))
    found -= (found >> np.uint64(1)) & one
    found = (found & two) + ((found >> np.uint64(2)) & two)
    found = (found + (found >> np.uint64(4))) & four
    return np.asarray(((found * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64).sum(axis=1))


def _jaccard(texts: Sequence[str], pairs: Numbers, sizes: Numbers) -> npt.NDArray[np.float64]:
    """The Jaccard index of the shingles of each pair (m, 2)."""
    index = np.zeros(len(pairs))
    members = np.cumsum(sizes[pairs].sum(axis=1)) // _BLOCK if len(pairs) else np.empty(0, np.int64)
    starts = [0, *(np.flatnonzero(np.diff(members)) + 1).tolist(), len(pairs)]
    for start, stop in pairwise(starts):
        block = pairs[start:stop]
        own, place = np.unique(block, return_inverse=True)
        codes, ends = shingles([texts[row] for row in own.tolist()])
        place = place.reshape(-1)
        length = np.diff(ends)[place]
        offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        taken = codes[np.repeat(ends[:-1][place], length) + offset]
        pair = np.repeat(np.arange(len(place)) // 2, length)
        keys = np.sort((pair.astype(np.uint64) << np.uint64(_BITS)) | taken)
        twice = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(_BITS)
        common = np.bincount(twice.astype(np.int64), minlength=len(block))
        index[start:stop] = common / np.maximum(sizes[block].sum(axis=1) - common, 1)
    return index


def _mixed(values: Codes) -> Codes:
    """SplitMix64's finaliser: a permutation of 64 bits in which each bit depends on all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
