"""`LinePreprocessing`: texts as they are, for networks with a tokenizer of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from headstart.errors import TextError
from headstart.modalities import TEXT, Modality
from headstart.modalities.text.texts import text_digest, text_name

LINES = "lines"
"""The key of its entry in a manifest."""


@dataclass(frozen=True)
class Lines:
    """The texts themselves, beside features that there are none of."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def take(self, rows: Any) -> Lines:
        """Some of them, by their positions or a mask."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Lines(tuple(self.texts[row] for row in chosen.tolist()))


@dataclass(frozen=True)
class LinePreprocessing:
    """A text stays a text, the empty one included."""

    modality: ClassVar[Modality] = TEXT
    id: ClassVar[str] = "lines-v1"
    size: ClassVar[int] = 0

    @property
    def inputs(self) -> dict[str, tuple[Any, tuple[int | str, ...]]]:
        """None: no graph takes texts."""
        return {}

    @staticmethod
    def read(source: str) -> str:
        """A text is its own content; TextError for what is no string."""
        if not isinstance(source, str):
            raise TextError("<text>", f"a text must be a string, and this is a {type(source).__name__}")
        return source

    @staticmethod
    def digest(content: str) -> bytes:
        """SHA-256 of the text: `text_digest`."""
        return text_digest(content)

    @staticmethod
    def called(source: str) -> str:
        """What a text is called in messages: `text_name`."""
        return text_name(source)

    def __call__(self, content: str, *, name: str | None = None) -> str:
        """The text."""
        return str(content)

    @staticmethod
    def counted(inputs: Sequence[str]) -> Lines:
        """The texts, for a model that reads them."""
        return Lines(tuple(map(str, inputs)))

    def to_dict(self) -> dict[str, Any]:
        """That there is nothing to be done."""
        return {LINES: True}

    def files(self) -> dict[str, bytes]:
        """None."""
        return {}
