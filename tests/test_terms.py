"""Terms are those of scikit-learn, in any alphabet and in any text, and a vocabulary is the same after it was saved."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import CountVectorizer

from headstart.errors import RunError
from headstart.modalities.text.terms import CHARACTERS, LONGEST, WORDS, codes_of, count_terms, sketch
from headstart.modalities.text.vocabulary import MOST, Vocabulary

TEXTS = [
    "The cat sat on the mat.", "the CAT, the dog; the straße_1", "", " \t\n ", "房间很大，服务 也好。", "a", "naïve e\u0301t\u00e9",
    "x\x00y \x00", "???", "the cat \U0001f600\U0001f600",
]  # fmt: skip


def reference(texts: list[str]) -> tuple[csr_array, list[str], int]:
    """Counts by scikit-learn, the terms, and how many are of words."""
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", preprocessor=str.casefold)
    characters = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), preprocessor=str.casefold)
    parts = [made.fit_transform(texts) for made in (words, characters)]
    names = [list(made.get_feature_names_out()) for made in (words, characters)]
    return csr_array(hstack(parts)), names[0] + names[1], len(names[0])


def check_against_reference(texts: list[str]) -> None:
    expected, names, words = reference(texts)
    codes = np.concatenate([codes_of(names[:words], WORDS), codes_of(names[words:], CHARACTERS)])
    assert len(np.unique(codes)) == len(codes)
    found = count_terms(texts)
    expected = expected.tocoo()
    order = np.lexsort((codes[expected.col], expected.row))
    np.testing.assert_array_equal(found.rows, expected.row[order])
    np.testing.assert_array_equal(found.codes, codes[expected.col][order])
    np.testing.assert_array_equal(found.counts, expected.data[order])


def texts_of(path: Path) -> list[str]:
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def test_counts_are_those_of_scikit_learn() -> None:
    check_against_reference(TEXTS)


@pytest.mark.parametrize("name", ["text_sentiment", "text_chinese"])
def test_counts_of_real_texts_are_those_of_scikit_learn(shared_data: Path, name: str) -> None:
    check_against_reference(texts_of(shared_data / name / "test.csv")[:200])


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_any_texts_can_be_counted_and_blocks_make_no_difference(texts: list[str]) -> None:
    found = count_terms(texts)
    for row, text in enumerate(texts):
        alone, part = count_terms([text]), found.take(np.array([row]))
        assert part.texts == [text]
        np.testing.assert_array_equal(alone.codes, part.codes)
        np.testing.assert_array_equal(alone.counts, part.counts)


def test_no_text_is_too_long_and_none_too_strange() -> None:
    long = "word " * (2 << 20)
    found = count_terms([long, "\ud800 x\udc00", "\ufffd x\ufffd", "", long[:LONGEST], "a" * (LONGEST + 5)])
    parts = [found.take(slice(row, row + 1)) for row in range(6)]
    for one, other in ((0, 4), (1, 2)):
        np.testing.assert_array_equal(parts[one].codes, parts[other].codes)
        np.testing.assert_array_equal(parts[one].counts, parts[other].counts)
    assert len(parts[3].codes) == 0
    assert len(parts[3]) == 1
    assert len(count_terms([])) == 0
    vocabulary = Vocabulary.learned(found)
    assert all(len(term) <= 64 for term in vocabulary.terms)


def test_rows_are_taken_in_any_order() -> None:
    found = count_terms(TEXTS)
    part = found.take(np.array([4, 0, 0]))
    assert part.texts == [TEXTS[4], TEXTS[0], TEXTS[0]]
    np.testing.assert_array_equal(part.take(slice(0, 1)).codes, count_terms([TEXTS[4]]).codes)
    np.testing.assert_array_equal(part.take(slice(1, 3)).codes, np.tile(count_terms([TEXTS[0]]).codes, 2))


def test_a_vocabulary_holds_the_terms_of_two_texts_and_finds_them() -> None:
    counts, names, words = reference(TEXTS)
    often = np.asarray((counts > 0).sum(axis=0)).ravel() >= 2
    vocabulary = Vocabulary.learned(count_terms(TEXTS))
    assert sorted(vocabulary.terms[: vocabulary.words]) == sorted(np.array(names[:words])[often[:words]])
    assert sorted(vocabulary.terms[vocabulary.words :]) == sorted(np.array(names[words:])[often[words:]])
    ids, found = vocabulary.lookup(count_terms(TEXTS))
    assert ids.dtype == np.int64
    assert found.dtype == np.float32
    assert ids.shape == found.shape
    dense = counts.toarray()
    for row in range(len(TEXTS)):
        pairs = zip(ids[row].tolist(), found[row].tolist(), strict=True)
        known = {(number <= vocabulary.words, vocabulary.terms[number - 1]): count for number, count in pairs if number}
        assert known == {(column < words, names[column]): dense[row, column] for column in np.flatnonzero(often) if dense[row, column]}
        assert not found[row][ids[row] == 0].any()


def test_a_vocabulary_takes_the_terms_of_most_texts() -> None:
    everything = Vocabulary.learned(count_terms(TEXTS))
    few = Vocabulary.learned(count_terms(TEXTS), most=5)
    assert len(everything) < MOST
    assert len(few) == 5
    assert set(few.terms) < set(everything.terms)
    assert " " in few.terms


def test_a_saved_vocabulary_is_the_same() -> None:
    vocabulary = Vocabulary.learned(count_terms([*TEXTS, "\ud800", "\udc00"]))
    assert "\ufffd" in vocabulary.terms
    again = Vocabulary.from_state(*vocabulary.state())
    assert again.terms == vocabulary.terms
    assert again.words == vocabulary.words
    np.testing.assert_array_equal(again.codes, vocabulary.codes)


def test_a_damaged_vocabulary_is_refused() -> None:
    settings, arrays = Vocabulary.learned(count_terms(TEXTS)).state()
    with pytest.raises(RunError, match=r"vocabulary is damaged.*terms"):
        Vocabulary.from_state(settings, {})
    with pytest.raises(RunError, match=r"vocabulary is damaged.*instead of"):
        Vocabulary.from_state(settings, {"terms": arrays["terms"][: len(arrays["terms"]) // 2]})


def test_without_common_terms_nothing_is_found() -> None:
    vocabulary = Vocabulary.learned(count_terms(["ab", "cd"]), most=0)
    ids, counts = vocabulary.lookup(count_terms(["ab", ""]))
    assert len(vocabulary) == 0
    assert ids.shape == (2, 1)
    assert not ids.any()
    assert not counts.any()


def test_sketches_keep_the_angles_of_sublinear_counts() -> None:
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(400)]
    texts = [" ".join(random.choice(words[start : start + 150], 60)) for start in (0, 20, 100, 200, 250)]
    counts, _, number = reference(texts)
    dense = np.log(counts.toarray(), out=np.full(counts.shape, -1.0), where=counts.toarray() > 0) + 1
    for part in (dense[:, :number], dense[:, number:]):
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    wide = sketch(count_terms(texts), dim=1 << 16)
    np.testing.assert_allclose(wide @ wide.T, dense @ dense.T / 2, atol=0.03)
    narrow = sketch(count_terms([*texts, ""]))
    assert narrow.shape == (6, 512)
    assert narrow.dtype == np.float32
    assert not narrow[5].any()
    np.testing.assert_allclose(np.linalg.norm(narrow[:5], axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(narrow[:5], sketch(count_terms(texts)))
