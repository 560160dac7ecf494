"""Counts of n-grams: one and two words, and up to four characters within words; computed for many texts at once, as hashes.

Words are runs of letters, digits and underscores of the casefolded text. N-grams of characters are those of whatever stands between
spaces, with a space on both sides (scikit-learn's ``char_wb``). A text in Chinese has no spaces, so there they are the words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.matrix import blocks

Codes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Points = npt.NDArray[np.uint32]

LONGEST = 1 << 18
"""Characters of a text that are counted: its first 262,144, about a hundred pages."""

WORDS, CHARACTERS = 0, 1
"""Kinds of terms; the lowest bit of a term's hash."""

CHARACTER_ORDERS = (1, 2, 3, 4)
_BITS = 48  # of a hash; what is left of 64 bits is the row in a block
_BLOCK_TEXTS = 1 << (64 - _BITS)
_STEP = np.uint64(0x9E3779B97F4A7C15)  # an odd number, the base of the polynomials
_SPACE, _SIGN, _LETTER = 0, 1, 2  # kinds of code points
_GONE = 0xFFFD  # what stands for half of a surrogate pair


@dataclass(frozen=True, eq=False)
class TermCounts:
    """How often each term occurs in each of n texts, as the rows of a sparse matrix (CSR), the hashes of a row ascending.

    `texts` are what was counted: a vocabulary spells its terms by them.
    """

    indptr: Numbers  # (n + 1,): entries of text i are those from indptr[i] to indptr[i + 1]
    codes: Codes  # (entries,): hashes of terms
    counts: npt.NDArray[np.float32]  # (entries,)
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def rows(self) -> Numbers:
        """The text that each entry is of (entries,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def take(self, rows: Numbers | slice) -> TermCounts:
        """The counts of some texts, by their numbers or a slice, in this order."""
        chosen = np.arange(len(self))[rows]
        indptr, entries = taken_entries(self.indptr, chosen)
        return TermCounts(indptr, self.codes[entries], self.counts[entries], [self.texts[row] for row in chosen.tolist()])


def taken_entries(indptr: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
    """Of some rows of a sparse matrix the new `indptr`, and the numbers of their entries in the old one."""
    sizes = np.diff(indptr)[rows]
    ends = np.cumsum(sizes)
    entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(indptr[rows] - ends + sizes, sizes)
    return np.concatenate([[0], ends]).astype(np.int64), entries


def count_terms(texts: Sequence[str]) -> TermCounts:
    """Count the terms of texts, of each in its first `LONGEST` characters; a lone surrogate counts as U+FFFD."""
    sizes, codes, counts = [np.zeros(1, np.int64)], [np.empty(0, np.uint64)], [np.empty(0, np.float32)]
    for part in text_parts(texts):
        own = texts[part]
        keys = np.concatenate([(grams.rows.astype(np.uint64) << np.uint64(_BITS)) | grams.codes for grams in grams_of(own)])
        keys.sort()
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
        counts.append(np.diff(first, append=len(keys)).astype(np.float32))
        keys = keys[first]
        codes.append(keys & np.uint64((1 << _BITS) - 1))
        sizes.append(np.bincount((keys >> np.uint64(_BITS)).astype(np.int64), minlength=len(own)))
    return TermCounts(np.cumsum(np.concatenate(sizes)), np.concatenate(codes), np.concatenate(counts), texts)


def sketch(counts: TermCounts, dim: int = 512) -> npt.NDArray[np.float32]:
    """Dense features float32 (n, dim) that depend on no other texts: sublinear counts, hashed to a place and a sign (count sketch).

    Words and characters have norm 1 each before that, and the whole after it; a text without terms is all zeros. Source: Weinberger et
    al., Feature hashing for large scale multitask learning, ICML 2009.
    """
    out = np.zeros((len(counts), dim), dtype=np.float32)
    for rows in blocks(len(counts)):
        start, stop = counts.indptr[rows.start], counts.indptr[rows.stop]
        codes = counts.codes[start:stop]
        row = np.repeat(np.arange(rows.stop - rows.start), np.diff(counts.indptr[rows.start : rows.stop + 1]))
        weights = unit_weights(1 + np.log(counts.counts[start:stop]), row, codes & np.uint64(1))
        places = _mixed(codes)
        weights = np.where(places >> np.uint64(63), -weights, weights)
        cells = row * dim + (places % np.uint64(dim)).astype(np.int64)
        part = np.bincount(cells, weights=weights, minlength=(rows.stop - rows.start) * dim).reshape(-1, dim)
        out[rows] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-30)
    return out


def unit_weights(weights: npt.NDArray[Any], rows: Numbers, kinds: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Weights of entries divided by the norm of all of the same row and kind."""
    groups = 2 * rows + kinds.astype(np.int64)
    norms = np.sqrt(np.bincount(groups, weights=np.square(weights, dtype=np.float64)))
    return np.asarray(weights / np.maximum(norms, 1e-30)[groups], dtype=np.float32)


# --- n-grams of a block of texts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grams:
    """All n-grams of one kind and order in some texts: hashes (m,), the text of each (m,), and how to spell the one at a place."""

    codes: Codes
    rows: Numbers
    spelled: Callable[[int], str]


def grams_of(texts: Sequence[str]) -> Iterator[Grams]:
    """The n-grams of some texts: words, pairs of words, and of characters each order."""
    points, rows = _letters([str(text[:LONGEST]).casefold() for text in texts])
    yield from _word_grams(points, rows)
    yield from _character_grams(points, rows)


def _word_grams(points: Points, rows: Numbers) -> Iterator[Grams]:
    inside = _kinds()[points] == _LETTER
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return
    places = np.flatnonzero(inside)
    offsets = places - np.repeat(starts, stops - starts)
    parts = _mixed(points[places] + _STEP) * _powers(int(offsets.max()) + 1)[offsets]
    words = _mixed(np.add.reduceat(parts, np.flatnonzero(offsets == 0)))

    def word(index: int) -> str:
        return _spelled(points[starts[index] : stops[index]])

    yield Grams(_code(words, 11, WORDS), rows[starts], word)
    pairs = np.flatnonzero(rows[starts[1:]] == rows[starts[:-1]])
    codes = _code(words[pairs] * _STEP + words[pairs + 1], 12, WORDS)
    yield Grams(codes, rows[starts[pairs]], lambda index: f"{word(pairs[index])} {word(pairs[index] + 1)}")


def _character_grams(points: Points, rows: Numbers) -> Iterator[Grams]:
    inside = _kinds()[points] != _SPACE
    starts = inside & ~np.concatenate([[False], inside[:-1]])
    kept = np.flatnonzero(inside)
    number = np.cumsum(starts)[kept] - 1  # of the word that each character is in
    count = int(number[-1]) + 1 if len(kept) else 0
    stream = np.full(len(kept) + 2 * count, ord(" "), dtype=np.uint32)
    stream[np.arange(len(kept)) + 2 * number + 1] = points[kept]
    words = np.repeat(np.arange(count), np.bincount(number, minlength=count) + 2)
    row = rows[np.flatnonzero(starts)][words]
    mixed = _mixed(stream + _STEP)
    hashes = np.zeros(len(stream), dtype=np.uint64)
    for order in CHARACTER_ORDERS:
        rest = max(0, len(stream) - order + 1)
        hashes = hashes[:rest] * _STEP + mixed[order - 1 :]
        whole = np.flatnonzero(words[:rest] == words[order - 1 :])

        def spelled(index: int, whole: Numbers = whole, order: int = order) -> str:
            return _spelled(stream[whole[index] : whole[index] + order])

        yield Grams(_code(hashes[whole], 20 + order, CHARACTERS), row[whole], spelled)


def codes_of(terms: Sequence[str], kind: int) -> Codes:
    """The hashes of terms of one kind: what `count_terms` gives where they occur."""
    codes = np.empty(len(terms), dtype=np.uint64)
    if kind == WORDS:
        for grams in _word_grams(*_letters(terms)):  # of two words the pair comes last
            codes[grams.rows] = grams.codes
        return codes
    sizes = np.array([len(term) for term in terms])
    for order in CHARACTER_ORDERS:
        of_order = np.flatnonzero(sizes == order)
        points = np.frombuffer("".join(terms[index] for index in of_order.tolist()).encode("utf-32-le"), dtype="<u4").reshape(-1, order)
        hashes = np.zeros(len(of_order), dtype=np.uint64)
        for column in points.T:
            hashes = hashes * _STEP + _mixed(column + _STEP)
        codes[of_order] = _code(hashes, 20 + order, CHARACTERS)
    return codes


def text_parts(texts: Sequence[str]) -> Iterator[slice]:
    """Slices of texts of about `LONGEST` characters together."""
    start = size = 0
    for index in range(len(texts)):
        own = min(len(texts[index]), LONGEST) + 1
        if index > start and (size + own > LONGEST or index - start == _BLOCK_TEXTS):
            yield slice(start, index)
            start, size = index, 0
        size += own
    if start < len(texts):
        yield slice(start, len(texts))


def _letters(texts: Sequence[str]) -> tuple[Points, Numbers]:
    """Code points of texts, one line each, and the text that each is of."""
    points = np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    rows = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])
    return np.where((points >> 11) == 0xD800 >> 11, np.uint32(_GONE), points), rows


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """Of every code point whether it is space, part of a word, or else."""
    every = "".join(map(chr, range(0x110000)))
    kinds = np.full(len(every), _SIGN, dtype=np.uint8)
    for pattern, kind in ((r"\w+", _LETTER), (r"\s+", _SPACE)):
        for found in re.finditer(pattern, every):
            kinds[found.start() : found.end()] = kind
    return kinds


def _spelled(points: npt.NDArray[np.uint32]) -> str:
    return points.astype("<u4").tobytes().decode("utf-32-le")


def _powers(count: int) -> Codes:
    """Of the base, modulo 2^64."""
    factors = np.full(count, _STEP)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _code(hashes: Codes, salt: int, kind: int) -> Codes:
    return ((_mixed(hashes + np.uint64(salt) * np.uint64(0xD1B54A32D192ED03 >> 8)) >> np.uint64(64 - _BITS)) & ~np.uint64(1)) | np.uint64(
        kind
    )


def _mixed(values: Codes) -> Codes:
    """SplitMix64's finaliser: a permutation of 64 bits in which each bit depends on all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
