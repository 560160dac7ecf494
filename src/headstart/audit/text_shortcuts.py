"""Properties that reveal the class without reading a text: its length, its script or language, how it is punctuated, or one single word.

They are measured as those of files are (`headstart.audit.shortcuts`): by a small decision tree that has not seen the text. The word is
chosen on two thirds of the texts and tested on the third.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headstart.audit.findings import Finding, Severity
from headstart.audit.languages import SCRIPTS, languages_of, script_shares
from headstart.audit.shortcuts import Columns, Property, one_hot, rows_measured, shares, telling_properties
from headstart.data import Dataset, Labels

_READING = "reading the text"
_LOOKED_AT = 20_000  # characters of one text
_FOLDS = 3
_NOTE, _WARNING = 0.5, 0.9  # share of a class that has the word, less that of the other texts
_RARE = 0.02  # share of the other texts: a word that more of them have is no mark of a source
_CLEARLY = 4.0  # standard errors
_LEAST = 5  # texts that a word is in


def find_text_shortcuts(dataset: Dataset, *, seed: int = 0) -> list[Finding]:
    """Return a finding for each property of texts that alone predicts the class, or one class of many, clearly better than chance.

    Nothing is measured for data with several labels per text.
    """
    if not isinstance(dataset.targets, Labels):
        return []
    texts = [text if (text := str(one)[:_LOOKED_AT]).strip() else None for one in dataset.inputs]
    return [*telling_properties(_PROPERTIES, dataset, texts, seen=_READING, seed=seed), *_telling_words(dataset, texts, seed)]


def _telling_words(dataset: Dataset, texts: Sequence[str | None], seed: int) -> list[Finding]:
    """A finding about words that one class has and the others lack: each the one that tells most of its class."""
    rows = rows_measured(np.array([text is not None for text in texts], bool), dataset, seed)
    labels = dataset.targets.array[rows]
    classes = np.unique(labels)
    if len(classes) < 2:
        return []
    words = [words_of(texts[row] or "") for row in rows]
    fold = _folds(labels, seed)
    told = []
    for label in classes:
        own = labels == label
        inside, outside = np.zeros(len(rows), bool), own
        chosen = Counter[str]()
        for number in range(_FOLDS):
            word = _best_word(words, own, np.flatnonzero(fold != number))
            tested = np.flatnonzero(fold == number)
            chosen[word] += 1
            inside[tested] = [word in words[i] for i in tested] if word else False
        recall, mistaken = inside[outside].mean(), inside[~own].mean()
        count, others = int(own.sum()), int((~own).sum())
        smoothed = [((share * n + 1) / (n + 2), n) for share, n in ((recall, count), (mistaken, others))]
        error = float(np.sqrt(sum(share * (1 - share) / n for share, n in smoothed)))
        if recall - mistaken >= max(_NOTE, _CLEARLY * error):
            told.append((recall - mistaken, int(label), chosen.most_common(1)[0][0], recall, mistaken))
    told.sort(reverse=True)
    if not told:
        return []
    listed = [f"{dataset.classes[label]}: {word!r} is in {recall:.0%} of its texts and in {mistaken:.0%} of the others"
              for _, label, word, recall, mistaken in told]  # fmt: skip
    severity: Severity = "warning" if told[0][0] >= _WARNING and told[0][4] <= _RARE else "note"
    message = (
        f"A single word tells {len(told)} of {len(classes)} classes from all others. If it belongs to the content, all is well. "
        "If it is a mark of the source, such as a name, an address or a heading, a classifier learns this instead of "
        "the content, and fails elsewhere. Take it out, from all texts."
    )
    return [Finding("shortcut", severity, message, tuple(listed), len(listed))]


def _folds(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """A fold for each text (n,), stratified by class."""
    fold = np.empty(len(labels), np.int64)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = random.permutation(np.flatnonzero(labels == label))
        fold[own] = np.arange(len(own)) % _FOLDS
    return fold


def _best_word(words: Sequence[frozenset[str]], own: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> str:
    """The word that the largest share of the own texts has, less that of the others; empty where none is in enough texts."""
    inside, outside = Counter[str](), Counter[str]()
    for row in rows.tolist():
        (inside if own[row] else outside).update(words[row])
    count = int(own[rows].sum())
    others = len(rows) - count
    able = [(n / max(1, count) - outside[word] / max(1, others), word) for word, n in inside.items() if n >= _LEAST]
    return max(able, default=(0.0, ""))[1]


def words_of(text: str) -> frozenset[str]:
    """The words of a text in lower case, its signs, and of scripts without spaces the pairs of characters."""
    found = set[str]()
    for word in re.findall(r"\w+|[^\w\s]", text.casefold()):
        if word.isascii() or word < "\u1100":
            found.add(word)
        else:
            found.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
    return frozenset(found)


def _lengths(texts: Sequence[str]) -> Columns:
    return np.array([[len(text), len(text.split())] for text in texts], np.float64)


def _length_summary(texts: Sequence[str]) -> str:
    low, middle, high = np.quantile([len(text) for text in texts], [0.1, 0.5, 0.9])
    return f"median {middle:.0f} characters ({low:.0f} to {high:.0f})"


def _marks(texts: Sequence[str]) -> Columns:
    """Shares of punctuation, digits, capitals, line ends and symbols; whether a text begins with a capital and ends with a sign."""
    return np.array([_marks_of(text.strip()) for text in texts], np.float64)


def _marks_of(text: str) -> list[float]:
    if text.isascii():
        letters = [sum(map(text.count, "!\"'(),-./:;?")), sum(map(text.count, "0123456789")), sum(map(str.isupper, text))]
        signs = sum(map(text.count, "#$%&*+<=>@[\\]^_`{|}~"))
    else:
        kinds = Counter(map(unicodedata.category, text))
        punctuation = sum(count for kind, count in kinds.items() if kind[0] == "P")
        letters, signs = [punctuation, kinds["Nd"], kinds["Lu"]], sum(count for kind, count in kinds.items() if kind[0] == "S")
    shares = [count / max(1, len(text)) for count in (*letters, signs, text.count("\n"))]
    return [*shares, float(text[:1].isupper()), float(not text[-1:].isalnum())]


def _marks_summary(texts: Sequence[str]) -> str:
    punctuation, digits, capitals, signs, _, begins, ends = _marks(texts).mean(axis=0)
    return (
        f"punctuation {punctuation:.1%}, digits {digits:.1%}, capitals {capitals:.1%}, symbols {signs:.1%} of the characters; "
        f"{begins:.0%} begin with a capital, {ends:.0%} end with a sign"
    )


def _language_columns(texts: Sequence[str]) -> Columns:
    return np.column_stack([script_shares(texts), one_hot(languages_of(texts))])


def _language_summary(texts: Sequence[str]) -> str:
    main = script_shares(texts).mean(axis=0)
    told = [name for name in languages_of(texts) if name]
    return shares(told) if told else f"mostly {SCRIPTS[int(main.argmax())]}"


_PROPERTIES = (
    Property(
        "language or script", _language_columns, _language_summary,
        "Unless the language is what is to be learned, have texts of all classes in each language",
    ),
    Property(
        "length", _lengths, _length_summary, "If one class was collected elsewhere, collect all classes in one way, or cut long texts",
        follows_from=("language or script",),
    ),
    Property(
        "punctuation, digits and capitals", _marks, _marks_summary,
        "Write all texts in one way: the same quotation marks, capitals and line ends",
        follows_from=("language or script",),
    ),
)  # fmt: skip
