"""Texts: a string in; pieces of words for a network and counts of n-grams out."""

from headstart.modalities.text.texts import PAIR, Text, is_text_name, joined_pair, read_text_file, text_digest, text_name

__all__ = ["PAIR", "Text", "is_text_name", "joined_pair", "read_text_file", "text_digest", "text_name"]
