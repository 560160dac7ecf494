"""Texts: a string in; pieces of words for a network, in windows, and counts of n-grams out.

This is the only code path from a text to a network: fitting, predicting, evaluating and serving all go through it, so that they all see the
same pieces.
"""

from headstart.modalities.text.lines import LinePreprocessing, Lines
from headstart.modalities.text.preprocessing import SKETCH, Encoded, TextPreprocessing
from headstart.modalities.text.texts import (
    PAIR,
    Text,
    clean,
    decoded,
    excerpt,
    is_text_name,
    joined_pair,
    read_text_file,
    text_digest,
    text_name,
)
from headstart.modalities.text.tokenizer import Tokenizer, uncased_tokenizer

__all__ = [
    "PAIR", "SKETCH", "Encoded", "LinePreprocessing", "Lines", "Text", "TextPreprocessing", "Tokenizer", "clean", "decoded", "excerpt",
    "is_text_name", "joined_pair", "read_text_file", "text_digest", "text_name", "uncased_tokenizer",
]  # fmt: skip
