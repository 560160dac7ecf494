"""Folders with a network of texts in the layout of the Hugging Face Hub, as transformers and sentence-transformers write them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.weight_files import read_tensors
from headstart.errors import BackboneError, MissingExtraError
from headstart.files import file_digest

Array = np.ndarray[Any, np.dtype[Any]]

MOST_PIECES = 512
"""Of one window, also for networks that could take more: the time of attention grows with the square of the length."""

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_FIRST_POSITION = {"roberta", "xlm-roberta", "camembert", "mpnet"}  # two rows of the table of positions are not for pieces


@dataclass(frozen=True)
class TextFolder:
    """What a network of texts is made of.

    Attributes:
        folder: where its ``config.json`` lies.
        config: the entries of that.
        tokenizer: the bytes of its ``tokenizer.json``.
        weights: its weight files; several where it is cut in parts.
        max_length: the most pieces in a window, special ones included.
    """

    folder: Path
    config: Mapping[str, Any]
    tokenizer: bytes
    weights: tuple[Path, ...]
    max_length: int

    @classmethod
    def read(cls, folder: Path) -> TextFolder:
        """Find the parts. Raises BackboneError where one is missing."""
        inner, most = _of_sentences(folder)
        config = _entries(inner / "config.json", needed=True)
        lengths = [MOST_PIECES, *most, _positions(config), _entries(inner / "tokenizer_config.json").get("model_max_length")]
        known = [int(length) for length in lengths if isinstance(length, int | float) and length > 0]
        return cls(inner, config, _tokenizer(inner, folder), _weight_files(inner), min(known))

    @property
    def kind(self) -> str:
        """``model_type`` in the configuration."""
        return str(self.config.get("model_type", ""))

    @property
    def digest(self) -> str:
        """SHA-256 over everything that changes a feature."""
        parts = [file_digest(path) for path in self.weights]
        known = json.dumps(self.config, sort_keys=True).encode()
        return hashlib.sha256(b"\0".join([known, self.tokenizer, *map(str.encode, parts)])).hexdigest()

    def tensors(self) -> dict[str, Array]:
        """The entries of all weight files."""
        return {name: value for path in self.weights for name, value in read_tensors(path).items()}


def _entries(path: Path, *, needed: bool = False) -> dict[str, Any]:
    """The entries of a JSON file; none where it is missing, and BackboneError where it is `needed` or is no JSON object."""
    if not path.is_file():
        if needed:
            raise BackboneError(
                f"{path.parent} is not a folder with a network of texts: there is no {path.name}. Give one that "
                "`save_pretrained` wrote, or a copy of one from the Hugging Face Hub."
            )
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError):
        pass
    raise BackboneError(f"{path}: cannot be read as a JSON object. Copy the folder again.")


def _of_sentences(folder: Path) -> tuple[Path, list[Any]]:
    """The folder of the network itself, and the length of a window that a folder of sentence-transformers gives."""
    modules: Any = []
    if (path := folder / "modules.json").is_file():
        try:
            modules = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise BackboneError(f"{path}: cannot be read as JSON. Copy the folder again.") from None
    first = next((one for one in modules if isinstance(one, dict) and one.get("idx", 0) == 0), {}) if isinstance(modules, list) else {}
    inside = str(first.get("path", ""))
    inner = folder / inside if inside and ".." not in Path(inside).parts and not Path(inside).is_absolute() else folder
    return inner, [_entries(inner / "sentence_bert_config.json").get("max_seq_length")]


def _positions(config: Mapping[str, Any]) -> int | None:
    most = config.get("max_position_embeddings")
    return most - 2 if isinstance(most, int) and config.get("model_type") in _FIRST_POSITION else most


def _weight_files(folder: Path) -> tuple[Path, ...]:
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise BackboneError(f"{folder} has no weights: none of {', '.join(_WEIGHTS)} is there. Copy the whole folder.")
    if found.suffix != ".json":
        return (found,)
    names = sorted({Path(str(name)).name for name in _entries(found).get("weight_map", {}).values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise BackboneError(
            f"{folder}: {found.name} names {missing[0] if missing else 'no weight file'}, which is not there. Copy all files."
        )
    return tuple(folder / name for name in names)


def _tokenizer(inner: Path, folder: Path) -> bytes:
    """The ``tokenizer.json``, made by transformers from an older form where it is missing."""
    for path in (inner / "tokenizer.json", folder / "tokenizer.json"):
        if path.is_file():
            return path.read_bytes()
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"{inner} has no tokenizer.json. Making one from its older files", extra="transformers")
    from transformers import AutoTokenizer

    try:
        made: str = AutoTokenizer.from_pretrained(inner, local_files_only=True, trust_remote_code=False).backend_tokenizer.to_str()
    except Exception as error:  # whatever the many tokenizers raise
        raise BackboneError(f"{inner} has no tokenizer.json, and none can be made ({str(error).splitlines()[0][:160]}).") from None
    return made.encode()
