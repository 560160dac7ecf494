"""Translation: what becomes of a text, as a text."""
