"""Images unlike the rest of their class: unusual pictures, wrong files, rare cases.

The measure is the distance to the nearest images of the same class, on standardised features (Ramaswamy, Rastogi and Shim, "Efficient
algorithms for mining outliers from large data sets", SIGMOD 2000). The cut-off is robust: it is set by the middle of the class, so that
the outliers themselves cannot move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headstart.audit.excerpts import Named
from headstart.audit.findings import Finding
from headstart.backbones import Layer
from headstart.data import Boxes, Dataset, Labels
from headstart.errors import ParameterError
from headstart.metrics import link_of

_NEIGHBOURS = 10  # so that a few strange images of one kind do not vouch for each other
_FEWEST = 20  # images in a class: with fewer there is no rest that an image could be unlike
_FAR = 4.0  # robust standard deviations of the logarithm of the distance: 0.1 to 0.4 % of the images of ordinary sets


@dataclass(frozen=True, eq=False)
class Outliers:
    """How unlike the rest of its class each image is.

    `rows` int64 (m,) are the outliers among the images, the most unlike first; `score` float64 (n,) is in robust standard deviations from
    the middle of the class, nan in classes too small to tell.
    """

    rows: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]


def rank_outliers(features: npt.NDArray[np.float32], targets: npt.NDArray[np.generic], *, layers: Sequence[Layer] = ()) -> Outliers:
    """Rank images by how far they lie from their nearest neighbours in their class.

    `features` are float32 (n, D), `targets` classes (n,); for several labels per image bool (n, k), and then all images are one class. Each
    of `layers` counts the same (all layers find strangers best); without any, all columns do.
    """
    if len(features) != len(targets):
        raise ParameterError(f"there are features of {len(features)} images and targets of {len(targets)}; one target for each is needed")
    values = standardised(features, layers)
    score = np.full(len(values), np.nan)
    classes = np.zeros(len(values)) if link_of(targets).independent else targets
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        if len(rows) >= _FEWEST:
            score[rows] = _robust(_to_neighbours(values[rows]))
    far = np.flatnonzero(score > _FAR)
    return Outliers(far[np.argsort(-score[far], kind="stable")], score)


def find_outliers(dataset: Dataset, features: npt.NDArray[np.float32], *, layers: Sequence[Layer] = ()) -> list[Finding]:
    """Return one finding that names the images unlike the rest of their class, the most unlike first; none where there are none."""
    targets = dataset.targets.strata if isinstance(dataset.targets, Boxes) else dataset.targets.array
    outliers = rank_outliers(features, targets, layers=layers)
    rows, names, one_label = outliers.rows.tolist(), Named(dataset), isinstance(dataset.targets, Labels)
    rest = "the rest of their class" if one_label else "the other images"
    message = (
        f"{len(rows)} images are unlike {rest}: unusual pictures, wrong files, or rare cases. Wrong files cause errors; rare cases "
        "call for more examples. Review them, the most unusual first; delete only what does not belong."
    )
    named = [f"{names[row]} ({dataset.labels(row)[0]})" if one_label else names[row] for row in rows]
    examples = [f"{name}: {outliers.score[row]:.1f} deviations from the middle" for name, row in zip(named, rows, strict=True)]
    return Finding.of("outliers", "note", message, examples, len(rows))


def standardised(features: npt.NDArray[np.float32], layers: Sequence[Layer] = ()) -> npt.NDArray[np.float32]:
    """Return the columns of some layers with mean 0 and deviation 1, and scaled so that each layer has the same total variance."""
    for layer in layers:
        if not 0 <= layer.start < layer.stop <= features.shape[1]:
            raise ParameterError(f"layer {layer.name} has the columns {layer.start} to {layer.stop}, but there are {features.shape[1]}")
    parts = []
    for columns in [slice(layer.start, layer.stop) for layer in layers] or [slice(None)]:
        part = features[:, columns].astype(np.float32)
        part -= part.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = part.std(axis=0)
        part /= np.where(deviation > 0, deviation, 1) * np.float32(np.sqrt(part.shape[1]))
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _to_neighbours(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the mean distance to the nearest others (n,); no image is a neighbour of itself."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(values) // 2), algorithm="brute").fit(values)
    return np.asarray(search.kneighbors()[0].mean(axis=1), np.float64)


def _robust(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how many deviations each distance lies above the median, on a scale of logarithms.

    The deviation is that of the upper half: distances have a longer tail above than below.
    """
    logs = np.log(np.maximum(distances, 1e-12))
    middle = np.median(logs)
    deviation = 1.4826 * np.median((logs - middle)[logs >= middle])
    return np.asarray((logs - middle) / max(deviation, 1e-6))
