"""`TextPreprocessing`: the one way from a text to the numbers that a network takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, TextError
from headstart.modalities import TEXT, Modality
from headstart.modalities.text.lines import LINES, LinePreprocessing
from headstart.modalities.text.terms import TermCounts, count_terms, sketch
from headstart.modalities.text.texts import PAIR, text_digest, text_name
from headstart.modalities.text.tokenizer import Tokenizer
from headstart.modalities.text.vocabulary import Vocabulary
from headstart.settings.field import require, whole

CHARACTERS_PER_PIECE = 12
"""How many characters a text may have for each piece that its windows hold; what comes after them is not read.

English has four to five characters in a piece; with three times as many, only texts are cut that the windows could not hold anyway, or that
are mostly spaces. So a text of any length takes the time of one that fills the windows.
"""

SKETCH = 512
"""Length of the sketch of terms that stands for features where there is no network."""

TOKENIZER = "tokenizer.json"
"""The file of the tokenizer in a run folder."""

TERMS = "terms.json"
"""The file of the vocabulary in a run folder: its terms in the order of their numbers from 1 on, those of words first."""

_VERSION = 1  # raised whenever equal texts and settings would give other numbers
_AT_ONCE = 256  # texts that are split together


@dataclass(frozen=True)
class Encoded:
    """A text as a network takes it.

    Attributes:
        windows: at least one int64 vector of pieces, special ones included; the vectors of a network are averaged over them.
        pieces: how many pieces the text has, without special ones, as far as it was read.
        cut: whether a part of the text lies in no window.
    """

    windows: tuple[npt.NDArray[np.int64], ...]
    pieces: int
    cut: bool

    @property
    def length(self) -> int:
        """The length of the longest window."""
        return max(map(len, self.windows))


@dataclass(frozen=True)
class TextPreprocessing:
    """Split a text into pieces, and long ones into windows side by side, as equal in length as can be.

    At most `most_windows` windows are made, and at most `CHARACTERS_PER_PIECE` characters are read for each piece that these hold: the rest
    of a longer text is left out, and its `Encoded.cut` is True. The two texts of a pair (`joined_pair`) are in one window, of which neither
    has more than half where the other needs its half.

    Attributes:
        max_length: the most pieces in a window, special ones included.
        tokenizer: what splits a text; None where no network reads it.
        most_windows: the most windows of one text.
        sketch: length of the vector of hashed terms that is taken in place of pieces; 0 for none.
        vocabulary: the terms that are counted beside; None for none.
    """

    modality: ClassVar[Modality] = TEXT

    max_length: int = 256
    tokenizer: Tokenizer | None = None
    most_windows: int = 32
    sketch: int = 0
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        require(whole(8, 1 << 17), max_length=self.max_length)
        require(whole(1, 1 << 17), most_windows=self.most_windows)

    @property
    def id(self) -> str:
        """Covers everything that changes a feature: the tokenizer, the limits, and the version of this class."""
        pieces = f"sketch{self.sketch}" if self.sketch else "none" if self.tokenizer is None else self.tokenizer.digest[:16]
        return f"text{self.max_length}x{self.most_windows}-{pieces}-v{_VERSION}"

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them; of tokenizer and vocabulary, whose files are kept beside them, digest and length."""
        digest = None if self.tokenizer is None else self.tokenizer.digest
        found: dict[str, Any] = {"max_length": self.max_length, "most_windows": self.most_windows, "tokenizer": digest}
        terms = 0 if self.vocabulary is None else len(self.vocabulary)
        return found | {name: number for name, number in (("sketch", self.sketch), ("terms", terms)) if number}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], tokenizer_json: bytes | None) -> TextPreprocessing:
        """The inverse of `to_dict`, given the bytes of the tokenizer's file. Raises ParameterError where they are of another one."""
        tokenizer = None if entry["tokenizer"] is None or tokenizer_json is None else Tokenizer(tokenizer_json)
        found = None if tokenizer is None else tokenizer.digest
        if found != entry["tokenizer"]:
            raise ParameterError(f"The tokenizer's SHA-256 must be {entry['tokenizer']}, got {found}: it is of another network.")
        return cls(
            max_length=entry["max_length"], tokenizer=tokenizer, most_windows=entry["most_windows"], sketch=int(entry.get("sketch", 0))
        )  # fmt: skip

    @staticmethod
    def counted(inputs: Sequence[str]) -> TermCounts:
        """The terms of texts."""
        return count_terms(inputs)

    @classmethod
    def from_run(cls, entry: Mapping[str, Any], files: Callable[[str], bytes]) -> TextPreprocessing | LinePreprocessing:
        """From the entry of a manifest and the files of its run; errors as of `from_dict`."""
        if entry.get(LINES):
            return LinePreprocessing()
        made = cls.from_dict(entry, None if entry["tokenizer"] is None else files(TOKENIZER))
        if not entry.get("terms"):
            return made
        try:
            found = json.loads(files(TERMS))
            vocabulary = Vocabulary(tuple(map(str, found["terms"])), int(found["words"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ParameterError(f"the file {TERMS!r} of the run is damaged ({type(error).__name__})") from None
        return replace(made, vocabulary=vocabulary)

    def files(self) -> dict[str, bytes]:
        """The files of the tokenizer and of the vocabulary, as a run keeps them."""
        found = {} if self.tokenizer is None else {TOKENIZER: self.tokenizer.json}
        if self.vocabulary is not None:
            entries = {"words": self.vocabulary.words, "terms": self.vocabulary.terms}
            found[TERMS] = (json.dumps(entries, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        return found

    @staticmethod
    def read(source: str) -> str:
        """A text is its own content; TextError for what is no string, or has nothing in it."""
        if not isinstance(source, str):
            raise TextError("<text>", f"a text must be a string, and this is a {type(source).__name__}")
        if not source.strip():
            raise TextError(text_name(source), "empty")
        return source

    @staticmethod
    def digest(content: str) -> bytes:
        """SHA-256 of the text: `text_digest`."""
        return text_digest(content)

    @staticmethod
    def called(source: str) -> str:
        """What a text is called in messages: `text_name`."""
        return text_name(source)

    @property
    def inputs(self) -> dict[str, tuple[Any, tuple[int | str, ...]]]:
        """The inputs of the network: the pieces of R windows of N texts, what of them is no padding, and whose windows they are; or the
        sketch of terms; and the numbers and counts of terms, of which each text has up to K.
        """
        found: dict[str, tuple[Any, tuple[int | str, ...]]] = {}
        if self.tokenizer is not None:
            found = {
                "input_ids": (np.int64, ("R", "T")), "attention_mask": (np.int64, ("R", "T")), "windows": (np.float32, ("N", "R")),
            }  # fmt: skip
        if self.sketch:
            found["sketch"] = np.float32, ("N", self.sketch)
        if self.vocabulary is not None:
            found |= {"terms": (np.int64, ("N", "K")), "counts": (np.float32, ("N", "K"))}
        return found

    @property
    def size(self) -> int:
        """0: the network takes sequences of any length."""
        return 0

    def __call__(self, text: str, *, name: str | None = None) -> Encoded | dict[str, Any]:
        """Turn a text into the numbers of its pieces, or with sketch or vocabulary into vectors by the names of `inputs` (``windows`` are
        the pieces). Raises ParameterError for what is no text.
        """
        if not self.sketch and self.vocabulary is None:
            return next(self.all([text]))
        found: dict[str, Any] = {} if self.tokenizer is None else {"windows": next(self.all([text])).windows}
        counts = count_terms([text])
        if self.sketch:
            found["sketch"] = sketch(counts, self.sketch)[0]
        if self.vocabulary is not None:
            (found["terms"],), (found["counts"],) = self.vocabulary.lookup(counts)
        return found

    def all(self, texts: Iterable[str]) -> Iterator[Encoded]:
        """Turn texts into numbers, in order; faster than one by one, and with the same result."""
        tokenizer = self._needed()
        limit = CHARACTERS_PER_PIECE * self._room * self.most_windows
        waiting = iter(texts)
        while some := [_checked(text) for text in islice(waiting, _AT_ONCE)]:
            parts = [tuple(part[:limit] for part in text.split(PAIR, 1)) for text in some]
            found = iter(tokenizer.pieces([part for pair in parts for part in pair]))
            for text, pair in zip(some, parts, strict=True):
                unread = sum(map(len, pair)) + len(pair) - 1 < len(text)
                first, *second = [next(found) for _ in pair]
                yield self._pair(first, second[0], unread=unread) if second else self._windows(first, unread=unread)

    def _needed(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ParameterError("These settings have no tokenizer: give that of the network, TextPreprocessing(tokenizer=...).")
        return self.tokenizer

    @property
    def _room(self) -> int:
        """Pieces of a text in one window."""
        special = sum(map(len, self._needed().special))
        if self.max_length <= special:
            raise ParameterError(f"max_length must be above the {special} special pieces of the tokenizer, got {self.max_length}.")
        return self.max_length - special

    def _windows(self, ids: npt.NDArray[np.int64], *, unread: bool) -> Encoded:
        room, (before, after) = self._room, self._needed().special
        kept = ids[: room * self.most_windows]
        parts = np.array_split(kept, max(1, -(-len(kept) // room)))
        windows = tuple(np.concatenate([before, part, after]) for part in parts)
        return Encoded(windows, len(ids), unread or len(kept) < len(ids))

    def _pair(self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], *, unread: bool) -> Encoded:
        before, between, after = self._needed().special_of_pair
        room = max(2, self.max_length - len(before) - len(between) - len(after))
        kept = min(len(first), max(room // 2, room - len(second)))
        window = np.concatenate([before, first[:kept], between, second[: room - kept], after])
        count = len(first) + len(second)
        return Encoded((window,), count, unread or count > room)


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise ParameterError(f"A text must be a str, got {type(text).__name__}.")
    return text
