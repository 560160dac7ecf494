"""Folders for the inspection of things, as MVTec AD has them: good images to learn from, and good and defective ones to test on.

``train/good/*``, ``test/good/*``, ``test/DEFECT/*`` and, where there are masks, ``ground_truth/DEFECT/*``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from headstart.data.annotations import LABEL, MASK, Annotations, Column, part_of
from headstart.data.folders import descend
from headstart.data.listing import Tree, below_folder, folder_name
from headstart.data.mask_names import bare_stem, role_of
from headstart.data.masks import JoinedMask, MaskFile, PictureMask
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.text import enumeration, plural, printable

GOOD = frozenset(
    {"good", "normal", "ok", "okay", "healthy", "clean", "intact", "fine", "defectfree", "nodefect", "anomalyfree", "nonanomalous"}
)
"""What a folder of things without defects is called, letters only."""


def is_good(label: str) -> bool:
    """Whether things of this label have no defect, as far as the word says it."""
    return re.sub(r"[\W_]+", "", label.casefold()) in GOOD


def read_defect_folder(source: Path) -> Annotations | None:
    """Read such a folder: labels, parts and, where there are any, masks of the test images; None for other folders.

    It has one class to learn from, called good or the like (or any, beside a folder of masks), and others to test on. DataError where an
    image has two masks.
    """
    tree, notes = Tree(), list[str]()
    try:
        root = descend(tree, os.fspath(source), notes)
    except DataError:
        return None  # told where labels are looked for
    folders = {folder: part_of(folder_name(folder)) for folder in tree.listing(root)[0]}
    of_part = {part: [folder for folder, its in folders.items() if its == part] for part in ("train", "val", "test")}
    training, validation, test = of_part.values()
    if len(training) != 1 or len(validation) > 1 or len(test) != 1 or tree.listing(training[0])[1]:
        return None
    truth = next((one for one in folders if role_of(folder_name(one))[:2] == ("mask", None)), None)
    classes = {part: _classes(tree, one) for part, found in of_part.items() for one in found}
    (good, *more), others = [*classes["train"], ""], [*classes["test"]]
    if (
        more != [""]
        or not {*classes.get("val", ())} <= {good}
        or not ({*others} - {good})
        or not (is_good(good) or (truth is not None and good in others))
    ):
        return None
    rows = [(part, label, path) for part, found in classes.items() for label, paths in found.items() for path in paths]
    masks = {} if truth is None else _masks(tree, truth, [row for row in rows if row[0] == "test"], root, notes)
    labels = [label for _, label, _ in rows]
    files = [masks.get(path) for _, _, path in rows]
    columns = {LABEL: Column([*labels], [*labels], "the names of the folders")}
    if truth is not None:
        columns[MASK] = Column(files, ["" if one is None else one.cell for one in files], f"the masks in {folder_name(truth)!r}")
    _tell_others(tree, root, {*training, *validation, *test, truth}, notes)
    return Annotations(
        inputs=tuple(Path(path) for _, _, path in rows),
        columns=columns,
        parts=[part for part, _, _ in rows],
        source=str(source),
        root=Path(root),
        notes=notes + tree.passed.notes(root),
        learned=(),
        reason=(
            f"{source}: the images to learn from are all {good!r}, and some of those to test on are "
            f"{enumeration([one for one in others if one != good])}: there is nothing to tell apart. Put images of every class below train."
        ),
    )


def _classes(tree: Tree, folder: str) -> dict[str, list[str]]:
    """The images of each class folder of a part, those without images left out."""
    found = {folder_name(below): tree.collect(below, above=[folder]) for below in tree.listing(folder)[0]}
    return {label: paths for label, paths in found.items() if paths}


def _masks(tree: Tree, truth: str, rows: Sequence[tuple[str, str, str]], root: str, notes: list[str]) -> dict[str, MaskFile]:
    """The masks by the path of their image, which has the same folder and stem.

    Where the name is that of a folder, as in MVTec LOCO AD, it holds a picture for each defect.
    """
    by_key = defaultdict[tuple[str, str], list[str]](list)
    joined = dict[tuple[str, str], list[str]]()
    for below in tree.listing(truth)[0]:
        label = folder_name(below)
        several = {folder_name(folder).casefold(): tree.collect(folder, above=[truth, below]) for folder in tree.listing(below)[0]}
        wanted = {Path(path).stem.casefold() for _, own, path in rows if own == label}
        joined |= {(label, stem): paths for stem, paths in several.items() if paths and stem in wanted}
        inside = {path for stem, paths in several.items() if (label, stem) in joined for path in paths}
        for path in tree.collect(below, above=[truth]):
            if path not in inside:
                by_key[label, bare_stem(Path(path).stem).casefold()].append(path)
    found: dict[str, MaskFile] = {}
    for _, label, path in rows:
        key = label, Path(path).stem.casefold()
        there, parts = by_key.pop(key, []), joined.pop(key, [])
        if len(there) + bool(parts) > 1:
            both = [*there, *([os.path.dirname(parts[0])] if parts else [])]  # noqa: PTH120
            raise DataError(f"{printable(path)} has two masks: {enumeration([printable(one) for one in both])}. Move one of them away.")
        if there:
            found[path] = PictureMask(there[0])
        elif parts:
            found[path] = JoinedMask(tuple(parts))
    if count := sum(isinstance(one, JoinedMask) and len(one.paths) > 1 for one in found.values()):
        notes.append(f"{plural(count, 'image')} with several masks each: a pixel has a defect where any of them has one.")
    unused = [below_folder(path, root) for paths in [*by_key.values(), *joined.values()] for path in paths]
    if unused:
        names = enumeration(unused[:5], count=len(unused))
        notes.append(Warned(f"Passed over {plural(len(unused), 'mask')} without an image of that name: {names}."))
    return found


def _tell_others(tree: Tree, root: str, used: set[str | None], notes: list[str]) -> None:
    others = {folder_name(folder): len(tree.collect(folder)) for folder in tree.listing(root)[0] if folder not in used}
    if count := sum(others.values()):
        names = enumeration([repr(name) for name, there in others.items() if there])
        notes.append(Warned(f"Passed over {plural(count, 'image')} in {names}, beside train and test."))
