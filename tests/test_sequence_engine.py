"""Documents of any length come back in order, with the numbers that each has alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.backbones.bert import Architecture, build, entry_names
from headstart.engine import ENGINES, open_session
from headstart.errors import BackboneError, ParameterError
from headstart.modalities.text import Encoded
from headstart.onnx_graph import OnnxGraph
from headstart.sequence_engine import AT_ONCE, MOST_DOCUMENTS, MOST_PIECES, batches, open_sequence_engine

KINDS = [kind for kind in ENGINES if kind not in ("auto", "torch") and find_spec(kind)]
CONFIG = {
    "model_type": "bert", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2,
    "max_position_embeddings": 300, "type_vocab_size": 2,
}  # fmt: skip
Floats = npt.NDArray[np.float32]


def random_tensors(architecture: Architecture, *, pieces: int = 50) -> dict[str, Floats]:
    rng, of = np.random.default_rng(2), architecture
    tables = {"word": (pieces, of.dim), "position": (of.positions, of.dim), "token_type": (of.segments, of.dim)}

    def shape(name: str) -> tuple[int, ...]:
        if (table := name.split(".")[1].partition("_embeddings")[0]) in tables:
            return tables[table]
        wide, narrow = "intermediate.dense" in name, "output.dense" in name and "attention" not in name
        if "LayerNorm" in name or name.endswith("bias"):
            return (of.wide if wide else of.dim,)
        return (of.wide if wide else of.dim, of.wide if narrow else of.dim)

    return {name: rng.normal(size=shape(name)).astype(np.float32) for name in entry_names(of)}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    path.write_bytes(build(CONFIG, random_tensors(Architecture.of(CONFIG))).SerializeToString())
    return path


def document(*lengths: int, seed: int = 0) -> Encoded:
    rng = np.random.default_rng([seed, *lengths])
    return Encoded(tuple(rng.integers(0, 50, length) for length in lengths), sum(lengths), False)


def documents(count: int) -> list[Encoded]:
    rng = np.random.default_rng(7)
    return [document(*rng.integers(1, 40, rng.choice([1, 1, 1, 3])), seed=seed) for seed in range(count)]


def alone(network: Path, one: Encoded) -> Floats:
    """The mean of the windows, each computed without padding."""
    session = open_session(network, kind="onnxruntime")
    feeds = [{"input_ids": window[None], "attention_mask": np.ones((1, len(window)), np.int64)} for window in one.windows]
    return np.mean([session({**feed, "windows": np.ones((1, 1), np.float32)})["features"][0] for feed in feeds], axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_has_the_numbers_that_it_has_alone(network: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    given = documents(40)
    found = [row for (row,) in open_sequence_engine(network, kind).run(given)]
    assert found[0].dtype == np.float32
    np.testing.assert_allclose(found, [alone(network, one) for one in given], atol=2e-5)
    (single,) = open_sequence_engine(network, kind).run(given[:1])
    np.testing.assert_allclose(single[0], found[0], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_kept_over_many_chunks(network: Path, kind: str) -> None:
    given = documents(AT_ONCE + 90)
    engine = open_sequence_engine(network, kind)
    order = np.random.default_rng(1).permutation(len(given))
    found = np.stack([row for (row,) in engine.run(given)])
    again = np.stack([row for (row,) in engine.run(given[place] for place in order)])
    np.testing.assert_allclose(again, found[order], atol=2e-5)
    assert len(np.unique(found.round(3), axis=0)) > len(given) - 9  # of one piece, two may be alike


def test_nothing_in_is_nothing_out(network: Path) -> None:
    assert list(open_sequence_engine(network).run([])) == []


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_drawn_as_they_are_needed(network: Path, kind: str) -> None:
    drawn = 0

    def counted() -> Iterator[Encoded]:
        nonlocal drawn
        for one in documents(10) * 1000:
            drawn += 1
            yield one

    found = open_sequence_engine(network, kind).run(counted())
    next(found)
    assert drawn <= 3 * AT_ONCE
    found.close()  # type: ignore[attr-defined]


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(1, 256), min_size=1, max_size=32), max_size=700))
def test_batches_hold_each_document_once_and_little_padding(lengths: list[list[int]]) -> None:
    given = [{"windows": [np.zeros(length, np.int64) for length in one]} for one in lengths]
    made = list(batches(given))
    assert sorted(place for places, _ in made for place in places) == list(range(len(given)))
    for places, some in made:
        assert all(one is given[place] for place, one in zip(places, some, strict=True))
        rows, longest = sum(len(lengths[place]) for place in places), max(max(lengths[place]) for place in places)
        assert len(places) == 1 or (rows * longest <= MOST_PIECES and len(places) <= MOST_DOCUMENTS)


def with_terms(path: Path, *, encoder: bool) -> Path:
    """A graph of the sum of the counts of each document by term, to which the number of its pieces may be added."""
    graph = OnnxGraph()
    weights = graph.node("Gather", graph.constant([0.0, 10.0, 200.0, 3000.0]), "terms", axis=0)
    total = graph.node("ReduceSum", graph.node("Mul", weights, "counts"), graph.integers(1), keepdims=1)
    inputs: dict[str, Any] = {"terms": (np.int64, ("N", "K")), "counts": (np.float32, ("N", "K"))}
    if encoder:
        inputs |= {"attention_mask": (np.int64, ("R", "T")), "windows": (np.float32, ("N", "R"))}
        lengths = graph.node("ReduceSum", graph.node("Cast", "attention_mask", to=1), graph.integers(1), keepdims=1)
        total = graph.node("Add", total, graph.node("MatMul", "windows", lengths))
    graph.node("Identity", total, output="features")
    path.write_bytes(graph.model(inputs=inputs, outputs={"features": (np.float32, ("N", 1))}).SerializeToString())
    return path


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_further_vectors_reach_the_graph(tmp_path: Path, kind: str, encoder: bool) -> None:
    rng = np.random.default_rng(3)
    given, truth = [], []
    for length in rng.integers(0, 30, 150):
        terms, counts = rng.integers(1, 4, length), rng.integers(1, 5, length).astype(np.float32)
        windows = document(*rng.integers(1, 9, rng.integers(1, 4))).windows
        given.append({"terms": terms, "counts": counts, "windows": windows, "unused": 1})
        truth.append(np.array([0, 10, 200, 3000])[terms] @ counts + (np.mean([len(one) for one in windows]) if encoder else 0))
    engine = open_sequence_engine(with_terms(tmp_path / "terms.onnx", encoder=encoder), kind)
    np.testing.assert_allclose([row[0] for (row,) in engine.run(given)], truth, rtol=1e-5)
    with pytest.raises(ParameterError, match=r"needs counts, terms.*; counts is missing"):
        list(engine.run([{"terms": np.ones(1, np.int64), "windows": (np.ones(1, np.int64),)}]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_among_the_documents_comes_through(network: Path, kind: str) -> None:
    def broken() -> Iterator[Encoded]:
        yield from documents(3)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        list(open_sequence_engine(network, kind).run(broken()))


def test_what_cannot_be_opened_is_refused(network: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="Engine must be one of"):
        open_sequence_engine(network, "fast")
    with pytest.raises(ParameterError, match="precision must be one of f32, bf16, got 'int8'"):
        open_sequence_engine(network, precision="int8")
    with pytest.raises(BackboneError, match="cannot be opened"):
        open_sequence_engine(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    for kind in KINDS:
        with pytest.raises(BackboneError, match="cannot load this network"):
            open_sequence_engine(tmp_path / "broken.onnx", kind)


def _in_child(network: Path, given: list[Encoded], answers: Any) -> None:
    answers.put(np.stack([row for (row,) in open_sequence_engine(network).run(given)]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own(network: Path) -> None:
    given = documents(20)
    truth = np.stack([row for (row,) in open_sequence_engine(network).run(given)])
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    child = context.Process(target=_in_child, args=(network, given, answers), daemon=True)
    child.start()
    np.testing.assert_allclose(answers.get(timeout=60), truth, atol=2e-5)
    child.join(10)
