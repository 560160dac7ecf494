"""BLEU and chrF of translations, as sacreBLEU computes them, with intervals and paired differences.

Both are made of sums over sentences (matching n-grams, and lengths), so that each resample of the sentences is a product of matrices.
Sources: Papineni et al., ACL 2002; Popović, WMT 2015; Post, A call for clarity in reporting BLEU scores, WMT 2018; Koehn, Statistical
significance tests for machine translation evaluation, EMNLP 2004.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headstart.errors import MissingExtraError, ParameterError
from headstart.metrics.differences import Difference, resampled_differences
from headstart.metrics.intervals import REPLICATES, resamples
from headstart.metrics.scores import Floats
from headstart.progress import quiet

ORDER = 4
"""Longest n-grams of words in BLEU; sums are lengths of translation and reference, then matches, then n-grams of the translation."""
CHARACTERS = 6
"""Longest n-grams of characters in chrF; sums are n-grams of translation and reference, and matches, of each length in turn."""
_BLEU, _CHRF, _BETA = 2 + 2 * ORDER, 3 * CHARACTERS, 2
_UNSPACED = ("HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_EXAMINED = 20_000  # characters of references that the tokenizer is chosen by


@dataclass(frozen=True, eq=False)
class SentenceStatistics:
    """What BLEU and chrF of any of the sentences are sums of.

    Attributes:
        values: float64 (n, 28): ten numbers for BLEU, eighteen for chrF.
        signatures: sacreBLEU's of both scores, which tell tokenization and smoothing; none where they are unknown.
    """

    values: Floats
    signatures: tuple[str, ...] = ()

    @classmethod
    def of(cls, translations: Sequence[str], references: Sequence[str], *, tokenizer: str | None = None) -> Self:
        """Compare each translation with its reference.

        `tokenizer` is one of sacreBLEU's, such as ``13a``, ``zh`` or ``char``; by default that of `tokenizer_for` the references. Raises
        ParameterError for different numbers of lines, or none, and MissingExtraError without sacreBLEU.
        """
        if len(translations) != len(references) or not len(references):
            raise ParameterError(
                f"Translations are compared line by line: got {len(translations)} translations and {len(references)} references."
            )
        bleu, chrf = _metrics(tokenizer or tokenizer_for(references))
        texts, wrapped = list(translations), [list(references)]
        with quiet("sacrebleu"):
            rows = [np.array(metric._extract_corpus_statistics(texts, wrapped), dtype=np.float64) for metric in (bleu, chrf)]
        for metric in (bleu, chrf):
            metric.num_refs = 1
        return cls(np.concatenate(rows, axis=1), tuple(f"{metric.get_signature()}" for metric in (bleu, chrf)))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def sentence_chrf(self) -> Floats:
        """The chrF of each sentence alone (n,), from 0 to 100."""
        return chrf_of(self.values[:, _BLEU:])


@dataclass(frozen=True)
class TranslationScores:
    """BLEU and chrF of a test set, from 0 to 100, each with the 95 % percentile interval of the bootstrap over sentences."""

    sentences: int
    bleu: float
    bleu_interval: tuple[float, float]
    chrf: float
    chrf_interval: tuple[float, float]
    signatures: tuple[str, ...] = ()

    @classmethod
    def of(cls, statistics: SentenceStatistics, *, replicates: int = REPLICATES, seed: int = 0) -> Self:
        """Score a test set. The interval of a score is that score alone where all resamples give the same."""
        values = statistics.values
        bleu, chrf = scores_of(values.sum(axis=0, keepdims=True))[0].tolist()
        blocks = resamples(len(values), replicates=replicates, seed=seed)
        drawn = np.concatenate([scores_of(weights.T.astype(np.float64) @ values) for weights in blocks])
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        return cls(
            len(values), bleu, (float(low[0]), float(high[0])), chrf, (float(low[1]), float(high[1])), signatures=statistics.signatures
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON."""
        return {
            "sentences": self.sentences, "bleu": self.bleu, "bleu_interval": list(self.bleu_interval), "chrf": self.chrf,
            "chrf_interval": list(self.chrf_interval), "signatures": list(self.signatures),
        }  # fmt: skip


def translation_differences(
    first: SentenceStatistics, second: SentenceStatistics, *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[Difference, Difference]:
    """BLEU and chrF of one system less those of another on the same sentences, as shares: 0.01 is one point.

    Intervals are of the paired bootstrap, p values of the randomization test. ParameterError for different numbers of sentences.
    """
    found = resampled_differences(first.values, second.values, lambda sums: scores_of(sums) / 100, replicates=replicates, seed=seed)
    bleu, chrf = (
        Difference(
            score=score, word=word, value=float(found.values[index]), interval=found.interval(index), p_value=float(found.p_values[index]),
            test="randomization test", points=True, phrases=("translates better", "translates worse"),
        )
        for index, (score, word) in enumerate((("bleu", "BLEU"), ("chrf", "chrF")))
    )  # fmt: skip
    return bleu, chrf


def scores_of(sums: Floats) -> Floats:
    """BLEU and chrF (b, 2), from 0 to 100, of sums over sentences (b, 28)."""
    return np.stack([bleu_of(sums[:, :_BLEU]), chrf_of(sums[:, _BLEU:])], axis=1)


def bleu_of(sums: Floats) -> Floats:
    """The BLEU (b,) of sums (b, 10), with exponential smoothing where no n-gram of a length matches."""
    length, reference, correct, total = sums[:, 0], sums[:, 1], sums[:, 2 : 2 + ORDER], sums[:, 2 + ORDER :]
    halvings = 2.0 ** np.cumsum(correct == 0, axis=1)
    precisions = np.where(correct == 0, 1 / halvings, correct) / np.maximum(total, 1)
    possible = np.asarray((total > 0).all(axis=1) & (correct > 0).any(axis=1))
    penalty = np.exp(np.minimum(0.0, 1 - reference / np.maximum(length, 1)))
    return np.where(possible, 100 * penalty * np.exp(np.log(np.where(possible[:, None], precisions, 1.0)).mean(axis=1)), 0.0)


def chrf_of(sums: Floats) -> Floats:
    """The chrF (b,) of sums (b, 18): precision and recall are means over those lengths of n-grams that both texts have."""
    made, reference, matching = (sums.reshape(len(sums), CHARACTERS, 3)[:, :, column] for column in range(3))
    both = (made > 0) & (reference > 0)
    count = np.maximum(both.sum(axis=1), 1)
    precision, recall = (np.where(both, matching / np.maximum(of, 1), 0.0).sum(axis=1) / count for of in (made, reference))
    weight = _BETA**2
    return np.asarray(100 * (1 + weight) * precision * recall / np.maximum(weight * precision + recall, 1e-300))


def tokenizer_for(references: Iterable[str]) -> str:
    """The tokenizer of sacreBLEU for a language: ``zh`` for Chinese, ``char`` without spaces between words, otherwise ``13a``."""
    han = unspaced = letters = 0
    for text in references:
        for character in text:
            if character.isalpha():
                name = unicodedata.name(character, "")
                letters, han, unspaced = letters + 1, han + name.startswith("CJK"), unspaced + name.startswith(_UNSPACED)
        if letters > _EXAMINED:
            break
    if unspaced > 0.1 * letters:
        return "char"
    return "zh" if han > 0.5 * letters else "13a"


def worst_sentences(statistics: SentenceStatistics, count: int) -> NDArray[np.int64]:
    """The rows of the sentences of the lowest chrF, the worst first; of equals the first."""
    return np.argsort(statistics.sentence_chrf, kind="stable")[:count]


def _metrics(tokenizer: str) -> tuple[Any, Any]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise MissingExtraError("BLEU and chrF (sacreBLEU)", extra="transformers") from None
    if tokenizer not in BLEU.TOKENIZERS:
        raise ParameterError(f"The tokenizer of BLEU must be one of {', '.join(BLEU.TOKENIZERS)}, got {tokenizer!r}.")
    return BLEU(tokenize=tokenizer, max_ngram_order=ORDER), CHRF(char_order=CHARACTERS, beta=_BETA)
