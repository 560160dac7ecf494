"""Folders of text files as data sets: ``DATA/CLASS/*.txt``, with the layouts that folders of images may have."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from headstart.data.annotations import Annotations
from headstart.data.folders import read_folder
from headstart.data.listing import Tree
from headstart.errors import DataError, TextError
from headstart.modalities import TEXT
from headstart.modalities.image import is_image_name
from headstart.modalities.text import Text, is_text_name, read_text_file
from headstart.progress import Warned
from headstart.text import unread

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


def text_files(paths: Iterable[Path], root: Path) -> Iterable[Text | TextError]:
    """The text in each file, called by the path relative to `root`, or why it cannot be read."""
    for path in paths:
        try:
            yield Text(read_text_file(path), Path(os.path.relpath(path, root)).as_posix())
        except TextError as error:
            yield error
