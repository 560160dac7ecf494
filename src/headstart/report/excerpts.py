"""Cards of texts: an excerpt of each, and of the training texts nearest to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from headstart.explanation import nearest_training_images
from headstart.matrix import FeatureMatrix
from headstart.modalities.text import excerpt
from headstart.run import Run
from headstart.sections import Card, MarkedText, Neighbour

MOST = 600  # characters of a text; of more, the beginning and the end
_NEIGHBOURS = 3


def text_cards(
    run: Run, rows: npt.NDArray[np.int64], *, training: Callable[[int], object], test: Callable[[int], object],
    features: FeatureMatrix | None = None,
) -> dict[int, Card]:  # fmt: skip
    """Cards of test texts by row, with the nearest training texts; those that are gone are left out."""
    texts = {row: text for row in rows.tolist() if isinstance(text := test(row), str)}
    if not texts:
        return {}
    readable = np.array(list(texts))
    nearest = np.empty((len(texts), 0), np.int64)
    if "features" in run.reference and run.reference["features"].shape[1]:
        known = run.predict(list(texts.values()), sample=len(texts)).sample if features is None else features[readable]
        if known is not None and len(known) == len(texts):
            nearest = nearest_training_images(run, known, _NEIGHBOURS)[0]
    cards = {}
    for place, (row, text) in enumerate(texts.items()):
        near = tuple(
            Neighbour(name=f"training text {index}", row=index, excerpt=excerpt(str(training(index) or ""), 200))
            for index in nearest[place].tolist()
        )
        name = getattr(text, "name", f"test text {row}")
        cards[row] = Card(name=name, row=row, excerpt=MarkedText(excerpt(text, MOST)), neighbours=near)
    return cards
