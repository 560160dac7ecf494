"""The words that carry a decision about a text, found by leaving them out, and checked by leaving out the strongest."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.modalities.text import PAIR

Predict = Callable[[list[str]], npt.NDArray[np.floating]]

MOST = 64  # spans that are left out at a time, and about so many words of a long text are looked at one by one
_STRONGEST = 4  # spans of a long text that are looked into
_RUN = 2  # characters of scripts that are written without spaces

# Scripts without spaces: kana, Han with its extensions, and Thai; then words, with apostrophes and hyphens inside.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(rf"[{_UNSPACED}]{{1,{_RUN}}}|(?:(?![{_UNSPACED}])\w)+(?:['’-](?:(?![{_UNSPACED}])\w)+)*")


class Word(NamedTuple):
    """Characters `start` to `stop` of a text, and by how much the probability of the class falls without them."""

    start: int
    stop: int
    text: str
    weight: float


@dataclass(frozen=True)
class DeletionCheck:
    """The probability of a class: of the whole text, without its `count` strongest words, and on average without as many random ones."""

    whole: float
    strongest: float
    random: float
    count: int

    @property
    def holds(self) -> bool:
        """Whether the strongest words matter more than random ones."""
        return self.strongest < self.random


def explain_text(predict: Predict, text: str, *, class_index: int) -> list[Word]:
    """Find the words of a text that carry the probability of a class, in the order of the text.

    A word weighs what the probability falls by when it is left out; a negative weight speaks against the class. Scripts without spaces are
    taken in runs of two characters. Of a long text whole spans are left out first, then the words of the strongest spans one by one; the
    other spans stay whole. A pair is explained in both of its texts. `predict` takes a list of n texts and returns probabilities, float
    (n, k); it is called once, or twice for a long text. Raises ParameterError for a class or an answer of `predict` that is out of range.
    """
    words = [found.span() for found in _WORDS.finditer(text)]
    if not words:
        return []
    per_span = -(-len(words) // MOST)
    if per_span == 1:
        return _left_out(predict, text, words, class_index)
    border = bisect_left(words, (text.find(PAIR), 0))  # no span goes over that of a pair
    parts = (words[:border], words[border:])
    groups = [part[start : start + per_span] for part in parts for start in range(0, len(part), per_span)]
    spans = _without_each(predict, text, groups, class_index)
    inside = set(np.argsort(-np.abs(spans), kind="stable")[:_STRONGEST].tolist())
    fine = [span for place in sorted(inside) for span in groups[place]]
    weights = dict(zip(fine, _without_each(predict, text, [[one] for one in fine], class_index).tolist(), strict=True))
    found = []
    for place, group in enumerate(groups):
        if place in inside:
            found += [Word(*span, text[slice(*span)], weights[span]) for span in group]
        else:
            start, stop = group[0][0], group[-1][1]
            found.append(Word(start, stop, text[start:stop], float(spans[place])))
    return found


def deletion_check(
    predict: Predict, text: str, explanation: Sequence[Word], class_index: int, *, count: int = 3, draws: int = 16, seed: int = 0
) -> DeletionCheck:
    """Check an explanation: leave out its strongest words, and compare with random ones.

    `count` words, at most half of them, are left out; the mean is over `draws` random choices. Raises ParameterError for an explanation
    without words, or a class that is out of range.
    """
    if not explanation:
        raise ParameterError("The explanation has no words, so there is nothing to leave out. Give a text with at least one word.")
    count = max(1, min(count, len(explanation) // 2))
    order = np.argsort([-word.weight for word in explanation], kind="stable")[:count]
    rng = np.random.default_rng(seed)
    chosen = [order, *(rng.choice(len(explanation), count, replace=False) for _ in range(draws))]
    shorter = [without(text, [explanation[place][:2] for place in places.tolist()]) for places in chosen]
    shares = _shares(predict, [text, *shorter], class_index)
    return DeletionCheck(float(shares[0]), float(shares[1]), float(shares[2:].mean()), count)


def without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text without some spans of characters, which do not overlap."""
    kept, place = [], 0
    for start, stop in sorted(spans):
        kept.append(text[place:start])
        place = stop
    return "".join([*kept, text[place:]])


def _left_out(predict: Predict, text: str, words: Sequence[tuple[int, int]], class_index: int) -> list[Word]:
    weights = _without_each(predict, text, [[one] for one in words], class_index)
    return [Word(start, stop, text[start:stop], weight) for (start, stop), weight in zip(words, weights.tolist(), strict=True)]


def _without_each(predict: Predict, text: str, groups: Sequence[Sequence[tuple[int, int]]], class_index: int) -> npt.NDArray[np.float64]:
    """By how much the probability falls without each group of words: float64 (groups,)."""
    shares = _shares(predict, [text, *(without(text, group) for group in groups)], class_index)
    falls: npt.NDArray[np.float64] = shares[0] - shares[1:]
    return falls


def _shares(predict: Predict, texts: list[str], class_index: int) -> npt.NDArray[np.float64]:
    """The probability of a class for each text: float64 (n,)."""
    given = np.asarray(predict(texts), np.float64)
    if given.ndim != 2 or len(given) != len(texts):
        raise ParameterError(f"predict must return probabilities of the shape ({len(texts)}, classes), got {given.shape}.")
    if not 0 <= class_index < given.shape[1]:
        raise ParameterError(f"class_index must be from 0 to {given.shape[1] - 1}, got {class_index}.")
    shares: npt.NDArray[np.float64] = given[:, class_index]
    return shares
