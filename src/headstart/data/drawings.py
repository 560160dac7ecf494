"""Annotation files with shapes, beside images: which file says what of which image, and where that image lies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headstart.data.annotations import BOX, MASK, Annotations, Column
from headstart.data.class_lists import ClassList
from headstart.data.listing import Tree, below_folder
from headstart.data.part_lists import listed_parts
from headstart.data.places import Places
from headstart.data.shapes import DrawnShapes, Shape
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.text import enumeration, plural, printable

_MOST_MISSING = 0.5  # of the images may be absent, or their annotations damaged
_PART_FOLDERS = ("", "ImageSets/Main", "ImageSets", "splits", "split", "lists")
_ORDER = ("train", "", "val", "test")


@dataclass(frozen=True, eq=False)
class Drawing:
    """What an annotation file says of one image.

    Attributes:
        image: its name in the file, with ``/``.
        size: height and width, where the file has them.
        shapes: in the order in which they are drawn.
        file: the annotation file.
        part: the part that the file names for it, or empty.
        classes: the classes in the file's order, where it lists them.
        passed: what was passed over, by kind; of the whole file, where all images share it.
        own: whether the file is for this image alone, and called like it.
        damage: why the file cannot be read; nothing is known of the image then.
        group: the group that the file names for it, or empty.
    """

    image: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]
    file: Path
    part: str = ""
    classes: ClassList | None = None
    passed: Counter[str] = field(default_factory=Counter)
    own: bool = False
    damage: str = ""
    group: str = ""

    def on(self, path: str) -> DrawnShapes:
        """What is drawn, on the image with this path."""
        return DrawnShapes(str(self.file), path, self.size, self.shapes, self.classes)

    @property
    def has_mask(self) -> bool:
        """Whether some shape is more than a box: boxes alone are for detection."""
        return any(shape.drawn and not shape.is_box for shape in self.shapes)


@contextmanager
def parsing(path: Path, expected: str) -> Iterator[None]:
    """Raise DataError, with the file and what was expected there, where the block fails on the content of a file."""
    try:
        yield
    except DataError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: damaged: {type(error).__name__} {error} where {expected} is expected.") from None


def annotations_of(
    drawings: Sequence[Drawing], source: Path, root: Path, *, column: str = MASK, kind: str = "the shapes", silence: bool = False
) -> Annotations:
    """What these files say of the images below a folder, as masks or as boxes.

    An image that is not there is left out, and named; so is one whose annotations are damaged, and one of which no file says anything. With
    `silence`, an image beside annotated ones of which nothing is said has no boxes. DataError where most of the images are not there or
    most files are damaged, or two files speak of one image.
    """
    tree = Tree()
    places = Places(tree.collect(os.fspath(root)), os.fspath(root), drawings)
    notes = list[str]()
    found, missing = _placed(drawings, places, notes)
    if len(missing) > _MOST_MISSING * len(drawings):
        raise DataError(
            f"{source}: {len(missing)} of the {plural(len(drawings), 'image')} in the annotations are not below {root}, for example "
            f"{enumeration(missing[:3])}. Put the images there, with these names."
        )
    said = {*found}
    found = _without_damaged(found, source, os.fspath(root), notes)
    if silence:
        found |= _silent(found, [path for path in places.paths if path not in said], places, os.fspath(root), notes)
    unsaid = [below_folder(path, os.fspath(root)) for path in places.paths if path not in found and path not in said]
    notes += _notes(found, missing, unsaid, column)
    if column == BOX:
        found = _with_listed_parts(found, tree, root, notes)
    if len({part for _, part in found.values()}) == 1:  # given by itself, it is not a part of anything
        found = {path: (drawing, "") for path, (drawing, _) in found.items()}
    order = sorted(found, key=lambda path: (_ORDER.index(found[path][1]), path))
    files = [found[path][0].on(path) for path in order]
    for file in {drawing.file for drawing in drawings}:
        tree.passed.used("non-image file", str(file))
    for name in {one.classes.source for one in files if one.classes is not None}:
        tree.passed.used("non-image file", name)
    names = sorted({below_folder(os.fspath(drawing.file), os.fspath(root)) for drawing, _ in found.values()})
    groups = [found[path][0].group for path in order]
    return Annotations(
        inputs=tuple(map(Path, order)),
        columns={column: Column(list(files), [file.cell for file in files], f"{kind} in {enumeration(names, most=3)}")},
        parts=[found[path][1] for path in order],
        groups=[group or f"{path} (alone)" for group, path in zip(groups, order, strict=True)] if any(groups) else None,
        grouped_by=str(source) if any(groups) else "",
        source=str(source),
        root=root,
        notes=notes + tree.passed.notes(os.fspath(root)),
        learned=(),
        reason=f"{source} holds images with boxes, and nothing says which class an image as a whole has." if column == BOX else "",
    )


_Found = dict[str, tuple[Drawing, str]]


def _placed(drawings: Sequence[Drawing], places: Places, notes: list[str]) -> tuple[_Found, list[str]]:
    """The drawing of each image, by path, with its part; and the images that are not there. What is said twice alike is noted."""
    found, missing, again = _Found(), list[str](), list[str]()
    for drawing in drawings:
        path, part = places.find(drawing)
        if not path:
            missing.append(f"{drawing.image} (of {drawing.file.name})")
        elif path in found and drawing.shapes and _said(found[path][0]) == _said(drawing):
            again.append(f"{drawing.image} (of {drawing.file.name})")
        elif path in found:
            first = found[path][0].file
            raise DataError(
                f"{printable(path)} is annotated twice, in {first} and in {drawing.file}. "
                f"{'Remove one of the two.' if first == drawing.file else 'Give one of these files as the data, or move one away.'}"
            )
        else:
            found[path] = drawing, part
    if again:
        names = enumeration(again[:5], count=len(again))
        notes.append(f"Passed over {plural(len(again), 'image')} listed again with the same boxes: {names}.")
    return found, missing


def _said(drawing: Drawing) -> list[tuple[str, object]]:
    return [(shape.label, shape.outline) for shape in drawing.shapes]


def _without_damaged(found: _Found, source: Path, root: str, notes: list[str]) -> _Found:
    damaged = [f"{below_folder(path, root)} ({drawing.damage})" for path, (drawing, _) in found.items() if drawing.damage]
    if not damaged:
        return found
    if len(damaged) > _MOST_MISSING * len(found):
        raise DataError(f"{source}: {len(damaged)} of {plural(len(found), 'annotation file')} cannot be read: {'; '.join(damaged[:3])}")
    names = enumeration(damaged[:5], count=len(damaged))
    notes.append(Warned(f"Left out {plural(len(damaged), 'image')} whose annotations cannot be read: {names}."))
    return {path: one for path, one in found.items() if not one[0].damage}


def _silent(found: _Found, unsaid: Sequence[str], places: Places, root: str, notes: list[str]) -> _Found:
    """Images without a file beside images with one, which have no boxes then."""
    folders = {os.path.dirname(path): one for path, one in found.items()}  # noqa: PTH120
    silent = [path for path in unsaid if os.path.dirname(path) in folders]  # noqa: PTH120
    if not silent:
        return {}
    names = enumeration([below_folder(path, root) for path in silent[:5]], count=len(silent))
    told = Warned if len(silent) > _MOST_MISSING * len(found) else str
    notes.append(told(f"{plural(len(silent), 'image')} without a file of annotations, so without boxes, as YOLO has it: {names}."))
    like = {path: folders[os.path.dirname(path)] for path in silent}  # noqa: PTH120
    return {path: (Drawing(path, None, (), Path(), classes=one.classes), places.part(path) or part) for path, (one, part) in like.items()}


def _with_listed_parts(found: _Found, tree: Tree, root: Path, notes: list[str]) -> _Found:
    """With the parts of lists of names beside the images, where files and folders name none, or one for all."""
    if len({part for _, part in found.values()}) != 1:
        return found
    top = Path(os.path.commonpath([os.path.dirname(path) for path in found]))  # noqa: PTH120
    above = [one for one in (top, top.parent, root) if one == root or root in one.parents]
    parts, lists = listed_parts((one / folder for one in dict.fromkeys(above) for folder in _PART_FOLDERS), [*found], "boxes", notes)
    for file in lists:
        tree.passed.used("non-image file", str(file))
    return {path: (found[path][0], part) for path, part in parts.items()} if parts else found


def _notes(found: Mapping[str, tuple[Drawing, str]], missing: Sequence[str], unsaid: Sequence[str], column: str) -> list[str]:
    notes = list[str]()
    if missing:
        notes.append(
            Warned(
                f"Left out {plural(len(missing), 'image')} that {'is' if len(missing) == 1 else 'are'} not there: "
                f"{enumeration([*missing[:5]], count=len(missing))}."
            )
        )
    if unsaid:
        names = enumeration([*unsaid[:5]], count=len(unsaid))
        notes.append(Warned(f"Left out {plural(len(unsaid), 'image')} of which no annotation file says anything: {names}."))
    passed = Counter[str]()
    for counts in {id(drawing.passed): drawing.passed for drawing, _ in found.values()}.values():
        passed.update(counts)
    shapes = [shape for drawing, _ in found.values() for shape in drawing.shapes]
    if column == MASK:
        passed["without a shape"] += sum(not shape.drawn for shape in shapes)
    if passed := +passed:
        kinds = enumeration([f"{count} {kind}" for kind, count in passed.most_common()])
        said = "Passed over annotations that have no area" if column == MASK else "Passed over, being no boxes"
        notes.append(Warned(f"{said}: {kinds}."))
    empty = sum(not any(shape.drawn or column == BOX for shape in drawing.shapes) for drawing, _ in found.values())
    if empty and column == MASK:
        notes.append(f"{plural(empty, 'image')} without a shape: all of it is background.")
    elif empty:
        notes.append(f"{plural(empty, 'image')} without a box: learned and tested as such.")
    more = sum(not shape.is_box for shape in shapes)
    if more and column == BOX:
        notes.append(f"Of {plural(more, 'shape')} that {'is' if more == 1 else 'are'} more than a box, the box around is used.")
    return notes
