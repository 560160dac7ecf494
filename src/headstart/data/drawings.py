"""Annotation files with shapes, beside images: which file says what of which image, and where that image lies."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headstart.data.annotations import MASK, Annotations, Column, part_of
from headstart.data.class_lists import ClassList
from headstart.data.listing import Tree, below_folder
from headstart.data.shapes import Shape, ShapeMask
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.text import enumeration, plural, printable

_MOST_MISSING = 0.5  # of the images may be absent


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
        boxes: how many of the shapes are boxes.
    """

    image: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]
    file: Path
    part: str = ""
    classes: ClassList | None = None
    passed: Counter[str] = field(default_factory=Counter)
    boxes: int = 0

    def mask(self, path: str) -> ShapeMask:
        """What is drawn, of the image with this path."""
        return ShapeMask(str(self.file), path, self.size, self.shapes, self.classes)


@contextmanager
def parsing(path: Path, expected: str) -> Iterator[None]:
    """Raise DataError, with the file and what was expected there, where the block fails on the content of a file."""
    try:
        yield
    except DataError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: damaged: {type(error).__name__} {error} where {expected} is expected.") from None


def annotations_of(drawings: Sequence[Drawing], source: Path, root: Path) -> Annotations:
    """What these files say of the images below a folder.

    An image that is not there is left out, and named; so is an image of which no file says anything. DataError where most of the images
    are not there, or two files speak of one.
    """
    tree = Tree()
    places = _Places(tree.collect(os.fspath(root)), os.fspath(root), drawings)
    found: dict[str, tuple[Drawing, str]] = {}
    missing = list[str]()
    for drawing in drawings:
        path, part = places.find(drawing)
        if not path:
            missing.append(f"{drawing.image} (of {drawing.file.name})")
        elif path in found:
            first = found[path][0].file
            raise DataError(
                f"{printable(path)} is annotated twice, in {first} and in {drawing.file}. "
                f"{'Remove one of the two.' if first == drawing.file else 'Give one of these files as the data, or move one away.'}"
            )
        else:
            found[path] = drawing, part
    if len(missing) > _MOST_MISSING * len(drawings):
        raise DataError(
            f"{source}: {len(missing)} of the {plural(len(drawings), 'image')} in the annotations are not below {root}, for example "
            f"{enumeration(missing[:3])}. Put the images there, with these names."
        )
    notes = _notes(found, missing, places, os.fspath(root))
    if len({part for _, part in found.values()}) == 1:  # given by itself, it is not a part of anything
        found = {path: (drawing, "") for path, (drawing, _) in found.items()}
    order = sorted(found, key=lambda path: (("train", "", "val", "test").index(found[path][1]), path))
    files = [found[path][0].mask(path) for path in order]
    for file in {drawing.file for drawing in drawings}:
        tree.passed.used("non-image file", str(file))
    names = sorted({below_folder(os.fspath(drawing.file), os.fspath(root)) for drawing, _ in found.values()})
    return Annotations(
        images=tuple(map(Path, order)),
        columns={MASK: Column(list(files), [file.cell for file in files], f"the shapes in {enumeration(names, most=3)}")},
        parts=[found[path][1] for path in order],
        source=str(source),
        root=root,
        notes=notes + tree.passed.notes(os.fspath(root)),
        learned=(),
    )


class _Places:
    """Where images lie, by their names."""

    def __init__(self, paths: Sequence[str], root: str, drawings: Sequence[Drawing]) -> None:
        self.paths, self._root = [os.path.normpath(path) for path in paths], root
        self._by_name, self._by_stem = defaultdict[str, list[str]](list), dict[str, str]()
        for path in self.paths:
            self._by_name[os.path.basename(path)].append(path)  # noqa: PTH119 - called for every file
            self._by_stem[os.path.splitext(path)[0]] = path  # noqa: PTH122
        self._drawn = Counter(drawing.image.rpartition("/")[2] for drawing in drawings)

    def find(self, drawing: Drawing) -> tuple[str, str]:
        """The path of an image, or nothing, and its part: of several with this name, one beside the file or of its part.

        Where the folder in the file is another, the name alone tells, if it does; and an image called like the file is its image.
        """
        name, part = drawing.image.lstrip("./"), drawing.part
        there = self._by_name.get(name.rpartition("/")[2], [])
        exact = [path for path in there if path.endswith(f"/{name}".replace("/", os.sep))]
        if not exact and self._drawn[name.rpartition("/")[2]] == 1:
            same_stem = self._by_stem.get(os.fspath(drawing.file.with_suffix("")))
            exact = there or ([same_stem] if same_stem else [])
        beside = [path for path in exact if path == os.path.normpath(drawing.file.parent / drawing.image)]
        same = [path for path in exact if part and self._part(path) == part]
        chosen = next((paths[0] for paths in (beside, same, exact) if len(paths) == 1), "")
        if not chosen and exact:
            raise DataError(
                f"{drawing.file}: {drawing.image!r} may be {enumeration([printable(path) for path in exact[:4]])}. Write the folder into "
                "the file, or give the images different names."
            )
        return chosen, part or (self._part(chosen) if chosen else "")

    def _part(self, path: str) -> str:
        folders = Path(path).relative_to(self._root).parts[:-1]
        return next((part for folder in folders if (part := part_of(folder))), "")


def _notes(found: Mapping[str, tuple[Drawing, str]], missing: Sequence[str], places: _Places, root: str) -> list[str]:
    notes = list[str]()
    if missing:
        notes.append(
            Warned(f"Left out {plural(len(missing), 'image')} that are not there: {enumeration([*missing[:5]], count=len(missing))}.")
        )
    unsaid = [below_folder(path, root) for path in places.paths if path not in found]
    if unsaid:
        names = enumeration(unsaid[:5], count=len(unsaid))
        notes.append(Warned(f"Left out {plural(len(unsaid), 'image')} of which no annotation file says anything: {names}."))
    passed = Counter[str]()
    for counts in {id(drawing.passed): drawing.passed for drawing, _ in found.values()}.values():
        passed.update(counts)
    if passed:
        kinds = enumeration([f"{count} {kind}" for kind, count in passed.most_common()])
        notes.append(Warned(f"Passed over annotations that have no area: {kinds}."))
    empty = sum(not drawing.shapes for drawing, _ in found.values())
    if empty:
        notes.append(f"{plural(empty, 'image')} without a shape: all of it is background.")
    return notes
