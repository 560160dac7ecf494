"""Images without labels, for predicting."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from headstart.data.folders import Tree
from headstart.errors import DataError, nearest


def list_images(sources: Iterable[str | Path]) -> list[Path]:
    """Return the given files as they are, and in the place of each folder the images at any depth below it, sorted.

    A file that is given by name is kept whatever its suffix is: its content decides whether it can be read.

    Raises:
        DataError: a path that does not exist (the message names the nearest names beside it), or a folder without images.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            tree = Tree()
            images = tree.collect(str(source))
            if not images:
                passed = " ".join(tree.notes(str(source)))
                raise DataError(f"{source}: no images at any depth below this folder. {passed}".rstrip())
            found += map(Path, images)
        elif source.exists():
            found.append(source)
        else:
            beside = [entry.name for entry in source.parent.iterdir()] if source.parent.is_dir() else []
            raise DataError(f"{source}: no such file or folder.{nearest(source.name, beside)}")
    return found
