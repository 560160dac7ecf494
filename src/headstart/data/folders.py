"""Folders as data sets: ``DATA/CLASS/*`` and ``DATA/{train,val,test}/CLASS/*``, images found at any depth below a class."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from headstart.data.annotations import LABEL, Annotations, Column, part_of
from headstart.data.labels import natural_order, shortened
from headstart.data.listing import Tree, below_folder, first_names, folder_name, identity
from headstart.errors import DataError, setting
from headstart.modalities.image import is_image_name
from headstart.progress import Warned
from headstart.text import enumeration, plural, printable

LAYOUT = (
    "The layout must be DATA/CLASS/image.jpg or DATA/train/CLASS/image.jpg (beside train also val and test), "
    "with one folder for each class; or give a CSV list with the columns path and label."
)
NO_CLASSES = frozenset({
    "pred", "preds", "predict", "prediction", "predictions", "infer", "inference", "unlabeled", "unlabelled", "unsorted",
})  # fmt: skip
"""Folders that hold images to be predicted; one of these beside classes is read as a class, and told to be."""


_BESIDE = (".xml", ".json", ".txt")  # of annotations, each named as its image, or one of all
_MAX_DESCENT = 5
_RANK = {"train": 0, "": 0, "val": 1, "test": 2}  # in this order images are listed
Row = tuple[str, str, str]  # part, class, path


def read_folder(source: Path, tree: Tree | None = None) -> Annotations:
    """Read a folder of class folders; DataError where it holds no images, images without class folders, or a folder that is unreadable.

    The `tree` says which files are inputs, by default images.
    """
    tree = tree or Tree()
    notes: list[str] = []
    root = descend(tree, os.fspath(source), notes)
    parts = _part_folders(tree, root, notes)
    reason = _unlabelled(tree, [(one.part, one.inner) for one in parts] or [("", root)])
    if reason:
        return _read_unlabelled(tree, source, root, parts, reason, notes)
    if parts:
        outer = [one.folder for one in parts]
        rows = [row for one in parts for row in _read_classes(tree, one.inner, one.part, notes, above=[root], without=outer)]
        _note_part_folders(tree, root, parts, notes)
        _note_deeper_classes(tree, parts, notes)
    else:
        rows = _parts_below_classes(root, _read_classes(tree, root, "", notes), notes)
        if not any(part for part, _, _ in rows):
            _note_deeper_classes(tree, [_Part("", root, root)], notes)
            _note_classes_like_parts(natural_order(label for _, label, _ in rows), notes)
    if tree.unreadable:
        raise DataError(
            f"{plural(len(tree.unreadable), 'folder')} cannot be read, so that images would be missing: "
            f"{shortened([printable(folder) for folder in sorted(tree.unreadable)], limit=3)}. Check the permissions, or move it away."
        )
    if not rows:
        raise DataError(_nothing_found(tree, root, source))
    order = {name: i for i, name in enumerate(natural_order(label for _, label, _ in rows))}
    rows.sort(key=lambda row: (_RANK[row[0]], order[row[1]], row[2]))
    return Annotations.labelled(
        tuple(Path(path) for _, _, path in rows),
        [label for _, label, _ in rows],
        origin="the names of the folders",
        parts=[part for part, _, _ in rows],
        source=str(source),
        root=Path(root),
        notes=notes + tree.passed.notes(root),
    )


def _unlabelled(tree: Tree, folders: Iterable[tuple[str, str]]) -> str:
    """Why there are no labels to learn from, where images lie directly in one of the folders (part, path) to learn from; else nothing."""
    for part, folder in folders:
        direct = tree.listing(folder)[1]
        if direct and part in ("train", "") and not _with_images(tree, folder):
            lie = f"{plural(len(direct), tree.noun)} lie{'s' * (len(direct) == 1)} directly in {printable(folder)}"
            return f"{lie}, and there are no class folders with {tree.noun}s in it. {LAYOUT}"
    return ""


def _read_unlabelled(tree: Tree, source: Path, root: str, parts: list[_Part], reason: str, notes: list[str]) -> Annotations:
    """Images of which nothing is said, in parts or not; beside them those of class folders of another part, with their labels."""
    rows = list[tuple[str, str | None, str]]()
    for part, folder in [(one.part, one.inner) for one in parts] or [("", root)]:
        rows += [(part, None, path) for path in tree.listing(folder)[1]]
        for below in tree.listing(folder)[0] if parts else ():
            rows += [(part, folder_name(below), path) for path in tree.collect(below, above=[root, folder])]
    rows.sort(key=lambda row: (_RANK[row[0]], row[1] or "", row[2]))
    labels: list[Any] = [label for _, label, _ in rows]
    column = Column(labels, [label or "" for label in labels], "the names of the folders")
    if parts:
        _note_part_folders(tree, root, parts, notes)
    return Annotations(
        inputs=tuple(Path(path) for _, _, path in rows),
        columns={LABEL: column} if any(labels) else {},
        parts=[part for part, _, _ in rows],
        source=str(source),
        root=Path(root),
        notes=notes + tree.passed.notes(root),
        learned=(),
        reason=reason,
    )


def is_unlabelled(data: str | Path) -> bool:
    """Whether this is a folder of images that has no folders in it, nor a file for each image or for all that says what they show."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        return False
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    images = {entry.stem for entry in entries if is_image_name(entry.name)}
    beside = (entry for entry in entries if entry.suffix.lower() in _BESIDE and (entry.stem in images or entry.suffix.lower() == ".json"))
    return bool(images) and not any(entry.is_dir() for entry in entries) and next(beside, None) is None


def descend(tree: Tree, start: str, notes: list[str]) -> str:
    """Step into a folder that holds nothing but one folder of folders, as unpacked archives often have it."""
    root = start
    folders, images = tree.listing(root)
    if tree.unreadable:
        raise DataError(f"the folder {printable(tree.unreadable[0])} cannot be read; check its permissions")
    for _ in range(_MAX_DESCENT):
        if images or len(folders) != 1 or part_of(folder_name(folders[0])):
            break
        below, images = tree.listing(folders[0])
        if images or not below or identity(folders[0]) == identity(root):
            break
        root, folders = folders[0], below
    if root != start:
        notes.append(f"Read from {below_folder(root, start)!r}, the only folder in {printable(start)}.")
    return root


class _Part(NamedTuple):
    """A folder of a part, and the folder in it that holds the class folders, mostly the same."""

    part: str
    folder: str
    inner: str


def _part_folders(tree: Tree, root: str, notes: list[str]) -> list[_Part]:
    """Return the folders in `root` that are parts; an empty list if they are classes.

    Beside other folders, one that is called like a part is a part if it holds folders of classes; a class may be called "train", too. The
    others are then passed over, but where there is no training part and they have the names of its classes: they are the training part.
    DataError where only the part to test on is called so.
    """
    folders = [folder for folder in tree.listing(root)[0] if tree.collect(folder, above=[root])]
    by_name = {folder: part for folder in tree.listing(root)[0] if (part := part_of(folder_name(folder)) or _part_within(tree, folder))}
    begun = {folder: part for folder in folders if (part := _begins_as_part(folder_name(folder)))}
    if len(begun) == len(folders) > len(by_name) and len({*begun.values()}) > 1 and all(_with_images(tree, one) for one in folders):
        by_name = begun  # train_crops and test_crops
    named = [_Part(part, folder, _inside(tree, folder, part)) for folder, part in by_name.items()]
    others = [folder for folder in folders if folder not in by_name]
    if not others:
        return _below_one_folder(tree, named, notes)
    parts = {one.part: one for one in named if len(_with_images(tree, one.inner)) > 1}
    if not parts:
        return []
    if "train" not in parts:
        first = next(iter(parts.values()))
        if {*map(folder_name, others)} & {*map(folder_name, _with_images(tree, first.inner))}:
            notes.append(
                f"The folders beside {folder_name(first.folder)!r} are read as the training part: {shortened([*map(folder_name, others)])}."
            )
            return [_Part("train", root, root), *named]
        beside, test = shortened([*map(folder_name, others)]), setting("test", printable(first.folder))
        raise DataError(
            f"{printable(root)} holds the part {first.part!r} and none that is called train; beside it: {beside}. "
            f"If the training images are there, give {printable(others[0])!r} as the data, with {test}."
        )
    return named


def _begins_as_part(name: str) -> str | None:
    return part_of(re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", name.strip())[0])


def _part_within(tree: Tree, folder: str) -> str | None:
    """The part that the only folder in a folder is, as archives unpack: ``train_zip/train/CLASS/*``."""
    below, images = tree.listing(folder)
    return part_of(folder_name(below[0])) if len(below) == 1 and not images and _with_images(tree, below[0]) else None


def _inside(tree: Tree, folder: str, part: str) -> str:
    """The folder of a part; where archives were unpacked into folders of their own names, the inner one."""
    folders, images = tree.listing(folder)
    return folders[0] if not images and len(folders) == 1 and part_of(folder_name(folders[0])) == part else folder


def _below_one_folder(tree: Tree, parts: list[_Part], notes: list[str]) -> list[_Part]:
    """Step into the folder between parts and classes where each part holds nothing else: ``train/images/CLASS/*``."""
    below = [tree.listing(one.inner) for one in parts]
    if all(len(folders) == 1 and not images and not tree.listing(folders[0])[1] for folders, images in below):
        inner = [folders[0] for folders, _ in below]
        if len({*map(folder_name, inner)}) == 1 and all(_with_images(tree, folder) for folder in inner):
            notes.append(
                f"Read from {folder_name(inner[0])!r}, the only folder in {enumeration([repr(folder_name(one.folder)) for one in parts])}."
            )
            return [one._replace(inner=folder) for one, folder in zip(parts, inner, strict=True)]
    return parts


def _with_images(tree: Tree, folder: str) -> list[str]:
    """The folders in a folder that hold images at any depth."""
    return [below for below in tree.listing(folder)[0] if tree.collect(below, above=[folder])]


def _read_classes(
    tree: Tree, folder: str, part: str, notes: list[str], *, above: Iterable[str] = (), without: Collection[str] = ()
) -> list[Row]:
    folders, direct = tree.listing(folder)
    found = {one: tree.collect(one, above=[*above, folder]) for one in folders if one not in without}
    rows = [(part, folder_name(class_folder), path) for class_folder, paths in found.items() for path in paths]
    empty = [folder_name(class_folder) for class_folder, paths in found.items() if not paths]
    where = f"{folder_name(folder)}/" if part else "the data folder"
    if direct:
        notes.append(_passed_directly(direct, where, tree.noun))
    if empty:
        notes.append(f"No {tree.noun}s in {len(empty)} class folder{'s' * (len(empty) > 1)} of {where}: {shortened(natural_order(empty))}.")
    return rows


def _passed_directly(images: list[str], where: str, noun: str) -> str:
    names = first_names([*map(folder_name, images)], len(images))
    return Warned(f"Passed over {plural(len(images), noun)} directly in {where}, where no class folder says what they show: {names}.")


def _note_part_folders(tree: Tree, root: str, parts: list[_Part], notes: list[str]) -> None:
    for part in dict.fromkeys(one.part for one in parts):
        same = [folder_name(one.folder) for one in parts if one.part == part]
        if len(same) > 1:
            notes.append(f"The folders {' and '.join(map(repr, same))} are read as one part, {part!r}.")
    folders = [one.folder for one in parts]
    if root in folders:
        return
    others = [folder for folder in tree.listing(root)[0] if folder not in folders]
    count = sum(len(tree.collect(folder, above=[root])) for folder in others)
    if count:
        beside = shortened([*map(folder_name, folders)])
        notes.append(
            Warned(f"Passed over {plural(count, tree.noun)} in {shortened([*map(folder_name, others)])}, which are beside {beside}.")
        )
    direct = tree.listing(root)[1]
    if direct:
        notes.append(_passed_directly(direct, "the data folder", tree.noun))


def _note_classes_like_parts(classes: list[str], notes: list[str]) -> None:
    """Point out classes that are called like parts, or like images that are to be predicted."""
    begun = {name: _begins_as_part(name) for name in classes}
    several = len({*begun.values()} - {None}) > 1
    like = [name for name in classes if part_of(name) or name.casefold() in NO_CLASSES or (several and begun[name])]
    if like:
        told = Warned if like != ["train"] else str
        notes.append(
            told(
                f"Read as {'classes' if len(like) > 1 else 'a class'}: {shortened(like)}, with images in the folder and no folders of "
                f"classes. If that is not what it is, move it away, and give images to test on with {setting('test', 'DIR')}."
            )
        )


def _parts_below_classes(root: str, rows: list[Row], notes: list[str]) -> list[Row]:
    """Recognise ``DATA/CLASS/{train,test}/*``: every image lies in such a folder, and there is more than one part."""
    pieces = [Path(path).relative_to(root).parts for _, _, path in rows]
    parts = [part_of(names[1]) if len(names) > 2 else None for names in pieces]
    named = {part for part in parts if part is not None}
    if None in parts or len(named) < 2:
        return rows
    notes.append(f"The folders inside the classes name the parts: {shortened(sorted(named))}.")
    return [(part or "", label, path) for part, (_, label, path) in zip(parts, rows, strict=True)]


def _note_deeper_classes(tree: Tree, parts: list[_Part], notes: list[str]) -> None:
    """Point out classes that hold no images themselves, only folders: these may be the classes, or parts, that were meant."""
    training, *others = sorted(parts, key=lambda one: one.part not in ("train", ""))
    part_folders = [one.folder for one in others]
    inside = [folder for folder in tree.listing(training.inner)[0] if folder not in part_folders]
    folders = [folder for folder in inside if tree.collect(folder, above=[training.inner])]
    deep = {folder: _with_images(tree, folder) for folder in folders if not tree.listing(folder)[1]}
    deep = {folder: below for folder, below in deep.items() if below}
    if all(len(below) == 1 for below in deep.values()) and len({folder_name(below[0]) for below in deep.values()}) == 1:
        return  # CLASS/images/*, say
    folder, below = max(deep.items(), key=lambda item: len(item[1]), default=("", []))
    if below:
        names = shortened([folder_name(one) for one in deep], limit=4)
        inner = shortened(natural_order(map(folder_name, below)), limit=4)
        same = next((test for one in others if os.path.isdir(test := os.path.join(one.inner, os.path.basename(folder)))), None)  # noqa: PTH112, PTH118, PTH119
        tested = f", with {setting('test', printable(same))}" if same else ""
        notes.append(
            Warned(
                f"Read as the class{'es' * (len(deep) > 1)} {names}, which hold{'s' * (len(deep) == 1)} folders and no images directly. "
                f"{folder_name(folder)!r} holds the folders {inner}: if those are the classes that you mean, "
                f"give the folder {printable(folder)!r}{tested}."
            )
        )


def _nothing_found(tree: Tree, root: str, source: Path) -> str:
    met = tree.passed.notes(root)
    if not met and not tree.listing(root)[0]:
        return f"the folder {printable(str(source))} is empty. {LAYOUT}"
    return f"there are no {tree.noun}s in {printable(str(source))} or below it. {' '.join(met)}{' ' if met else ''}{LAYOUT}"
