"""Folders of text files as data sets: ``DATA/CLASS/*.txt``, with the layouts that folders of images may have."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path

from headstart.data.annotations import Annotations, beside, part_of
from headstart.data.folders import read_folder
from headstart.data.listing import Tree
from headstart.data.tables import READERS, read_table
from headstart.data.text_lists import is_text_list, read_text_list
from headstart.errors import DataError, TextError
from headstart.modalities import TEXT
from headstart.modalities.image import is_image_name
from headstart.modalities.text import Text, is_text_name, read_text_file
from headstart.progress import Warned
from headstart.settings import ListOptions
from headstart.text import enumeration, unread

_LOOKED_AT = 5000  # files


def is_text_folder(folder: Path) -> bool:
    """Whether a folder holds text files in folders of their own and no images, as far as its first files tell."""
    texts = seen = 0
    waiting = [os.fspath(folder)]
    while waiting and seen < _LOOKED_AT:
        place = waiting.pop()
        with suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif is_image_name(entry.name):
                    return False
                elif not entry.name.startswith("."):
                    texts += place != os.fspath(folder) and is_text_name(entry.name)
                    seen += 1
    return bool(texts)


def read_text_folder(folder: Path) -> Annotations:
    """Read a folder of class folders with a text in each file; DataError where none can be read, or as of `read_folder`."""
    found = read_folder(folder, Tree(is_text_name, noun=TEXT.noun))
    root = found.root or folder
    texts, rows, refused = list[Text](), list[int](), list[TextError]()
    for row, text in enumerate(text_files(found.inputs, root)):
        if isinstance(text, TextError):
            refused.append(text)
        else:
            texts.append(text)
            rows.append(row)
    if not texts:
        raise DataError(f"none of the text files in {folder} can be read. The first: {next(iter(refused), '-')}")
    notes = [*found.notes, *([Warned(unread(refused, len(found.inputs), "are left out", noun=TEXT.noun))] if refused else [])]
    return replace(found.take(rows), inputs=tuple(texts), notes=notes, root=None, modality=TEXT)


def read_lists_of_parts(folder: Path, lists: ListOptions, *, known: Collection[str] = ()) -> Annotations | None:
    """Read lists of texts that are called like parts, such as ``train.csv`` and ``test.csv``; None where the folder holds no such."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.suffix.lower() in READERS)
    parts = {file: part for file in files if (part := part_of(file.stem))}
    if "train" not in parts.values():
        return None
    ordered = sorted(parts, key=lambda file: (parts[file] != "train", file.name))
    tables = {file: read_table(file) for file in ordered}
    if not is_text_list(tables[ordered[0]], lists):
        return None
    found = list[Annotations]()
    for file in ordered:
        one = read_text_list(file, lists, known=known, table=tables[file])
        named = [part or parts[file] for part in one.parts]
        texts = tuple(Text(text, f"{file.name} {text.name}") for text in one.inputs)
        found.append(replace(one, source=str(folder), parts=named, inputs=texts))
    whole = reduce(beside, found)
    return replace(whole, notes=[f"Read from {enumeration([file.name for file in ordered])}.", *dict.fromkeys(whole.notes)])


def text_files(paths: Iterable[Path], root: Path) -> Iterable[Text | TextError]:
    """The text in each file, called by the path relative to `root`, or why it cannot be read."""
    for path in paths:
        try:
            yield Text(read_text_file(path), Path(os.path.relpath(path, root)).as_posix())
        except TextError as error:
            yield error
