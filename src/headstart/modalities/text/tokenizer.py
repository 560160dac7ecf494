"""`Tokenizer`: a ``tokenizer.json`` of the library tokenizers, opened so that equal files give equal pieces on every machine."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import lzma
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError, MissingExtraError
from headstart.modalities.text.texts import clean

Ids = npt.NDArray[np.int64]


class Tokenizer:
    """Splits texts into numbered pieces as a ``tokenizer.json`` says; what it says of cutting and padding is passed over.

    Two of them are equal where their files are. Raises MissingExtraError where tokenizers is not installed, and BackboneError for a file
    that it cannot read.

    Attributes:
        json: the bytes of the file.
        digest: their SHA-256, hexadecimal.
    """

    def __init__(self, json: bytes) -> None:
        self.json = bytes(json)
        self.digest = hashlib.sha256(self.json).hexdigest()
        self._opened = _opened(self.json)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Tokenizer({self.size} pieces, {self.digest[:8]})"

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes]]:
        return (Tokenizer, (self.json,))

    @property
    def size(self) -> int:
        """How many pieces it knows."""
        return int(self._opened.get_vocab_size())

    @cached_property
    def special(self) -> tuple[Ids, Ids]:
        """The special pieces that stand before every text, and those after it."""
        plain = self._opened.encode("a", add_special_tokens=False).ids
        whole = self._opened.encode("a", add_special_tokens=True).ids
        start = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
        return np.array(whole[:start], np.int64), np.array(whole[start + len(plain) :], np.int64)

    @cached_property
    def special_of_pair(self) -> tuple[Ids, Ids, Ids]:
        """The special pieces before the first text of a pair, between the two, and after the second one."""
        plain = self._opened.encode("a", add_special_tokens=False).ids
        whole = self._opened.encode("a", "a", add_special_tokens=True).ids
        places = [at for at in range(len(whole)) if whole[at : at + len(plain)] == plain]
        first, second = (places[0], places[-1]) if plain and len(places) > 1 else (0, len(plain))
        parts = whole[:first], whole[first + len(plain) : second], whole[second + len(plain) :]
        return tuple(np.array(part, np.int64) for part in parts)  # type: ignore[return-value]

    def pieces(self, texts: Sequence[str]) -> list[Ids]:
        """The numbers of the pieces of each text, int64 vectors, without special ones.

        Zero bytes count as spaces, and lone surrogates, which are no characters, as U+FFFD.
        """
        if len(texts) == 1:
            found = [self._opened.encode(clean(texts[0]), add_special_tokens=False)]
        else:
            found = self._opened.encode_batch_fast([clean(text) for text in texts], add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in found]

    def texts_of(self, ids: Iterable[int]) -> list[str]:
        """The pieces with these numbers, as the vocabulary writes them; empty for numbers that it lacks."""
        return [self._opened.id_to_token(int(number)) or "" for number in ids]


@cache
def _opened(data: bytes) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("Splitting texts into the pieces of a pre-trained network", extra="text") from None
    try:
        found = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises Exception itself
        raise BackboneError(
            f"This tokenizer.json cannot be read by tokenizers {tokenizers.__version__} ({str(error)[:200]}). Get the file of the network "
            "again, or upgrade: pip install -U tokenizers"
        ) from None
    found.no_truncation()
    found.no_padding()
    return found


@cache
def uncased_tokenizer() -> Tokenizer:
    """The tokenizer of uncased BERT and its kin, from the vocabulary that comes with Headstart.

    The 30,522 pieces are those that Google published with BERT (Devlin et al. 2019) under the Apache-2.0 licence.
    """
    packed = importlib.resources.files(__package__).joinpath("uncased_pieces.txt.xz").read_bytes()
    pieces = lzma.decompress(packed).decode().removesuffix("\n").split("\n")
    numbers = {piece: number for number, piece in enumerate(pieces)}
    before, text, after = ({"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "[SEP]", "type_id": 0}})  # fmt: skip
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    rest = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entries = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": numbers[piece], "content": piece, "special": True, **rest}
                         for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": [before, text, after], "pair": [before, text, after, *second],
            "special_tokens": {piece: {"id": piece, "ids": [numbers[piece]], "tokens": [piece]} for piece in ("[CLS]", "[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": numbers},
    }  # fmt: skip
    return Tokenizer(json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode())
