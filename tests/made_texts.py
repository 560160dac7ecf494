"""Texts with planted faults, and data sets of texts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headstart.data import Dataset, class_targets
from headstart.modalities import TEXT
from headstart.modalities.text import Text

SENTENCES = {
    "German": "Die Straße war für Fußgänger gesperrt, „schön“ war das nicht.",
    "French": "« L’été à Paris » – c’est déjà très beau, même à Noël… Où ça ?",
    "Spanish": "¿Qué pasó en España? El niño comió muy poco.",
    "Russian": "Очень хороший фильм, смотреть всем!",
    "Chinese": "非常好的饭店，软件硬件都很过得去，值得一住的地方！",
    "Japanese": "とても良い映画でした。また見たいです。",
    "Polish": "Zażółć gęślą jaźń, to jest bardzo dobre.",
    "Greek": "Καλημέρα κόσμε, τι κάνεις;",
    "Turkish": "Çok güzel bir film değil mi? Şimdi öğrendim.",
    "Arabic": "مرحبا بالعالم، هذا فيلم جيد",
    "Vietnamese": "Xin chào, tôi rất vui được gặp bạn",
    "emoji": "great 😀 film – it’s “fine”, only €5",
}
"""Texts in order, of which each byte of UTF-8 matters."""


def misread(text: str, encoding: str) -> str:
    """The text as one sees it whose UTF-8 was read in another encoding; bytes that Windows-1252 lacks as browsers show them."""
    return "".join(bytes([byte]).decode(encoding, "ignore") or chr(byte) for byte in text.encode())


def texts_of(texts: Sequence[str], labels: Sequence[str] | None = None, parts: Sequence[str] | None = None) -> Dataset:
    """A data set of texts; all of one class and of no part where nothing else is said."""
    labels = labels or ["a"] * len(texts)
    classes = sorted(set(labels))
    return Dataset(
        tuple(Text(text, f"row {row}") for row, text in enumerate(texts, 1)),
        class_targets(np.array([classes.index(label) for label in labels], np.int64), classes),
        np.array(parts or [""] * len(texts)),
        modality=TEXT,
        source="list.csv",
    )


def read_rows(folder: Path, part: str) -> list[tuple[str, str]]:
    """Texts and labels of one of the measured lists."""
    with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]
