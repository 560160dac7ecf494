"""`read_dataset`: from whatever the user gave to a `Dataset`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headstart.data.annotations import Annotations, dataset_of, join
from headstart.data.arrays import read_npz
from headstart.data.dataset import Dataset, relative_name
from headstart.data.folders import LAYOUT, read_folder
from headstart.data.grouping import groups_from_names
from headstart.data.labels import read_labels, shortened
from headstart.data.lists import Columns, read_list
from headstart.data.named import PREFIXES, TORCHVISION, read_named
from headstart.data.tables import READERS
from headstart.errors import DataError, ParameterError, nearest
from headstart.modalities.image import is_image_name
from headstart.text import printable

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """How lists are read.

    Attributes:
        columns: which columns to use, where they are not recognised by name.
        label_separator: what separates several labels in one cell; found out by default; "" for never.
        image_root: the folder that the paths in a list are relative to; by default that of the list.
        allow_missing: pass over rows without a label or whose file is missing, with a note, instead of refusing the list.
    """

    columns: Columns = field(default_factory=Columns)
    label_separator: str | None = None
    image_root: str | os.PathLike[str] | None = None
    allow_missing: bool = False


def read_dataset(
    source: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    group_from: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    label_separator: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
    cache: str | os.PathLike[str] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Dataset:
    """Read labelled images. No image is opened, only names are read.

    Args:
        source: a folder (``DATA/CLASS/*`` or ``DATA/{train,val,test}/CLASS/*``), a list (.csv, .tsv, .jsonl, .parquet), a NumPy archive
            (.npz), or a public set by name (``torchvision:Flowers102``, ``hf:owner/name``), which is downloaded.
        test: separate test data, in any of these forms; their classes are matched by name.
        classes: the classes of a model, in its order: labels are matched with these by name, and others refused.
        group_from: a regular expression on each image's path below the data folder; images with the same first group (or whole match) stay
            on one side of every split.
        path_column: the column of a list that holds paths; like the next three, it is recognised by its name if not given.
        label_column: the column that holds labels.
        split_column: the column that says train, val or test.
        group_column: the column that says which images belong together.
        label_separator: what separates several labels in one cell of a list; found out by default; "" for never.
        image_root: the folder that the paths in a list are relative to; by default that of the list.
        allow_missing: pass over rows of a list without a label or whose file is missing, with a note, instead of refusing the list.
        cache: the folder for downloaded sets.
        announce: called with one line before a download; by default it is printed on stderr.

    Raises:
        DataError: the data cannot be read as labelled images; the message says what the layout must be, or names what came nearest.
        ParameterError: parameters that contradict each other, or a `group_from` that does not work.
        MissingExtraError: a public set needs an optional part of Headstart.
    """
    columns = Columns(path_column, label_column, split_column, group_column)
    lists = ListOptions(columns=columns, label_separator=label_separator, image_root=image_root, allow_missing=allow_missing)
    found = read_annotations(source, test=test, group_from=group_from, lists=lists, cache=cache, announce=announce)
    return dataset_of(found, read_labels(found, classes))


def read_annotations(
    source: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    group_from: str | None = None,
    lists: ListOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Annotations:
    """Read what the data say of each input, whatever the task; arguments and errors as of `read_dataset`."""
    lists = lists or ListOptions()
    if group_from is not None and lists.columns.group is not None:
        raise ParameterError(
            f"group_from={group_from!r} and group_column={lists.columns.group!r} both say what belongs together; give one of them"
        )

    def read(one: str | os.PathLike[str]) -> Annotations:
        text = os.fspath(one)
        if text.startswith(PREFIXES):
            return read_named(text, cache=None if cache is None else Path(cache), announce=announce)
        if not text.strip():
            raise DataError(f"the name of the data is empty; give a folder, a list or the name of a public set. {LAYOUT}")
        path = Path(text).expanduser()
        if path.is_dir():
            return read_folder(path)
        _check_file(path, text)
        if path.suffix.lower() == ".npz":
            return read_npz(path)
        root = None if lists.image_root is None else Path(lists.image_root).expanduser()
        return read_list(
            path, columns=lists.columns, image_root=root, label_separator=lists.label_separator, allow_missing=lists.allow_missing
        )

    found = read(source)
    if group_from is not None:
        _group(found, group_from)
    if test is not None:
        further = read(test)
        if group_from is not None:
            _group(further, group_from)
        found = join(found, further)
    return found


def _check_file(path: Path, text: str) -> None:
    """Refuse, in words, a path that is neither a folder nor a list.

    Raises:
        DataError: always, unless `path` is a file with the suffix of a list or a NumPy archive.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(_not_there(path, text))
    if not path.is_file():
        raise DataError(f"{text} is neither a folder nor a file. {LAYOUT}")
    if is_image_name(path.name):
        raise DataError(f"{text} is a single image; give the folder that holds the class folders. {LAYOUT}")
    if suffix in _ARCHIVES:
        raise DataError(f"{text} is an archive; unpack it, and give the folder. {LAYOUT}")
    if suffix not in READERS and suffix != ".npz":
        raise DataError(f"{text} is not a list that can be read; lists end in {', '.join([*READERS, '.npz'])}. {LAYOUT}")


def _not_there(path: Path, text: str) -> str:
    """Name what does exist nearest to a path that does not."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
    if scheme and "//" in text:
        return f"{text} is an address; data are read from folders and files only: download them first"
    if scheme:
        hint = (
            nearest(scheme.group(1), ("torchvision", "hf"))
            or f" Public sets are called torchvision:NAME ({shortened(list(TORCHVISION), limit=3)}) or hf:NAME."
        )
        return f"there is no file or folder {text!r}.{hint}"
    whole = path.absolute()
    above = next((folder for folder in whole.parents if folder.is_dir()), whole)
    wanted = whole.relative_to(above).parts[0] if whole != above else ""
    try:
        names = sorted(printable(entry.name) + "/" * entry.is_dir() for entry in os.scandir(above) if not entry.name.startswith("."))
    except OSError:
        names = []
    close = nearest(wanted, [name.rstrip("/") for name in names])
    return f"there is no file or folder {text!r}. {above} holds {shortened(names, limit=8)}.{close}"


def _group(found: Annotations, pattern: str) -> None:
    if isinstance(found.images, np.ndarray):
        raise ParameterError(f"group_from={pattern!r} works on file names, and {found.source} has none; give groups=... with the arrays")
    names = [relative_name(path, found.root) for path in found.images]
    replaced = found.groups is not None
    found.groups, note = groups_from_names(names, pattern)
    if replaced:
        found.notes.append(f"The groups of {found.source} are replaced by those from group_from={pattern!r}.")
    if note:
        found.notes.append(note)
