"""Where the images lie that annotation files name: by path, by name alone, or by the name of the file."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from headstart.data.annotations import part_of
from headstart.errors import DataError
from headstart.text import enumeration, printable

if TYPE_CHECKING:
    from headstart.data.drawings import Drawing


class Places:
    """The images below a folder, by their names."""

    def __init__(self, paths: Sequence[str], root: str, drawings: Sequence[Drawing]) -> None:
        self.paths, self._root = [os.path.normpath(path) for path in paths], root
        self._by_name, self._by_stem = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for path in self.paths:
            name = os.path.basename(path).casefold()  # noqa: PTH119 - called for every file
            self._by_name[name].append(path)
            self._by_stem[_stem(name)].append(path)
        self._drawn = Counter(_name(drawing.image) for drawing in drawings)
        self._drawn_stems = Counter(_stem(_name(drawing.image)) for drawing in drawings)

    def find(self, drawing: Drawing) -> tuple[str, str]:
        """The path of an image, or nothing, and its part: of several with this name, one beside the file or of its part.

        Where the folder in the file is another, the name alone tells, if it does; then the name without its ending; and an image called
        like the file is its image. DataError where it may be one of several.
        """
        found = self._candidates(drawing)
        part = drawing.part
        beside = [path for path in found if path == os.path.normpath(drawing.file.parent / drawing.image)]
        same = [path for path in found if part and self.part(path) == part]
        near = _nearest(found, drawing.file)
        chosen = next((paths[0] for paths in (beside, same, found, near) if len(paths) == 1), "")
        if not chosen and found:
            raise DataError(
                f"{drawing.file}: {drawing.image!r} may be {enumeration([printable(path) for path in found[:4]])}. Write the folder into "
                "the file, or give the images different names."
            )
        return chosen, part or (self.part(chosen) if chosen else "")

    def _candidates(self, drawing: Drawing) -> list[str]:
        if drawing.own and (own := self._by_stem.get(drawing.file.stem.casefold())):
            return [path for path in own if _name(path) == _name(drawing.image)] or own
        for name in _spellings(drawing.image):
            there = self._by_name.get(_name(name), [])
            ends = [path for path in there if f"/{path.replace(os.sep, '/')}".casefold().endswith(f"/{name}".casefold())]
            exact = [path for path in ends if path.replace(os.sep, "/").endswith(f"/{name}")]
            if exact or ends:
                return exact or ends
        if self._drawn[_name(drawing.image)] > 1:
            return []
        for name in _spellings(drawing.image):
            if there := self._by_name.get(_name(name), []):
                return there
        folder = os.path.normpath(drawing.file.parent)
        like_file = [path for path in self._by_stem.get(drawing.file.stem.casefold(), []) if os.path.dirname(path) == folder]  # noqa: PTH120
        if like_file or self._drawn_stems[_stem(_name(drawing.image))] > 1:
            return like_file
        return next((there for name in _spellings(drawing.image) if (there := self._by_stem.get(_stem(_name(name)), []))), [])

    def part(self, path: str) -> str:
        """The part that a folder of an image names, or nothing."""
        folders = Path(path).relative_to(self._root).parts[:-1]
        return next((part for folder in folders if (part := part_of(folder))), "")


def _spellings(image: str) -> Iterator[str]:
    """The name of an image as the file has it, and as programs write names: with spaces around, percent signs, a drive or a scheme."""
    plain = image.strip().replace("\\", "/")
    for name in dict.fromkeys((image, plain, unquote(re.sub(r"^file:/*", "", plain)))):
        yield re.sub(r"^(\./|\.\./|/)+", "", name)


def _name(image: str) -> str:
    return image.strip().replace("\\", "/").rpartition("/")[2].casefold()


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _nearest(paths: Sequence[str], file: Path) -> list[str]:
    """The images whose folders have the most names in common with those of a file: ``labels/train/1.txt``, ``images/train/1.jpg``."""
    of_file = Counter(PurePosixPath(file.parent.as_posix()).parts)
    shared = [(Counter(Path(path).parent.parts) & of_file).total() for path in paths]
    return [path for path, count in zip(paths, shared, strict=True) if count == max(shared)]
