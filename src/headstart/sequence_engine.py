"""Engines of texts: run a network over documents of any length, in order, as fast as this machine can.

Documents come as pieces in windows (`Encoded`), with further vectors, or as vectors alone. Some hundreds at a time are sorted by length and
put into batches of nearly equal length, so that hardly anything is padding; the batches are computed on as many streams as there are cores.
A document's numbers depend on its neighbours in the last bits only (about 1e-6). One document that comes alone has all cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.engine import (
    Compiled,
    Engine,
    OfProcess,
    Outputs,
    ahead,
    available_cores,
    file_version,
    installed_kind,
    one_thread_session,
    open_engine,
    unchanged,
)
from headstart.errors import ParameterError
from headstart.modalities.text import Encoded

Document = Encoded | Mapping[str, Any]
"""An encoded text; or by name, as the graph has them: ``windows``, a sequence of int64 vectors, and further vectors."""

Feed = dict[str, npt.NDArray[Any]]

PRECISIONS = ("f32", "bf16")
AT_ONCE = 512
"""Documents that are sorted together."""

MOST_PIECES, MOST_DOCUMENTS = 1024, 64
"""Of one batch, padding included: larger ones leave the cache of a core, smaller ones spend more time between the layers."""

_PIECES = ("input_ids", "attention_mask", "windows")


class SequenceEngine(Protocol):
    """What every engine of texts offers."""

    name: str

    def run(self, items: Iterable[Document]) -> Iterator[Outputs]:
        """Yield, for each document and in order, one float32 array for each output, without the batch dimension.

        The iterable is drawn from while earlier documents are being computed, at most a thousand or so ahead. Raises ParameterError for a
        document that lacks one of the inputs of the network.
        """


def open_sequence_engine(
    network: Path, kind: str = "auto", outputs: Sequence[str] = ("features",), *, precision: str = "f32"
) -> SequenceEngine:  # fmt: skip
    """Open a network of texts, a self-contained ONNX file, for computing these outputs.

    `kind` and errors are as of `headstart.engine.open_engine`. With `precision` ``bf16``, OpenVINO computes in 16 bits where the processor
    can: twice as fast, with differences of about one per cent, so that nothing that was learned in 32 bits should be fed with it.
    """
    if precision not in PRECISIONS:
        raise ParameterError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    return _opened(installed_kind(kind), network, file_version(network), tuple(outputs), precision)


def open_engine_for(network: Path, *, size: int, kind: str = "auto", outputs: Sequence[str] = ("features",)) -> Engine:
    """Open a network for images of `size` pixels, or where that is 0 for texts; arguments and errors as of `open_engine`."""
    if size:
        return open_engine(network, kind=kind, outputs=outputs, size=size)
    return open_sequence_engine(network, kind, outputs)


@lru_cache(maxsize=4)
def _opened(kind: str, network: Path, version: tuple[int, ...], outputs: tuple[str, ...], precision: str) -> SequenceEngine:
    same = unchanged(network, version)
    if kind == "openvino":
        return _Engine(kind, lambda: _OfOpenVino(same(), outputs, precision))
    return _Engine(kind, lambda: _OfOnnxRuntime(same(), outputs))


class _Network(Protocol):
    """An opened network: the names of its inputs, and what computes its outputs, from several threads at once."""

    inputs: tuple[str, ...]
    workers: int

    def __call__(self, feed: Feed, *, alone: bool) -> Outputs: ...


class _Engine:
    """Sorts, pads and orders for a network."""

    def __init__(self, name: str, opened: Callable[[], _Network]) -> None:
        self.name, self._opened = name, OfProcess(opened)

    def run(self, items: Iterable[Document]) -> Iterator[Outputs]:
        """Yield the outputs of each document, in order (see `SequenceEngine`)."""
        network = self._opened()
        documents = (vectors(item, network.inputs) for item in items)
        first = list(islice(documents, 2))
        if len(first) < 2:
            for document in first:
                yield tuple(output[0] for output in network(padded([document]), alone=True))
            return
        done: dict[int, Outputs] = {}
        following = 0

        def computed(batch: tuple[list[int], list[Feed]]) -> tuple[list[int], Outputs]:
            return batch[0], network(padded(batch[1]), alone=False)

        with ThreadPoolExecutor(network.workers, thread_name_prefix="headstart-engine") as pool:
            for places, outputs in ahead(pool, computed, batches(chain(first, documents)), most=network.workers + 2):
                done.update((place, tuple(output[row].copy() for output in outputs)) for row, place in enumerate(places))
                while following in done:
                    yield done.pop(following)
                    following += 1


def vectors(item: Document, inputs: tuple[str, ...]) -> dict[str, Any]:
    """The vectors of a document that a network takes; ``windows`` is a sequence of them."""
    given: Mapping[str, Any] = {"windows": item.windows} if isinstance(item, Encoded) else item
    needed = {"windows" if name in _PIECES else name for name in inputs}
    if missing := sorted(needed - given.keys()):
        raise ParameterError(f"A document for this network needs {', '.join(sorted(needed))}; {', '.join(missing)} is missing.")
    return {name: given[name] for name in sorted(needed)}


def _length(document: Mapping[str, Any]) -> tuple[int, int]:
    """How many pieces the longest window has, and how many windows there are; without windows the longest vector."""
    if "windows" in document:
        return max(map(len, document["windows"])), len(document["windows"])
    return max((len(value) for value in document.values()), default=0), 1


def batches(documents: Iterable[dict[str, Any]]) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
    """Put documents into batches of nearly equal length, the longest of `AT_ONCE` first: their places among all, and themselves."""
    waiting, start = iter(documents), 0
    while some := list(islice(waiting, AT_ONCE)):
        lengths = [_length(one) for one in some]
        batch: list[int] = []
        longest = rows = 0
        for place in sorted(range(len(some)), key=lambda place: lengths[place], reverse=True):
            if batch and ((rows + lengths[place][1]) * longest > MOST_PIECES or len(batch) >= MOST_DOCUMENTS):
                yield [start + one for one in batch], [some[one] for one in batch]
                batch, rows = [], 0
            longest = longest if batch else lengths[place][0]
            batch.append(place)
            rows += lengths[place][1]
        yield [start + one for one in batch], [some[one] for one in batch]
        start += len(some)


def padded(documents: Sequence[Mapping[str, Any]]) -> Feed:
    """The inputs of a network for documents: vectors side by side, filled up with 0, and which windows are whose."""
    feed = Feed()
    for name in documents[0]:
        if name != "windows":
            feed[name] = _rows([np.asarray(document[name]) for document in documents])
            continue
        windows = [window for document in documents for window in document[name]]
        feed["input_ids"] = _rows(windows)
        lengths = np.array([len(window) for window in windows])
        feed["attention_mask"] = (np.arange(feed["input_ids"].shape[1]) < lengths[:, None]).astype(np.int64)
        counts = [len(document[name]) for document in documents]
        owners = np.repeat(np.arange(len(documents)), counts)
        weights = np.zeros((len(documents), len(windows)), np.float32)
        weights[owners, np.arange(len(windows))] = 1 / np.repeat(np.array(counts, np.float32), counts)
        feed["windows"] = weights
    return feed


def _rows(vectors: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Vectors as rows, filled up with 0, at least one column."""
    rows = np.zeros((len(vectors), max(1, *map(len, vectors))), vectors[0].dtype)
    for row, vector in zip(rows, vectors, strict=True):
        row[: len(vector)] = vector
    return rows


class _OfOpenVino:
    """A network in OpenVINO, with a request for each thread."""

    def __init__(self, network: Path, outputs: tuple[str, ...], precision: str) -> None:
        self._network, self._threads = Compiled(network, outputs, precision=precision), threading.local()
        self.inputs = tuple(one.get_any_name() for one in self._network.model.inputs)
        self.workers = available_cores() + 1  # one prepares while the others wait for their streams

    def __call__(self, feed: Feed, *, alone: bool) -> Outputs:
        hint = "LATENCY" if alone else "THROUGHPUT"
        requests = self._threads.__dict__
        if hint not in requests:
            requests[hint] = self._network.compiled(hint).create_infer_request()
        requests[hint].infer({name: feed[name] for name in self.inputs}, share_inputs=True)
        return tuple(requests[hint].get_output_tensor(index).data.copy() for index in self._network.indices)


class _OfOnnxRuntime:
    """A network in ONNX Runtime."""

    def __init__(self, network: Path, outputs: tuple[str, ...]) -> None:
        self._session, self._outputs = one_thread_session(network), list(outputs)
        self.inputs = tuple(one.name for one in self._session.get_inputs())
        self.workers = available_cores()

    def __call__(self, feed: Feed, *, alone: bool) -> Outputs:
        return tuple(self._session.run(self._outputs, {name: feed[name] for name in self.inputs}))
