"""Pairs of texts as a training takes them: pieces, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.backbones.seq2seq import Seq2Seq
from headstart.errors import DataError

IGNORED = -100
"""Stands for padding in targets: it has no loss."""
_ROUNDED = 8  # lengths are rounded up to such steps: pairs of one step are shuffled among each other


@dataclass(frozen=True)
class PairBatch:
    """Pieces of sources int64 (N, S) with their mask, and of targets (N, T), `IGNORED` where they are padded; on a device."""

    sources: Any
    mask: Any
    targets: Any

    @property
    def count(self) -> int:
        """How many pieces have a loss."""
        return int((self.targets != IGNORED).sum())


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pieces of n pairs; `cut` is how many texts were longer than the network takes."""

    sources: list[list[int]]
    targets: list[list[int]]
    padding: int
    cut: int = 0

    @classmethod
    def of(cls, network: Seq2Seq, sources: Sequence[str], targets: Sequence[str]) -> Self:
        """Cut texts into pieces. DataError for different numbers of texts."""
        if len(sources) != len(targets):
            raise DataError(f"Pairs need a translation for each text: got {len(sources)} texts and {len(targets)} translations.")
        found = network.sources(sources), network.targets(targets)
        cut = sum(len(one) >= network.longest for side in found for one in side)
        return cls(*found, padding=int(network.tokenizer.pad_token_id), cut=cut)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def _rounded(self) -> NDArray[np.int64]:
        longest = [max(len(source), len(target)) for source, target in zip(self.sources, self.targets, strict=True)]
        return -(-np.array(longest, dtype=np.int64) // _ROUNDED) * _ROUNDED

    def batches(self, pieces: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """The rows of each batch of an epoch, in its order: a batch has at most so many pieces on either side, padding included.

        The number of batches is the same in each epoch.
        """
        generator, rounded = np.random.default_rng([seed, epoch]), self._rounded
        shuffled = generator.permutation(len(self))
        order = shuffled[np.argsort(rounded[shuffled], kind="stable")]
        found, start = [], 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * rounded[order[stop]] <= pieces:
                stop += 1
            found.append(order[start:stop])
            start = stop
        return [found[place] for place in generator.permutation(len(found))]

    def batch(self, rows: NDArray[np.int64], device: str) -> PairBatch:
        """The pieces of some pairs, padded to the longest."""
        sources = _padded([self.sources[row] for row in rows], self.padding)
        mask = _padded([[1] * len(self.sources[row]) for row in rows], 0)
        targets = _padded([self.targets[row] for row in rows], IGNORED)
        return PairBatch(sources.to(device), mask.to(device), targets.to(device))


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Any:
    found = torch.full((len(rows), max(map(len, rows))), fill, dtype=torch.long)
    for place, row in enumerate(rows):
        found[place, : len(row)] = torch.tensor(row)
    return found
