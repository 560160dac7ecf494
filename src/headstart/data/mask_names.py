"""Which picture is the mask of which image, by the names of folders and files alone."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from headstart.data.annotations import part_of
from headstart.errors import DataError
from headstart.text import enumeration, printable

MASK_WORDS = frozenset({
    "mask", "masks", "label", "labels", "lbl", "annotation", "annotations", "annot", "annots", "gt", "gts", "groundtruth", "groundtruths",
    "seg", "segs", "segmentation", "segmentations", "segmentationclass", "segmentationclassaug", "segmentationclasspng", "segmasks",
    "segmentationmasks", "segmap", "segmaps", "labelmap", "labelmaps", "labelids", "semantic", "pixellabels", "maskimages", "labelimages",
    "target", "targets", "gtfine", "gtcoarse",
})  # fmt: skip
IMAGE_WORDS = frozenset({
    "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "frame", "frames", "input", "inputs",
    "original", "originals", "originalimages", "rgb", "leftimgbit",
})  # fmt: skip
_ENDS = ("masks", "mask", "labels", "label", "annotations", "groundtruth", "segmentations", "segmentation", "images", "imgs", "inputs")
_PART = "(?P<part>training|train|trn|validation|valid|val|testing|test|dev)"
_MASK_SUFFIX = re.compile(
    r"(?i)[\W_]+(masks?|gt|labels?|seg|segmentation|annotation|annot|groundtruth|ground_truth|labelids|gt(fine|coarse)_label(train)?ids)$"
)
_IN_MASK_FOLDER = re.compile(r"(?i)[\W_]+l$")  # as CamVid has it
_MASK_PREFIX = re.compile(r"(?i)^(mask|gt|label|seg)[\W_]+")
_IMAGE_AFFIX = re.compile(r"(?i)([\W_]+(sat|images?|img|rgb|leftimg8bit|photo|raw)$|^(image|img)[\W_]+)")
_NEITHER = re.compile(r"(?i)[\W_]+(color|colour|instance(train)?ids|polygons|vis|viz|overlay)$")  # beside masks of classes
_FIRST = re.compile(r"(?i)labeltrainids$")  # of the two masks that Cityscapes has


@dataclass(frozen=True)
class Picture:
    """A picture, with what its folders say.

    Attributes:
        path: where it lies.
        part: ``train``, ``val``, ``test`` or empty.
        rest: the folders that say nothing of role or part.
        role: ``mask``, ``image`` or empty.
        set: what stands before the word for images or masks, as in ``north_masks``.
    """

    path: str
    part: str
    rest: tuple[str, ...]
    role: str
    set: str = ""

    @cached_property
    def stem(self) -> str:
        """The name of the file, without its ending and in lower case."""
        return os.path.splitext(os.path.basename(self.path))[0].casefold()  # noqa: PTH119, PTH122 - called for every file

    def places(self) -> Iterator[tuple[object, ...]]:
        """Where its partner may be, the nearest place first: in the same set, in the same folders, whatever the part, or anywhere.

        Only folders that say that they hold images have masks anywhere.
        """
        yield self.part, self.rest, self.set
        yield self.part, self.rest
        yield (self.rest,)
        if self.role:
            yield (self.part,)
            yield ()


def role_of(folder: str) -> tuple[str, str | None, str]:
    """What a folder says by its name: its role, ``mask``, ``image`` or none; a part (``train_masks``, ``trainannot``); a set before it."""
    plain = re.sub(r"[\W_]+", "", folder.casefold())
    bare = re.sub(r"(?<=\D)[0-9]+", "", plain)
    if bare in MASK_WORDS or bare in IMAGE_WORDS:
        return _role(bare), None, ""
    for found in (re.match(rf"{_PART}(?P<rest>.*)", bare), re.match(rf"(?P<rest>.*?){_PART}$", bare)):
        if found and (found["rest"] in MASK_WORDS or found["rest"] in IMAGE_WORDS):
            return _role(found["rest"]), part_of(found["part"]), ""
    end = next((end for end in _ENDS if plain.endswith(end)), "")
    if end:
        before = plain.removesuffix(end)
        part = re.search(rf"{_PART}$", before)
        return _role(end), part_of(part["part"]) if part else None, before
    return "", part_of(folder), ""


def _role(word: str) -> str:
    return "mask" if word in MASK_WORDS else "image"


def bare_stem(stem: str) -> str:
    """The name of a mask without what says that it is one: ``1`` for ``1_mask``."""
    return _MASK_PREFIX.sub("", _MASK_SUFFIX.sub("", stem))


def placed(paths: Sequence[str], root: str) -> list[Picture]:
    """The pictures with what their folders below `root` say; none where no folder and no file is called like masks."""

    @cache
    def place(folder: str) -> tuple[str, tuple[str, ...], str, str]:
        role, part, before, rest = "", "", "", list[str]()
        for name in Path(folder).relative_to(root).parts:
            own, named, own_set = role_of(name)
            part = named or part
            if own:
                role, before = own, own_set
            elif named is None:
                rest.append(name)
        return part, tuple(rest), role, before

    split = [os.path.split(path) for path in paths]
    folders = {folder for folder, _ in split}
    if not any(place(folder)[2] == "mask" for folder in folders) and not any(
        bare_stem(stem) != stem for stem in (name.rpartition(".")[0] for _, name in split)
    ):
        return []
    return [Picture(path, *place(folder)) for path, (folder, _) in zip(paths, split, strict=True)]


def masks_beside(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """The images, and the masks that lie in the folder of their image and are called like it but for a suffix or prefix."""
    stems = {(os.path.dirname(one.path), stem) for one in pictures for stem in (one.stem, _IMAGE_AFFIX.sub("", one.stem))}  # noqa: PTH120
    masks = [
        one
        for one in pictures
        if (bare := bare_stem(one.stem)) not in ("", one.stem) and (os.path.dirname(one.path), bare) in stems  # noqa: PTH120
    ]
    taken = {one.path for one in masks}
    return [one for one in pictures if one.path not in taken], masks


def pairs(images: Sequence[Picture], masks: Sequence[Picture]) -> dict[str, Picture]:
    """The mask of each image that has one, by the path of the image; DataError for an image with two.

    A mask is called like its image, perhaps with a suffix or prefix. It is looked for in the nearest place first (`Picture.places`);
    farther off, a name counts only where one image has it.
    """
    by_key = defaultdict[tuple[object, ...], list[Picture]](list)
    for mask in masks:
        if not _NEITHER.search(mask.stem):
            for place in mask.places():
                for how, stem in enumerate((mask.stem, _IN_MASK_FOLDER.sub("", bare_stem(mask.stem)))):
                    by_key[place, stem, how].append(mask)
    alike = Counter((place, image.stem) for image in images for place in image.places())
    found: dict[str, Picture] = {}
    for image in images:
        for place in image.places():
            if len(place) < 2 and alike[place, image.stem] > 1:
                break
            plain = _IMAGE_AFFIX.sub("", image.stem)
            keys = ((place, stem, how) for stem, how in ((image.stem, 0), (image.stem, 1), (plain, 1), (plain, 0)))
            there = next((by_key[key] for key in keys if key in by_key), [])
            there = [one for one in there if not (image.part and one.part) or image.part == one.part]
            there = [one for one in there if _FIRST.search(one.stem)] or there
            if len(there) > 1:
                raise DataError(
                    f"{printable(image.path)} has two masks: {enumeration([printable(one.path) for one in there])}. Move one of them away."
                )
            if there:
                found[image.path] = there[0]
                break
    return found
