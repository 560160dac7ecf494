"""Which images are learned from, and which are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data import Dataset
from headstart.data.split import hold_out
from headstart.errors import DataError
from headstart.settings import FitSettings


def split(dataset: Dataset, settings: FitSettings, *, digests: Sequence[bytes] = ()) -> tuple[Dataset, str]:
    """Give every image the part ``train`` or ``test``, and say where the test part came from.

    A ``val`` part is the test part where there is no other (nothing is chosen on it: choices are made by cross-validation inside the
    training part); beside a test part it joins the training images. Where a part has to be held out, copies of an image (equal
    `digests`) stay on one side, as groups do.

    Raises:
        DataError: fewer than two classes, a part is empty, or a class has no training image.
    """
    if len(dataset.classes) < 2:
        raise DataError(
            f"{dataset.source}: there is one class only, {dataset.classes[0]!r}, so there is nothing to tell apart. "
            "Add a second folder, of images that are something else."
        )
    parts = dataset.parts.copy().astype("<U5")
    if (parts == "test").any():
        how = "the data's own test part"
        if (parts == "val").any():
            how += "; the validation part is used for training, since choices are made by cross-validation"
        parts[parts != "test"] = "train"
    elif (parts == "val").any():
        how = "the data's validation part: nothing was chosen on it"
        parts[:] = np.where(parts == "val", "test", "train")
    else:
        together = kept_together(dataset.groups, digests)
        train, test = hold_out(dataset.targets, share=settings.test_share, groups=together, seed=settings.seed)
        parts[train], parts[test] = "train", "test"
        grouped = " by group" if dataset.groups is not None else ""
        copies = ", copies of an image on one side" if len(set(digests)) < len(digests) else ""
        how = f"{len(test)} {'image' if len(test) == 1 else 'images'} held out{grouped}, stratified by class, seed {settings.seed}{copies}"
    done = replace(dataset, parts=parts)
    _check_parts(done)
    return done, how


def kept_together(groups: npt.NDArray[Any] | None, digests: Sequence[bytes]) -> npt.NDArray[Any] | None:
    """Groups that also hold all copies of an image together: (n,) numbers or names, or None where every image stands alone."""
    if len(set(digests)) == len(digests):
        return groups
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group = np.arange(len(digests)) if groups is None else np.unique(groups, return_inverse=True)[1]
    numbers: dict[bytes, int] = {}
    picture = np.array([numbers.setdefault(digest, len(numbers)) for digest in digests])
    nodes = int(group.max()) + 1
    edges = coo_array((np.ones(len(group)), (group, nodes + picture)), shape=(nodes + len(numbers),) * 2)
    component: npt.NDArray[Any] = connected_components(edges, directed=False)[1]
    return component[group]


def _check_parts(dataset: Dataset) -> None:
    train = dataset.counts("train")
    if not len(dataset.part("train")):
        raise DataError(
            f"{dataset.source}: there are test images but no training images. Put these into class folders below {dataset.source}/train."
        )
    if not len(dataset.part("test")):
        raise DataError(f"{dataset.source}: no test images: the data are too few to hold any out. Add images, or give --test DIR.")
    lacking = [name for name, count in train.items() if not count]
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise DataError(
            f"{dataset.source}: no training image of {', '.join(lacking[:5])}{more}: it cannot be learned. Add some, or remove the class."
        )
