"""Translation: its scores against sacreBLEU, and what is fine-tuned on pairs of texts."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.metrics.translation import (
    SentenceStatistics,
    TranslationScores,
    scores_of,
    tokenizer_for,
    translation_differences,
    worst_sentences,
)

sacrebleu = pytest.importorskip("sacrebleu", reason="needs the extra transformers")

WORDS = ["the", "a", "cat", "dog", "sits", "runs", "on", "under", "mat", "tree", ",", ".", "and", "black", "white", "house", "in"]


def sentences(count: int, seed: int, *, least: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(least, 12))) for _ in range(count)]


def noisy(texts: list[str], share: float, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(word for word in text.split() if generator.random() > share) for text in texts]


def test_scores_are_those_of_sacrebleu() -> None:
    references = sentences(40, 1)
    for made in (noisy(references, 0.3, 2), references, sentences(40, 3), [""] * 40, ["xyz"] * 40, noisy(references, 0.9, 4)):
        found = SentenceStatistics.of(made, references)
        scores = TranslationScores.of(found, replicates=20)
        assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(made, [references], force=True).score, abs=1e-9)
        assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(made, [references]).score, abs=1e-9)
        alone = [sacrebleu.sentence_chrf(one, [reference]).score for one, reference in zip(made, references, strict=True)]
        np.testing.assert_allclose(found.sentence_chrf, alone, atol=1e-9)


def test_scores_of_short_texts_are_those_of_sacrebleu() -> None:
    for made, reference in (("a", "a"), ("a b c", "a b c"), ("a b c d", "a b c d"), ("b a d c e", "a b c d e"), ("", ""), ("a", "")):
        found = SentenceStatistics.of([made], [reference])
        bleu, chrf = scores_of(found.values)[0]
        assert bleu == pytest.approx(sacrebleu.corpus_bleu([made], [[reference]], force=True).score, abs=1e-9), (made, reference)
        assert chrf == pytest.approx(sacrebleu.corpus_chrf([made], [[reference]]).score, abs=1e-9), (made, reference)


def test_signature_tells_tokenizer_and_version() -> None:
    found = SentenceStatistics.of(["我 是 学生。"], ["我是学生。"])
    assert found.signatures[0].startswith("nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:")
    assert "nc:6|nw:0" in found.signatures[1]


@pytest.mark.parametrize(
    ("text", "tokenizer"), [("Ein Hund.", "13a"), ("我是一个学生。", "zh"), ("私は学生です。", "char"), ("", "13a"), ("สวัสดี", "char")]
)
def test_tokenizer_is_that_of_the_script(text: str, tokenizer: str) -> None:
    assert tokenizer_for([text]) == tokenizer


def test_interval_agrees_with_resampling_by_sacrebleu() -> None:
    references = sentences(60, 5, least=4)
    made = noisy(references, 0.25, 6)
    scores = TranslationScores.of(SentenceStatistics.of(made, references))
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        rows = generator.integers(0, 60, 60)
        drawn.append(sacrebleu.corpus_bleu([made[row] for row in rows], [[references[row] for row in rows]], force=True).score)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert scores.bleu_interval[0] < scores.bleu < scores.bleu_interval[1]
    assert scores.bleu_interval == (pytest.approx(low, abs=0.3 * (high - low)), pytest.approx(high, abs=0.3 * (high - low)))


def test_difference_is_paired() -> None:
    references = sentences(80, 7, least=4)
    better, worse = noisy(references, 0.1, 8), noisy(references, 0.4, 9)
    first, second = (SentenceStatistics.of(made, references) for made in (better, worse))
    bleu, chrf = translation_differences(first, second)
    alone = [TranslationScores.of(one) for one in (first, second)]
    assert 100 * bleu.value == pytest.approx(alone[0].bleu - alone[1].bleu)
    assert 100 * chrf.value == pytest.approx(alone[0].chrf - alone[1].chrf)
    assert bleu.interval[0] > 0
    assert bleu.p_value < 0.01
    assert "points (95 % interval" in bleu.text(bleu.p_value)
    same, _ = translation_differences(first, first)
    assert same.value == 0
    assert same.p_value == 1


def test_worst_sentences_come_first() -> None:
    found = SentenceStatistics.of(["a cat", "xyz", "the dog sits"], ["a cat", "a mat", "the dog runs"])
    assert worst_sentences(found, 2).tolist() == [1, 2]


def test_different_numbers_of_lines_are_refused() -> None:
    with pytest.raises(ParameterError, match="got 1 translations and 2 references"):
        SentenceStatistics.of(["a"], ["a", "b"])
    with pytest.raises(ParameterError, match="must be one of"):
        SentenceStatistics.of(["a"], ["a"], tokenizer="words")
