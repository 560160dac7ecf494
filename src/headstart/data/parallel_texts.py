"""Folders of parallel texts: ``train.en`` and ``train.de`` hold a text and its translation in the same line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.data.annotations import Annotations, Column, part_of
from headstart.data.translations import LANGUAGES, TRANSLATION
from headstart.errors import DataError, TextError, nearest, setting
from headstart.modalities import TEXT
from headstart.modalities.text import Text, clean, read_text_file
from headstart.settings import ListOptions
from headstart.text import enumeration, plural


def read_parallel_folder(path: Path, lists: ListOptions) -> Annotations | None:
    """Read the pairs of files in a folder that are called alike but for the language at the end; None where there is none.

    English is translated into the other language, and otherwise the first by name; ``text`` of the options' columns names another. Files
    called like parts are these. DataError for more than two languages, and for two files of different length.
    """
    files = {(file.stem, _language(file)): file for file in path.iterdir() if _language(file) in LANGUAGES and file.is_file()}
    languages = sorted({language for _, language in files})
    stems = sorted({stem for stem, _ in files})
    if len(languages) < 2 or not any(all((stem, language) in files for language in languages[:2]) for stem in stems):
        return None
    if len(languages) > 2:
        raise DataError(f"{path}: a translation is between two languages, and the files are in {', '.join(languages)}. Keep those of two.")
    source, target = _direction(languages, lists.columns or {}, path)
    notes, inputs, values, parts = list[str](), list[Text](), list[Any](), list[str]()
    empty = 0
    for stem in stems:
        if any((stem, language) not in files for language in languages):
            notes.append(f"Passed over {stem}: it is there in one of the two languages only.")
            continue
        texts, translations = (_lines(files[stem, language]) for language in (source, target))
        if len(texts) != len(translations):
            counts = f"{len(texts)} lines in {stem}.{source} and {len(translations)} in {stem}.{target}"
            raise DataError(f"{path}: {counts}. Each line must be the translation of the same line of the other file.")
        for number, (text, translation) in enumerate(zip(texts, translations, strict=True), 1):
            if not text.strip() or not translation.strip():
                empty += 1
                continue
            inputs.append(Text(text, f"{stem}.{source} line {number}"))
            values.append(translation)
            parts.append(part_of(stem) or "")
    if any(parts):
        parts = [part or "train" for part in parts]
    if not inputs:
        raise DataError(f"{path}: no line has both a text and a translation")
    swap = setting("columns", {"text": target})
    notes.append(f"Files of {enumeration(stems)}: {target!r} is taken as the translation of {source!r}; {swap} for the reverse.")
    if empty:
        notes.append(f"Passed over {plural(empty, 'line')} without a text or a translation.")
    column = Column(values, [(source, target)] * len(values), f"the files *.{target} in {path}")
    return Annotations(
        inputs=tuple(inputs), columns={TRANSLATION: column}, parts=parts, source=str(path), root=path, notes=notes, learned=(),
        reason=f"{path} has texts and their translations, and no labels.", modality=TEXT,
    )  # fmt: skip


def _language(file: Path) -> str:
    return file.suffix.removeprefix(".").lower()


def _direction(languages: list[str], given: Mapping[str, str], path: Path) -> tuple[str, str]:
    first, second = sorted(languages, key=lambda language: (language != "en", language))
    for role, place in (("text", 0), (TRANSLATION, 1)):
        if (named := given.get(role)) is not None:
            if named not in languages:
                raise DataError(f"{path} has no files in {named!r}. Languages found: {', '.join(languages)}.{nearest(named, languages)}")
            first, second = (named, *(one for one in languages if one != named))[:: -1 if place else 1]
    return first, second


def _lines(file: Path) -> list[str]:
    try:
        text = read_text_file(file)
    except TextError as error:
        raise DataError(str(error)) from None
    return [clean(line.removesuffix("\r")) for line in text.removesuffix("\n").split("\n")]
