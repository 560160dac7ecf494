"""Folders of images and masks: which picture is the mask of which image, by the names of folders and files alone.

Known are ``images/`` beside ``masks/`` (and other words for both), parts above or below them (``train/images``, ``images/train``), folders
of a part and of its masks (``train`` and ``trainannot``), Pascal VOC, and masks beside their images with a suffix (``1.jpg``,
``1_mask.png``).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from headstart.data.annotations import MASK, Annotations, Column, part_of
from headstart.data.class_lists import VOC, ClassList, find_class_list
from headstart.data.labels import shortened
from headstart.data.listing import Tree, below_folder
from headstart.data.masks import PictureMask
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.text import enumeration, plural, printable

MASK_WORDS = frozenset({
    "mask", "masks", "label", "labels", "lbl", "annotation", "annotations", "annot", "annots", "gt", "gts", "groundtruth", "groundtruths",
    "seg", "segs", "segmentation", "segmentations", "segmentationclass", "segmentationclassaug", "segmentationmasks", "segmasks", "segmap",
    "segmaps", "labelmap", "labelmaps", "labelids", "semantic", "pixellabels", "maskimages", "labelimages", "target", "targets",
})  # fmt: skip
IMAGE_WORDS = frozenset({
    "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "frame", "frames", "input", "inputs",
    "original", "originals", "originalimages", "rgb",
})  # fmt: skip
_OTHERS = re.compile(r"mask|label|annot|segment|instance|ground_?truth|overlay|visuali[sz]")  # pictures that are neither
_PART = "(?P<part>training|train|trn|validation|valid|val|testing|test|dev)"
_MASK_SUFFIX = re.compile(
    r"(?i)[\W_]+(masks?|gt|labels?|seg|segmentation|annotation|annot|groundtruth|ground_truth|labelids|gtfine_labelids)$"
)
_IN_MASK_FOLDER = re.compile(r"(?i)[\W_]+l$")  # as CamVid has it
_MASK_PREFIX = re.compile(r"(?i)^(mask|gt|label|seg)[\W_]+")
_IMAGE_AFFIX = re.compile(r"(?i)([\W_]+(sat|images?|img|rgb|leftimg8bit|photo|raw)$|^(image|img)[\W_]+)")
_MOST_MISSING = 0.5  # of the images may lack a mask
_SPLIT_FOLDERS = ("", "ImageSets/Segmentation", "splits", "split", "lists")
Key = tuple[str, tuple[str, ...], str]  # part, folders that say nothing of the role, stem


@dataclass(frozen=True)
class _Picture:
    path: str
    part: str
    rest: tuple[str, ...]
    role: str  # "mask", "image" or ""

    @property
    def stem(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]  # noqa: PTH119, PTH122 - called for every file

    def key(self, stem: str) -> Key:
        return self.part, self.rest, stem.casefold()


def role_of(folder: str) -> tuple[str, str | None]:
    """The role of a folder by its name, ``mask``, ``image`` or none, and the part that it names: ``train_masks``, ``trainannot``."""
    plain = re.sub(r"[\W_]+|(?<=\D)[0-9]+$", "", folder.casefold())
    if plain in MASK_WORDS or plain in IMAGE_WORDS:
        return ("mask" if plain in MASK_WORDS else "image"), None
    for found in (re.match(rf"{_PART}(?P<rest>.*)", plain), re.match(rf"(?P<rest>.*?){_PART}$", plain)):
        if found and (found["rest"] in MASK_WORDS or found["rest"] in IMAGE_WORDS):
            return ("mask" if found["rest"] in MASK_WORDS else "image"), part_of(found["part"])
    return "", part_of(folder)


def read_mask_folder(source: Path) -> Annotations | None:
    """Read images with their masks; None where nothing in the folder is the mask of something else.

    DataError where an image has two masks, most images have none, or names do not go together. An image without a mask is left out, and
    named.
    """
    root, tree = os.fspath(source), Tree()
    pictures = _placed(tree.collect(root), root)
    masks = [one for one in pictures if one.role == "mask"]
    images = [one for one in pictures if one.role != "mask"]
    beside = not masks
    if beside:
        images, masks = _with_suffixes(images)
    if not masks or not images:
        return None
    pairs = _pairs(images, masks)
    if not pairs or (beside and 4 * len(pairs) < len(images) + len(masks)):
        if not beside and any(one.role == "image" for one in images):
            raise DataError(_no_pairs(source, images, masks, root))
        return None
    notes = list[str]()
    top = os.path.commonpath([os.path.dirname(one.path) for one in (*images, *masks)])  # noqa: PTH120
    parts, listed = _listed_parts(Path(top), [one for one in images if one.path in pairs], notes)
    for file in listed:
        tree.passed.used("non-image file", str(file))
    images = [one for one in images if one.path in pairs or not _OTHERS.search(below_folder(one.path, root).casefold())]
    if not listed:
        _tell_missing(source, images, pairs, root, notes)
    _tell_unused(masks, pairs, root, notes)
    kept = [one for one in images if one.path in pairs and (not listed or one.path in parts)]
    kept.sort(key=lambda one: (("train", "", "val", "test").index(parts.get(one.path, one.part)), one.path))
    lists = _class_lists({pairs[one.path].path for one in kept}, Path(top), source)
    files: list[PictureMask] = [PictureMask(path := pairs[one.path].path, lists[os.path.dirname(path)]) for one in kept]  # noqa: PTH120
    folders = sorted({below_folder(os.path.dirname(file.path), root) or "." for file in files})  # noqa: PTH120
    named = sorted({one.source for one in lists.values() if one is not None and one.source != VOC.source})
    for name in named:
        tree.passed.used("non-image file", name)
    if named:
        notes.append(f"Classes of the masks: {enumeration([below_folder(name, root) for name in named])}.")
    return Annotations(
        images=tuple(Path(one.path) for one in kept),
        columns={MASK: Column(list(files), [file.cell for file in files], f"the masks in {shortened(folders, limit=3)}")},
        parts=[parts.get(one.path, one.part) for one in kept],
        source=str(source),
        root=Path(root),
        notes=notes + tree.passed.notes(root),
        learned=(),
    )


def _placed(paths: Sequence[str], root: str) -> list[_Picture]:
    """The pictures with what their folders say; none where no folder and no file is called like masks."""

    @cache
    def place(folder: str) -> tuple[str, tuple[str, ...], str]:
        role, part, rest = "", "", list[str]()
        for name in Path(folder).relative_to(root).parts:
            own, named = role_of(name)
            role, part = own or role, named or part
            if not own and named is None:
                rest.append(name)
        return part, tuple(rest), role

    split = [os.path.split(path) for path in paths]
    if not any(place(folder)[2] == "mask" for folder in {folder for folder, _ in split}) and not any(
        bare_stem(stem) != stem for stem in (name.rpartition(".")[0] for _, name in split)
    ):
        return []
    return [_Picture(path, *place(folder)) for path, (folder, _) in zip(paths, split, strict=True)]


def _with_suffixes(pictures: Sequence[_Picture]) -> tuple[list[_Picture], list[_Picture]]:
    """The images, and the masks that lie beside them and are called like them but for a suffix or prefix."""
    stems = {one.key(stem) for one in pictures for stem in (one.stem, _IMAGE_AFFIX.sub("", one.stem))}
    masks = [one for one in pictures if (bare := bare_stem(one.stem)) and bare != one.stem and one.key(bare) in stems]
    taken = {one.path for one in masks}
    return [one for one in pictures if one.path not in taken], masks


def bare_stem(stem: str) -> str:
    """The name of a mask without what says that it is one: ``1`` for ``1_mask``."""
    return _MASK_PREFIX.sub("", _MASK_SUFFIX.sub("", stem))


def _pairs(images: Sequence[_Picture], masks: Sequence[_Picture]) -> dict[str, _Picture]:
    """The mask of each image that has one, by the path of the image; DataError for an image with two."""
    exact, by_key, anywhere = defaultdict[Key, list[_Picture]](list), defaultdict[Key, list[_Picture]](list), Counter[Key]()
    for mask in masks:
        exact[mask.key(mask.stem)].append(mask)
        by_key[mask.key(_IN_MASK_FOLDER.sub("", bare_stem(mask.stem)))].append(mask)
    image_keys = Counter(("", one.rest, one.stem.casefold()) for one in images)
    for mask in masks:
        anywhere["", mask.rest, mask.stem.casefold()] += 1
    pairs: dict[str, _Picture] = {}
    for image in images:
        plain = image.key(_IMAGE_AFFIX.sub("", image.stem))
        whole: Key = ("", image.rest, image.stem.casefold())
        found = exact[image.key(image.stem)] or by_key[image.key(image.stem)] or by_key[plain]
        if not found and image.part and image_keys[whole] == 1:  # the parts are folders of images only
            found = exact[whole] or by_key[whole]
        if len(found) > 1:
            raise DataError(
                f"{printable(image.path)} has two masks: {enumeration([printable(one.path) for one in found])}. Move one of them away."
            )
        if found:
            pairs[image.path] = found[0]
    return pairs


def _no_pairs(source: Path, images: Sequence[_Picture], masks: Sequence[_Picture], root: str) -> str:
    names = [below_folder(one.path, root) for one in (next(one for one in images if one.role == "image"), masks[0])]
    return (
        f"{source}: no mask is called like an image. An image is {names[0]!r}, a mask {names[1]!r}: give a mask the name of its image, "
        "perhaps with _mask behind it."
    )


def _tell_missing(source: Path, images: Sequence[_Picture], pairs: Mapping[str, _Picture], root: str, notes: list[str]) -> None:
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


def _tell_unused(masks: Sequence[_Picture], pairs: Mapping[str, _Picture], root: str, notes: list[str]) -> None:
    used = {one.path for one in pairs.values()}
    unused = [below_folder(one.path, root) for one in masks if one.path not in used]
    if unused:
        names = enumeration(unused[:5], count=len(unused))
        notes.append(Warned(f"Passed over {plural(len(unused), 'mask')} without an image of that name: {names}."))


def _listed_parts(top: Path, images: Sequence[_Picture], notes: list[str]) -> tuple[dict[str, str], list[Path]]:
    """The part of each image, by path, that lists of names give (``train.txt``, ``ImageSets/Segmentation/val.txt``); and these lists.

    Folders that are called like parts come first. Images in no list are left out, and noted.
    """
    if any(one.part for one in images):
        return {}, []
    lists = next(filter(None, (_part_lists(top / folder) for folder in _SPLIT_FOLDERS)), {})
    by_stem = {one.stem: one.path for one in images}
    by_name = {os.path.basename(one.path): one.path for one in images}  # noqa: PTH119
    parts: dict[str, str] = {}
    for path, part in lists.items():
        unknown = list[str]()
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines())):
            names = [os.path.basename(text) for text in (line, line.split()[0])]  # noqa: PTH119
            there = next((found for name in names if (found := by_stem.get(name) or by_name.get(name))), None)
            if there is None:
                unknown.append(line)
            elif parts.setdefault(there, part) != part:
                raise DataError(f"{path}: {line!r} is also in the list of the part {parts[there]!r}. Keep it in one of them.")
        if unknown:
            notes.append(Warned(f"{path.name}: no image with a mask for {enumeration(unknown[:5], count=len(unknown))}."))
    if not parts:
        return {}, []
    notes.append(f"Parts from {enumeration([path.name for path in lists])} in {(next(iter(lists)).parent.name)!r}.")
    if left := len(images) - len(parts):
        notes.append(f"{plural(left, 'image')} in none of these lists: left out.")
    return parts, [*lists]


def _part_lists(folder: Path) -> dict[Path, str]:
    """The lists in a folder that are called like parts; one of training and validation together only where these are not there alone."""
    if not folder.is_dir():
        return {}
    found = {path: part for path in sorted(folder.glob("*.txt")) if (part := part_of(path.stem)) and path.stem.casefold() != "trainval"}
    if "train" not in found.values() and (folder / "trainval.txt").is_file():
        found = {folder / "trainval.txt": "train", **{path: part for path, part in found.items() if part == "test"}}
    return found if "train" in found.values() else {}


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
