"""Inputs to predict: files, folders, lists, lines or texts as they are typed, and lists of them as Python programs give them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from headstart.data.listing import SYSTEM_NAMES, PassedOver, list_images, typed_path
from headstart.data.lists import read_paths
from headstart.data.tables import READERS
from headstart.data.text_lists import read_texts, text_parts
from headstart.data.values import checked_images, entries
from headstart.errors import DataError, TextError, nearest
from headstart.modalities import IMAGE, TEXT, Modality
from headstart.modalities.image import is_image_name
from headstart.modalities.text import Text, clean, is_text_name, read_text_file
from headstart.progress import Listener
from headstart.settings import ListOptions
from headstart.text import plural

_LOOKED_AT = 50  # inputs

STDIN = "-"
"""Stands for standard input, of which each line is a text."""


@dataclass(frozen=True)
class Given:
    """Inputs, and what to call each in tables."""

    inputs: Sequence[Any]
    names: Sequence[Any]

    @classmethod
    def of(cls, modality: Modality, typed: Sequence[str], lists: ListOptions, listener: Listener, *, lines: bool = False) -> Given:
        """The inputs that are meant by what was typed; with `lines`, each line of a text file is an input of its own.

        Images are paths, folders at any depth and lists of paths. Texts are lists with a text column, files and folders of files, ``-`` for
        the lines of standard input, and sentences as they stand. DataError where nothing is there, or nothing is meant.
        """
        return _TYPED[modality.name](typed, lists, listener, lines)


def entries_of(
    modality: Modality, sources: Sequence[str | Path], lists: ListOptions, passed: PassedOver
) -> Iterator[tuple[str, str]] | None:
    """What a job of any length writes down of inputs that are not files of their own: an entry for each, and its name; None for paths.

    `input_of` makes the input of an entry again. A text is read a few rows at a time.
    """
    return None if modality.name not in _ENTRIES else _ENTRIES[modality.name](sources, lists, passed)


def are_files(modality: Modality) -> bool:
    """Whether each input is a file of its own, so that its path stands for it."""
    return modality.name not in _ENTRIES


def input_of(modality: Modality, entry: str) -> tuple[Any, Any]:
    """The input of an entry, and what it is called in tables."""
    if are_files(modality):
        return Path(entry), Path(entry)
    name, _, text = entry.partition(_FIELD)
    return Text(text, name), name.removeprefix("row ").removeprefix("line ")


_FIELD = "\x1f"  # ASCII's unit separator, between the name and the text of an entry


def _text_entries(sources: Sequence[str | Path], lists: ListOptions, passed: PassedOver) -> Iterator[tuple[str, str]]:
    alone = len(sources) == 1
    for source in sources:
        path = Path(source)
        if _is_list(path):
            parts: Iterable[Iterable[Text]] = text_parts(path, lists)
        elif str(source) == STDIN:
            parts = [[Text(clean(line.removesuffix("\n")), f"line {number}")] for number, line in enumerate(sys.stdin, 1)]
        elif os.path.lexists(path):
            parts = [_of_files(path, lines=False, listener=Listener())]
        else:
            _check_sentence(str(source))
            raise DataError(f"{source}: no such file or folder. A batch job takes lists, text files and folders of these.")
        for part in parts:
            for text in part:
                name = text.name if alone else f"{source}:{text.name}"
                yield f"{name}{_FIELD}{text.replace(_FIELD, ' ')}", f"{name}{_FIELD}{text}"


_ENTRIES: dict[str, Callable[[Sequence[str | Path], ListOptions, PassedOver], Iterator[tuple[str, str]]]] = {TEXT.name: _text_entries}


def checked_inputs(modality: Modality, values: Any, *, name: str = "images") -> Any:
    """The inputs of a program, a list or an array; DataError for what is none of them, or for a single one."""
    return _CHECKED[modality.name](values, name=name)


def modality_of(values: Any) -> Modality:
    """What the inputs of a program are: texts where all are strings of which none is called like an image or is a file, else images."""
    if isinstance(values, str | bytes | os.PathLike) or not hasattr(values, "__len__") or not len(values):
        return IMAGE
    some = list(islice(iter(values.tolist() if hasattr(values, "tolist") else values), _LOOKED_AT))
    texts = all(isinstance(one, str) and not is_image_name(one.strip()) for one in some) and not any(map(_is_file, some))
    return TEXT if texts else IMAGE


def _is_file(text: str) -> bool:
    try:
        return len(text) < 4096 and os.path.isfile(text)  # noqa: PTH113 - a text may hold a zero byte
    except ValueError:
        return False


def checked_texts(texts: Any, *, name: str = "texts") -> list[str]:
    """Texts as a list; DataError for a single one, or where something else is among them."""
    if isinstance(texts, str | bytes):
        raise DataError(f"{name} must be a list of texts, got a single one. Put it into a list: [text].")
    found = list(entries(texts, name))
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise DataError(f"{name}[{index}] must be a text, got {type(text).__name__}: {repr(text)[:80]}. Give strings.")
    return [text if isinstance(text, Text) else str(text) for text in found]


def _typed_images(typed: Sequence[str], lists: ListOptions, listener: Listener, lines: bool) -> Given:
    paths = [path for given in map(typed_path, typed) for path in (read_paths(given, lists, listener) if _is_list(given) else [given])]
    found = list_images(paths, listener)
    return Given(found, found)


def _typed_texts(typed: Sequence[str], lists: ListOptions, listener: Listener, lines: bool) -> Given:
    found = list[Text]()
    names = list[str]()
    alone = len(typed) == 1
    for given in typed:
        path = Path(given)
        if given == STDIN:
            some, called = _lines(sys.stdin.read()), ""
        elif len(given) < 4096 and _is_list(path) and not (lines and is_text_name(path.name)):
            some, called = list(read_texts(path, lists)), given
        elif len(given) < 4096 and os.path.lexists(path):
            some, called = _of_files(path, lines=lines, listener=listener), given if lines else ""
        else:
            _check_sentence(given)
            some, called = [Text(given, f"text {len(found) + 1}")], ""
            names.append(str(len(found) + 1))
            found += some
            continue
        numbered = [one.name.removeprefix("row ").removeprefix("line ") for one in some]
        names += numbered if alone or not called else [f"{called}:{number}" for number in numbered]
        found += some
    return Given(found, names)


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in READERS and path.is_file()


def _lines(text: str) -> list[Text]:
    return [Text(line, f"line {number}") for number, line in enumerate(text.removesuffix("\n").split("\n"), 1)]


def _of_files(path: Path, *, lines: bool, listener: Listener) -> list[Text]:
    """The text in a file, or in each text file below a folder; DataError where there is none that can be read."""
    files, refused = [path], list[TextError]()
    if path.is_dir():
        below = sorted(one for one in path.rglob("*") if one.is_file() and one.name.lower() not in SYSTEM_NAMES and one.name[0] != ".")
        files = [one for one in below if is_text_name(one.name)]
        if not files:
            raise DataError(f"{path}: no text files (.txt) at any depth below this folder.")
        if len(files) < len(below):
            listener.say(f"Passed over {plural(len(below) - len(files), 'file')} in {path} that are not called like text files.")
    found = list[Text]()
    for file in files:
        try:
            text = read_text_file(file)
        except TextError as error:
            if not path.is_dir():
                raise DataError(str(error)) from None
            refused.append(error)
            continue
        found += _lines(text) if lines else [Text(text, str(file))]
    for one in refused:
        listener.left_out(f"Left out: {one}")
    return found


def _check_sentence(text: str) -> None:
    """Refuse what was rather meant for a file that is not there."""
    if not text.strip():
        raise DataError("the text is empty (an unset variable of the shell?). Give a sentence in quotes, a list or '-' for standard input.")
    path = Path(text)
    looks_like_file = " " not in text and len(text) < 256 and (path.suffix.lower() in (*READERS, ".txt") or text.count("/") > 0)
    if looks_like_file:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{text}: no such file or folder.{nearest(path.name, beside)} A sentence has a space in it, or goes through '-'.")


_TYPED: dict[str, Callable[[Sequence[str], ListOptions, Listener, bool], Given]] = {IMAGE.name: _typed_images, TEXT.name: _typed_texts}
_CHECKED: dict[str, Callable[..., Any]] = {IMAGE.name: checked_images, TEXT.name: checked_texts}
