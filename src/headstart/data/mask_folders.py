"""Folders of images and masks: which picture is the mask of which image, by the names of folders and files alone.

Known are ``images/`` beside ``masks/`` (and other words for both), parts above or below them (``train/images``, ``images/train``), folders
of a part and of its masks (``train`` and ``trainannot``), Pascal VOC, and masks beside their images with a suffix (``1.jpg``,
``1_mask.png``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from headstart.data.annotations import MASK, Annotations, Column
from headstart.data.class_lists import MOST, VOC, ClassList, find_class_list
from headstart.data.labels import shortened
from headstart.data.listing import Tree, below_folder
from headstart.data.mask_names import Picture, masks_beside, pairs, placed
from headstart.data.masks import PictureMask
from headstart.data.part_lists import listed_parts
from headstart.errors import DataError, ImageError
from headstart.modalities.image.values import read_values
from headstart.progress import Warned
from headstart.text import enumeration, plural

_OTHERS = re.compile(r"mask|label|annot|segment|instance|ground_?truth|overlay|visuali[sz]")  # pictures that are neither
_LOOKED_AT = 3  # pictures, where folders do not say which are images
_MOST_MISSING = 0.5  # of the images may lack a mask
_SPLIT_FOLDERS = ("", "ImageSets/Segmentation", "splits", "split", "lists", "annotations")


def read_mask_folder(source: Path) -> Annotations | None:
    """Read images with their masks; None where nothing in the folder is the mask of something else.

    DataError where an image has two masks, most images have none, or names do not go together. An image without a mask is left out, and
    named.
    """
    root, tree = os.fspath(source), Tree()
    pictures = placed(tree.collect(root), root)
    masks = [one for one in pictures if one.role == "mask"]
    images = [one for one in pictures if one.role != "mask"]
    beside = not masks
    if beside:
        images, masks = masks_beside(images)
    if not masks or not images:
        return None
    found = pairs(images, masks)
    if not found or (beside and 4 * len(found) < len(images) + len(masks)):
        if not beside and any(one.role == "image" for one in images):
            raise DataError(_no_pairs(source, images, masks, root))
        return None
    if not any(one.role == "image" for one in images) and not _look_like_masks([one.path for one in found.values()]):
        return None
    notes = list[str]()
    top = os.path.commonpath([os.path.dirname(one.path) for one in (*images, *masks)])  # noqa: PTH120
    paired = [one for one in images if one.path in found]
    parts, listed = dict[str, str](), list[Path]()
    if not any(one.part for one in paired):  # folders that are called like parts come first
        parts, listed = listed_parts((Path(top) / one for one in _SPLIT_FOLDERS), [one.path for one in paired], "a mask", notes)
    for file in listed:
        tree.passed.used("non-image file", str(file))
    images = [one for one in images if one.path in found or not _OTHERS.search(below_folder(one.path, root).casefold())]
    if not listed:
        _tell_missing(source, images, found, root, notes)
    _tell_unused(masks, found, root, notes)
    kept = [one for one in images if one.path in found and (not listed or one.path in parts)]
    kept.sort(key=lambda one: (("train", "", "val", "test").index(parts.get(one.path, one.part)), one.path))
    lists = _class_lists({found[one.path].path for one in kept}, Path(top), source)
    files: list[PictureMask] = [PictureMask(path := found[one.path].path, lists[os.path.dirname(path)]) for one in kept]  # noqa: PTH120
    folders = sorted({below_folder(os.path.dirname(file.path), root) or "." for file in files})  # noqa: PTH120
    named = sorted({one.source for one in lists.values() if one is not None})
    for name in named:
        tree.passed.used("non-image file", name)
    if named:
        notes.append(f"Classes of the masks: {enumeration([below_folder(name, root) for name in named])}.")
    return Annotations(
        inputs=tuple(Path(one.path) for one in kept),
        columns={MASK: Column(list(files), [file.cell for file in files], f"the masks in {shortened(folders, limit=3)}")},
        parts=[parts.get(one.path, one.part) for one in kept],
        source=str(source),
        root=Path(root),
        notes=notes + tree.passed.notes(root),
        learned=(),
        reason=f"{source} holds images with masks, and nothing says which class an image as a whole has.",
    )


def _look_like_masks(paths: Sequence[str]) -> bool:
    """Whether one of the first pictures has few values, or cannot be decoded, which is told later; photographs have many."""
    for path in paths[:_LOOKED_AT]:
        try:
            picture = read_values(path)
        except ImageError:
            return True
        if not picture.coloured or len(np.unique(picture.array)) <= MOST:
            return True
    return False


def _no_pairs(source: Path, images: Sequence[Picture], masks: Sequence[Picture], root: str) -> str:
    names = [below_folder(one.path, root) for one in (next(one for one in images if one.role == "image"), masks[0])]
    return (
        f"{source}: no mask is called like an image. An image is {names[0]!r}, a mask {names[1]!r}: give a mask the name of its image, "
        "perhaps with _mask behind it."
    )


def _tell_missing(source: Path, images: Sequence[Picture], pairs: Mapping[str, Picture], root: str, notes: list[str]) -> None:
    masked = {one.part for one in images if one.path in pairs}
    for part in sorted({one.part for one in images} - masked):
        without = sum(one.part == part for one in images)
        notes.append(Warned(f"Left out the part {part!r}: none of its {plural(without, 'image')} has a mask."))
    images = [one for one in images if one.part in masked]
    missing = [below_folder(one.path, root) for one in images if one.path not in pairs]
    if missing and any(_is_voc(os.path.dirname(one.path)) for one in pairs.values()):  # noqa: PTH120
        notes.append(f"Left out {plural(len(missing), 'image')} without a mask: Pascal VOC has masks of some images only.")
        return
    if len(missing) > _MOST_MISSING * len(images):
        raise DataError(
            f"{source}: {len(missing)} of {len(images)} images have no mask, for example {enumeration(missing[:5])}. Add the masks, each "
            "with the name of its image, or move the images away."
        )
    if missing:
        names = enumeration(missing[:5], count=len(missing))
        notes.append(Warned(f"Left out {plural(len(missing), 'image')} without a mask: {names}."))


def _tell_unused(masks: Sequence[Picture], pairs: Mapping[str, Picture], root: str, notes: list[str]) -> None:
    used = {one.path for one in pairs.values()}
    unused = [below_folder(one.path, root) for one in masks if one.path not in used]
    if unused:
        names = enumeration(unused[:5], count=len(unused))
        notes.append(Warned(f"Passed over {plural(len(unused), 'mask')} without an image of that name: {names}."))


def _class_lists(paths: Iterable[str], top: Path, source: Path) -> dict[str, ClassList | None]:
    """The list of classes for each folder of masks: in it, or in the nearest folder above it, up to the one that the user gave."""
    found: dict[str, ClassList | None] = {}
    for folder in {os.path.dirname(path) for path in paths}:  # noqa: PTH120
        above = [Path(folder), *Path(folder).parents]
        up_to = above.index(source) if source in above else len(Path(folder).parts) - len(top.parts)
        found[folder] = find_class_list(above[: up_to + 1])
        if found[folder] is None and _is_voc(folder):
            found[folder] = VOC
    return found


def _is_voc(folder: str) -> bool:
    return os.path.basename(folder).casefold().startswith("segmentationclass")  # noqa: PTH119
