"""Which images to try hyperparameters on, where there are more than needed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headstart.heads.targets import EncodedLabels


def stratified_rows(targets: EncodedLabels, count: int, *, seed: int) -> npt.NDArray[np.int64]:
    """About `count` row numbers, ascending; all where there are no more.

    Each class has its share, and two images at least if it has two.
    """
    n = len(targets)
    if n <= count:
        return np.arange(n)
    generator = np.random.default_rng(seed)
    if targets.link.independent:
        rarest = np.argsort(targets.indicators.sum(axis=0))
        rows = [np.flatnonzero(targets.indicators[:, column])[:2] for column in rarest]
        drawn = np.concatenate([*rows, generator.permutation(n)])
        _, first = np.unique(drawn, return_index=True)
        return np.sort(drawn[np.sort(first)][:count])
    codes = targets.codes
    chosen = []
    for code in range(len(targets.classes)):
        members = np.flatnonzero(codes == code)
        chosen.append(generator.permutation(members)[: max(2, round(len(members) * count / n))])
    return np.sort(np.concatenate(chosen))
