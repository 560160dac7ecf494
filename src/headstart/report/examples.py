"""Which test images are worth a look in a report, and how their pictures are kept small."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.evaluate import Evaluation

if TYPE_CHECKING:
    from PIL import Image


def example_rows(evaluation: Evaluation, *, wrong: int = 24, right: int = 12) -> NDArray[np.int64]:
    """Return the rows of test images that are worth a look, int64 (m,): at most `wrong` mistakes, then at most `right` others.

    Mistakes: the most confident one of each confusion, then the second of each, and so on. The others: of each class in turn the one that
    was nearest to a mistake, then the surest, and so on. Multi-label: the images with the largest error of a single label, then those with
    the largest error that still came out right. Raises ParameterError for negative counts.
    """
    if min(wrong, right) < 0:
        raise ParameterError(f"wrong and right are numbers of images, 0 or more; got {wrong} and {right}.")
    outcome = evaluation.outcome
    same = np.asarray(outcome.targets) == np.asarray(outcome.predicted)
    if outcome.multilabel:
        error = np.abs(outcome.targets - outcome.probabilities).max(axis=1)
        order = np.argsort(-error, kind="stable")
        correct = same.all(axis=1)[order]
        return np.concatenate([order[~correct][:wrong], order[correct][:right]]).astype(np.int64)
    confidence = outcome.probabilities.max(axis=1)
    cells = outcome.targets * len(evaluation.classes) + outcome.predicted
    mistakes = _in_turn(np.flatnonzero(~same), cells, -confidence)
    ends = _from_both_ends(np.flatnonzero(same), cells, confidence)
    return np.concatenate([mistakes[:wrong], ends[:right]]).astype(np.int64)


def _in_turn(rows: NDArray[Any], cells: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    """Order `rows` so that the first of each cell come first, then the second of each; inside a turn and a cell by `key`."""
    rows = rows[np.argsort(key[rows], kind="stable")]
    turn, seen = np.empty(len(rows), dtype=np.int64), dict[int, int]()
    for place, cell in enumerate(cells[rows].tolist()):
        turn[place] = seen[cell] = seen.get(cell, -1) + 1
    return rows[np.argsort(turn, kind="stable")]


def _from_both_ends(rows: NDArray[Any], cells: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    """Order `rows` so that each cell gives its lowest by `key`, then its highest, then its second lowest, in turn with the others."""
    place = np.empty(len(cells))
    for cell in np.unique(cells[rows]).tolist():
        inside = rows[cells[rows] == cell]
        inside = inside[np.argsort(key[inside], kind="stable")]
        ranks = np.arange(len(inside))
        place[inside] = np.minimum(2 * ranks, 2 * ranks[::-1] + 1)
    return rows[np.lexsort((key[rows], place[rows]))]


def jpeg(picture: NDArray[np.uint8] | Image.Image, *, side: int = 224, quality: int = 82) -> bytes:
    """Return a picture, uint8 (H, W, 3) or a Pillow image, as a JPEG whose longer side has at most `side` pixels."""
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()
