"""Static embeddings are the mean of the vectors of the known pieces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headstart.backbones.static_embeddings import plain_tokenizer, table_of
from headstart.backbones.text_models import load_text_backbone
from headstart.errors import BackboneError
from headstart.modalities.text import uncased_tokenizer
from headstart.sequence_engine import open_sequence_engine

pytest.importorskip("tokenizers")

TEXTS = ["a cat and a dog", "", "\N{SNOWMAN WITHOUT SNOW} cat", "many words " * 700]


def test_a_folder_of_model2vec_averages_the_known_pieces(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tokenizer, rng = uncased_tokenizer(), np.random.default_rng(4)
    table = rng.normal(size=(tokenizer.size, 8)).astype(np.float32)
    folder = tmp_path / "static"
    folder.mkdir()
    save_file({"embeddings": table.astype(np.float16)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    (folder / "tokenizer.json").write_bytes(tokenizer.json)
    backbone = load_text_backbone(str(folder), cache=tmp_path / "cache", announce=lambda line: None)
    assert [(layer.name, layer.start, layer.stop) for layer in backbone.layers] == [("last", 0, 8)]
    found = [row for (row,) in open_sequence_engine(backbone.network).run(backbone.preprocessing.all(TEXTS))]
    for text, row in zip(TEXTS, found, strict=True):
        ids = tokenizer.pieces([text])[0]
        ids = ids[ids != 100]
        truth = table.astype(np.float16).astype(np.float32)[ids].mean(0) if len(ids) else np.zeros(8)
        np.testing.assert_allclose(row, truth, atol=2e-3 if len(ids) > 512 else 1e-5)


def test_shared_vectors_and_weights_of_pieces() -> None:
    table = table_of({"embeddings": np.eye(2, dtype=np.float16), "mapping": np.array([1, 1, 0]), "weights": np.array([1.0, 2.0, 3.0])})
    assert table.tolist() == [[0, 1], [0, 2], [3, 0]]


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(BackboneError, match="no table 'embeddings'"):
        table_of({"other": np.ones((2, 2))})
    with pytest.raises(BackboneError, match="do not fit each other"):
        table_of({"embeddings": np.ones((2, 2)), "mapping": np.array([5])})
    with pytest.raises(BackboneError, match="not one of the library tokenizers"):
        plain_tokenizer(b"{}")
