"""`TranslationEngine`: runs the network of a run over texts, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.beam_search import BEAMS, translated
from headstart.backbones.seq2seq import Languages, Seq2Seq, require
from headstart.engine import OfProcess, gpu_is_there
from headstart.tasks.outputs import State

_AT_ONCE = 256  # texts that are sorted by length together


class TranslationEngine:
    """Translates texts by beam search, with PyTorch; on a GPU where there is one."""

    name = "torch"

    def __init__(self, folder: Path, state: State) -> None:
        require(f"Predicting with the run {folder}")
        self._beams = int(state.get("beams", BEAMS))
        languages = Languages(*(str(state.get(name, "")) for name in ("source_language", "target_language", "prefix")))
        self._network = OfProcess(lambda: _on_device(Seq2Seq.load(folder, languages=languages)))

    def run(self, texts: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
        """For each text its translation, the text itself, and no features: arrays of one string (), and float32 (0,)."""
        waiting = iter(texts)
        while some := [one if isinstance(one, str) else "" for one in islice(waiting, _AT_ONCE)]:
            for text, line in zip(some, translated(self._network(), some, beams=self._beams), strict=True):
                yield np.array(line, dtype=np.object_), np.array(text, dtype=np.object_), np.empty(0, np.float32)


def _on_device(network: Seq2Seq) -> Seq2Seq:
    if gpu_is_there():
        network.model.cuda()
    return network
