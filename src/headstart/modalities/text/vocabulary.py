"""`Vocabulary`: the terms that a model knows, each with a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import damage_named
from headstart.modalities.text.terms import CHARACTERS, WORDS, Codes, Numbers, TermCounts, codes_of, grams_of, text_parts

LEAST = 2  # texts that a term is in
MOST = 60_000  # terms
LONGEST_TERM = 64  # characters
_END = "\n"  # of a term where they are saved; none has one


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Terms by number, from 1 on: words and pairs of words first, then characters, of each kind those in most texts first.

    0 stands for no term. `terms` holds the strings; `words` is how many of them are of words.
    """

    terms: tuple[str, ...]
    words: int

    def __len__(self) -> int:
        return len(self.terms)

    @classmethod
    def learned(cls, counts: TermCounts, *, most: int = MOST) -> Self:
        """Of the terms that are in at least two texts and have at most 64 characters, the `most` that are in most texts."""
        codes, first, texts = np.unique(counts.codes, return_index=True, return_counts=True)
        kept = np.flatnonzero(texts >= LEAST)
        kept = kept[np.argsort(-texts[kept], kind="stable")][:most]
        kept = kept[np.argsort(codes[kept] & np.uint64(1), kind="stable")]
        spelled = _spelled(codes[kept], np.searchsorted(counts.indptr, first[kept], side="right") - 1, counts.texts)
        words = codes[kept] & np.uint64(1) == WORDS
        known = [(term, bool(word)) for term, word in zip(spelled, words.tolist(), strict=True) if len(term) <= LONGEST_TERM]
        return cls(tuple(term for term, _ in known), sum(word for _, word in known))

    @cached_property
    def codes(self) -> Codes:
        """Hashes of the terms (V,)."""
        return np.concatenate([codes_of(self.terms[: self.words], WORDS), codes_of(self.terms[self.words :], CHARACTERS)])

    @cached_property
    def _sorted(self) -> tuple[Codes, Numbers]:
        order = np.argsort(self.codes, kind="stable")
        return self.codes[order], order + 1

    def entries(self, counts: TermCounts) -> tuple[Numbers, Numbers, npt.NDArray[np.float32]]:
        """The rows of a sparse matrix without the terms that are not known: indptr (n + 1,), numbers of terms from 1 on, and counts."""
        codes, numbers = self._sorted
        if not len(codes):
            return np.zeros(len(counts) + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        places = np.minimum(np.searchsorted(codes, counts.codes), len(codes) - 1)
        known = codes[places] == counts.codes
        indptr = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
        return indptr, numbers[places[known]], counts.counts[known]

    def lookup(self, counts: TermCounts) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Numbers of terms int64 (n, K) and counts float32 (n, K); K is that of the text with the most, rows are filled up with 0."""
        indptr, numbers, found = self.entries(counts)
        sizes = np.diff(indptr)
        ids, values = np.zeros((2, len(sizes), max(1, int(sizes.max(initial=1)))))
        inside = np.arange(ids.shape[1]) < sizes[:, None]
        ids[inside], values[inside] = numbers, found
        return ids.astype(np.int64), values.astype(np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values, and ``terms``: the terms in UTF-8, uint8, each with a line end."""
        text = "".join(term + _END for term in self.terms)
        return {"words": self.words, "terms": len(self)}, {"terms": np.frombuffer(text.encode("utf-8"), dtype=np.uint8)}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `state`; RunError where an entry is missing, or the number of terms is another."""
        with damage_named("The saved vocabulary is"):
            terms = tuple(arrays["terms"].astype(np.uint8).tobytes().decode("utf-8").split(_END)[:-1])
            made = cls(terms, int(settings["words"]))
            if not (len(terms) == int(settings["terms"]) and 0 <= made.words <= len(terms)):
                raise ValueError(f"{len(terms)} terms instead of {settings['terms']}")
        return made


def _spelled(codes: Codes, rows: Numbers, texts: Sequence[str]) -> list[str]:
    """The strings of terms, each of which is in the text of its row."""
    order = np.argsort(codes)
    wanted, found = codes[order], [""] * len(codes)
    missing = np.ones(len(codes), dtype=bool)
    some = [texts[row] for row in np.unique(rows).tolist()]
    for part in text_parts(some):
        for grams in grams_of(some[part]):
            places = np.minimum(np.searchsorted(wanted, grams.codes), max(0, len(wanted) - 1))
            hits = np.flatnonzero((wanted[places] == grams.codes) & missing[places])
            new, first = np.unique(places[hits], return_index=True)
            missing[new] = False
            for place, index in zip(new.tolist(), hits[first].tolist(), strict=True):
                found[order[place]] = grams.spelled(index)
    return found
