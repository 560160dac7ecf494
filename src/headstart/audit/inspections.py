"""`Inspection`: how the inputs of each modality are audited, and the words for what is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from headstart.audit.facts import Facts, gather_files
from headstart.audit.findings import Finding
from headstart.audit.near_copies import NearCopies, near_copies
from headstart.audit.near_texts import near_texts
from headstart.audit.oddities import find_faint, find_suspicious
from headstart.audit.shortcuts import find_shortcuts
from headstart.audit.text_shortcuts import find_text_shortcuts
from headstart.audit.texts import find_text_faults, gather_texts
from headstart.backbones import Layer
from headstart.data import Dataset
from headstart.modalities import IMAGE, TEXT
from headstart.progress import Progress
from headstart.text import reworded

Check = Callable[[Dataset, Facts], list[Finding]]


class _Search(Protocol):
    def __call__(
        self, dataset: Dataset, digests: Sequence[bytes], *, features: npt.NDArray[np.float32] | None = None, layers: Sequence[Layer] = (),
        progress: Progress | None = None,
    ) -> NearCopies: ...  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """How the inputs of a modality are audited.

    Attributes:
        gather: the facts of all inputs; arguments as of `gather`.
        faults: what is wrong with single inputs, or odd about them.
        known: those of the faults that a fit names too, since to find them costs next to nothing.
        shortcuts: what gives the class away.
        near_copies: the search for near copies.
        alike: a search for near copies that needs no features and takes little time, so that every check makes it; and a quicker one for
            every fit. None where there is none.
        file, files, picture: what is called so in messages: a file, many of them, and what a person perceives.
        changed: in which way near copies differ.
    """

    gather: Callable[..., Facts]
    faults: Check
    known: Callable[[Dataset], list[Finding]]
    shortcuts: Check
    near_copies: _Search
    alike: tuple[_Search, _Search] | None
    file: str
    files: str
    picture: str
    changed: str


def inspection_of(dataset: Dataset) -> Inspection:
    """How the inputs of these data are audited."""
    return INSPECTIONS[dataset.modality.name]


def gather(dataset: Dataset, *, deep: bool, progress: Progress | None) -> Facts:
    """Read every input; `progress` is called with (done, all). If `deep`, images are decoded at full size."""
    return inspection_of(dataset).gather(dataset, deep=deep, progress=progress)


def in_words_of(dataset: Dataset, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with messages that call the inputs what they are."""
    noun, article = dataset.modality.noun, dataset.modality.article
    return [replace(finding, message=reworded(finding.message, noun, article)) for finding in findings]


def _alike_pictures(
    dataset: Dataset, digests: Sequence[bytes], *, features: npt.NDArray[np.float32] | None = None, layers: Sequence[Layer] = (),
    progress: Progress | None = None,
) -> NearCopies:  # fmt: skip
    return near_copies(dataset.inputs, digests=digests, features=features, layers=layers, levels=dataset.levels, progress=progress)


def _alike_texts(
    dataset: Dataset, digests: Sequence[bytes], *, features: npt.NDArray[np.float32] | None = None, layers: Sequence[Layer] = (),
    progress: Progress | None = None,
) -> NearCopies:  # fmt: skip
    return near_texts([str(one) for one in dataset.inputs], digests=digests)


def _same_texts(
    dataset: Dataset, digests: Sequence[bytes], *, features: npt.NDArray[np.float32] | None = None, layers: Sequence[Layer] = (),
    progress: Progress | None = None,
) -> NearCopies:  # fmt: skip
    return near_texts([str(one) for one in dataset.inputs], digests=digests, alike=1)


INSPECTIONS: Mapping[str, Inspection] = {
    IMAGE.name: Inspection(
        gather=gather_files, faults=lambda dataset, facts: [*find_faint(dataset, facts), *find_suspicious(dataset, facts)],
        known=lambda dataset: [], shortcuts=find_shortcuts, near_copies=_alike_pictures, alike=None,
        file="image file", files="files", picture="picture", changed="(resized, recompressed, cropped or mirrored)",
    ),
    TEXT.name: Inspection(
        gather=gather_texts, faults=lambda dataset, facts: find_text_faults(dataset), known=find_text_faults,
        shortcuts=lambda dataset, facts: find_text_shortcuts(dataset), near_copies=_alike_texts, alike=(_alike_texts, _same_texts),
        file="text", files="texts", picture="text", changed="(with other capitals, spaces or punctuation, or a few other words)",
    ),
}  # fmt: skip
"""By the name of the modality."""
