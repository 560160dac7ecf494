"""Networks from text to text, with encoder and decoder, as the Hugging Face Hub has them: Marian, mBART, M2M100, T5 and their kin.

Their folder has ``config.json``, the weights and the files of a tokenizer. Nothing in it is executed: weights are safetensors, or an older
``pytorch_model.bin`` that is parsed (`headstart.backbones.weight_files`).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from headstart.backbones.hub_detectors import quiet_transformers
from headstart.backbones.weight_files import read_tensors
from headstart.errors import BackboneError, MissingExtraError, ParameterError, nearest, setting
from headstart.files import file_digest
from headstart.progress import quiet

CONFIGURATION, WEIGHTS, INDEX, OLD_WEIGHTS = "config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
TOKENIZER_FILES = ("tokenizer.json", "source.spm", "sentencepiece.bpe.model", "spiece.model", "spm.model", "vocab.json")
"""One of these at least belongs to a tokenizer."""
KINDS = ("marian", "mbart", "m2m_100", "t5", "mt5", "umt5", "bart", "pegasus", "longt5", "blenderbot")
"""Kinds of networks, as ``model_type`` of a configuration names them."""
LONGEST = 512
"""Pieces of a text, where neither network nor tokenizer has a limit of its own."""
_WANTED = ("*.json", "*.safetensors", "*.spm", "*.model", "*.txt", "README.md")
_CHARACTERS = 32  # of a text that are read for each piece: the rest would be cut off anyway
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_LANGUAGE = re.compile(r"__(\w+)__|([a-z]{2,3}_[A-Z]\w+)")


@dataclass(frozen=True)
class Languages:
    """From which language into which, where a network knows several; and words that each text begins with, such as T5 has them."""

    source: str = ""
    target: str = ""
    prefix: str = ""


@dataclass(frozen=True, eq=False)
class Seq2Seq:
    """A network with its tokenizer.

    Attributes:
        model: of transformers, in evaluation mode.
        tokenizer: of transformers.
        name: for people: that on the Hub, or of the folder.
        languages: codes that the network knows, or empty.
        licence: what its card says, where there is one.
        digest: SHA-256 of its weights, hexadecimal; empty where there is no file.
    """

    model: Any
    tokenizer: Any
    name: str
    languages: Languages = field(default_factory=Languages)
    licence: str | None = None
    digest: str = ""

    @classmethod
    def load(
        cls, place: str | Path, *, languages: Languages | None = None, announce: Callable[[str], None] = lambda line: None
    ) -> Self:  # fmt: skip
        """Read a network from a folder, or by its name on the Hub, from which it is downloaded if it has not been.

        `announce` is called with a line before a download. Without `languages`, these are still to be told (`between`). Raises
        BackboneError where files are missing, damaged or of another kind, or cannot be downloaded; ParameterError for unknown
        `languages`; and MissingExtraError without transformers.
        """
        require("A network from text to text")
        folder = Path(place)
        if not folder.is_dir():
            if folder.exists() or not _ON_HUB.fullmatch(str(place)):
                raise BackboneError(
                    f"{place} is neither a folder nor a name on the Hugging Face Hub. Give a folder with {CONFIGURATION}, {WEIGHTS} and a "
                    "tokenizer, or a name such as Helsinki-NLP/opus-mt-en-de."
                )
            folder = _downloaded(str(place), announce)
        _check(folder)
        model, tokenizer = _model(folder), _tokenizer(folder)
        last, pieces = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
        if last >= pieces:
            raise BackboneError(f"The tokenizer in {folder} has pieces up to number {last}, and the network {pieces} of them.")
        name = folder.name if Path(place).is_dir() else str(place)
        found = cls(model.eval(), tokenizer, name, licence=_licence(folder / "README.md"), digest=_digest(folder))
        return found if languages is None else found.between(languages)

    def between(self, languages: Languages) -> Self:
        """The same network for these languages. ParameterError where it does not know one, or has to be told."""
        known = self._codes
        if not known:
            return replace(self, languages=Languages(prefix=languages.prefix))
        return replace(
            self, languages=Languages(self._code(languages.source, "source"), self._code(languages.target, "target"), languages.prefix)
        )  # fmt: skip

    @property
    def _marian(self) -> bool:
        return bool(self.model.config.model_type == "marian")

    @property
    def _codes(self) -> dict[str, int]:
        """The languages that the network knows, and their pieces."""
        if self._marian:  # >>de<< before each text
            return {piece.strip("<>"): self.tokenizer.encoder[piece] for piece in self.tokenizer.supported_language_codes}
        special = zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True)
        found = {**self.tokenizer.get_added_vocab(), **dict(special), **getattr(self.tokenizer, "lang_token_to_id", {})}
        matched = ((_LANGUAGE.fullmatch(piece), number) for piece, number in found.items())
        return {match[1] or match[2]: number for match, number in matched if match is not None}

    def _code(self, given: str, which: str) -> str:
        """A language by the network's own code: ``de`` is ``de_DE`` to mBART. Marian has to be told the target only."""
        known = self._codes
        if which == "source" and self._marian:
            return given
        if given in known:
            return given
        close = sorted(code for code in known if given and code.split("_")[0] == given)
        if len(close) == 1:
            return close[0]
        what = f"does not know the {which} language {given!r}" if given else f"has to be told the {which} language"
        raise ParameterError(f"{self.name} {what}. It knows {', '.join(sorted(known))}.{nearest(given, known) if given else ''}")

    @property
    def first_piece(self) -> int | None:
        """The piece that a translation must begin with; None for any."""
        if self._marian or not self.languages.target:
            return None
        return self._codes[self.languages.target]

    @property
    def longest(self) -> int:
        """The most pieces of a text that the network takes; longer ones are cut off."""
        own = getattr(self.model.config, "max_position_embeddings", None) or LONGEST
        return int(min(own, self.tokenizer.model_max_length))

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """The pieces of texts to translate, with those that mark language and end."""
        if not texts:
            return []
        before = self.languages.prefix
        if self._marian and self.languages.target:
            before = f">>{self.languages.target}<< {before}"
        self._set_languages()
        with quiet_transformers():
            found = self.tokenizer([f"{before}{self._beginning(text)}" for text in texts], truncation=True, max_length=self.longest)
        return list(found["input_ids"])

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The pieces of translations, with those that mark language and end."""
        if not texts:
            return []
        self._set_languages()
        with quiet_transformers():
            found = self.tokenizer(text_target=list(map(self._beginning, texts)), truncation=True, max_length=self.longest)
        return list(found["input_ids"])

    def _beginning(self, text: str) -> str:
        """What may be taken of a text, with a question mark for each lone surrogate, which no tokenizer takes."""
        return text[: _CHARACTERS * self.longest].encode("utf-8", "replace").decode()

    def _set_languages(self) -> None:
        if self.languages.target and not self._marian:
            self.tokenizer.src_lang, self.tokenizer.tgt_lang = self.languages.source, self.languages.target

    def texts(self, pieces: Any) -> list[str]:
        """The texts of translations, each in one line."""
        with quiet_transformers():
            found = self.tokenizer.batch_decode(pieces, skip_special_tokens=True)
        return [" ".join(text.split()) for text in found]

    def save(self, folder: Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and the files of the tokenizer."""
        with quiet_transformers():
            self.model.save_pretrained(folder, max_shard_size="1000GB")
            self.tokenizer.save_pretrained(folder)


def require(what: str) -> None:
    """Raises MissingExtraError where PyTorch, transformers or sentencepiece is missing; the message says that `what` needs them."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "sentencepiece")):
        raise MissingExtraError(what, extra="transformers")


def _check(folder: Path) -> None:
    """Refuse a folder that lacks a file, or has a network of another kind."""
    if not (folder / CONFIGURATION).is_file():
        raise BackboneError(f"{folder} has no {CONFIGURATION}. {_layout(folder)}")
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX, OLD_WEIGHTS)):
        raise BackboneError(f"{folder} has no {WEIGHTS}. {_layout(folder)}")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise BackboneError(f"{folder} has no tokenizer: none of {', '.join(TOKENIZER_FILES)}. {_layout(folder)}")
    try:
        kind = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise BackboneError(f"{folder / CONFIGURATION} cannot be read ({error}).") from None
    if kind not in KINDS:
        raise BackboneError(f"{folder.name} is a network of the kind {kind}, not from text to text. Those that are: {', '.join(KINDS)}.")


def _layout(folder: Path) -> str:
    return (
        f"A network from text to text is a folder with {CONFIGURATION}, {WEIGHTS} and the files of its tokenizer, as "
        f"`hf download NAME --local-dir {folder}` writes them."
    )


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Whatever transformers and its readers raise is a BackboneError."""
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:  # they have no tree of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{folder} cannot be read: {reason}") from None


def _model(folder: Path) -> Any:
    with quiet_transformers(), _damage(folder):
        import torch
        from transformers import AutoConfig, AutoModelForSeq2SeqLM

        if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
            model, report = AutoModelForSeq2SeqLM.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True,
                dtype=torch.float32,
            )  # fmt: skip
            missing, wrong = sorted(report["missing_keys"]), sorted(str(one[0]) for one in report["mismatched_keys"])
        else:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            model = AutoModelForSeq2SeqLM.from_config(config)
            missing, wrong = _put(model, read_tensors(folder / OLD_WEIGHTS)), []
            _put_generation(model, folder)
    if missing or wrong:
        name = (missing + wrong)[0]
        raise BackboneError(f"The weights in {folder} lack {name}, or have it in another shape: are they of another network?")
    return model.float()


def _put(model: Any, tensors: Mapping[str, Any]) -> list[str]:
    """Put tensors into a model; the names of weights that are not there, and are not the same as others that are."""
    import torch

    report = model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, strict=False)
    model.tie_weights()
    own, absent = dict(model.named_parameters(remove_duplicate=False)), set(report.missing_keys)
    there = {id(value) for name, value in own.items() if name not in absent}
    return sorted(name for name in absent if name in own and id(own[name]) not in there and not name.endswith("embed_positions.weight"))


def _put_generation(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)


def _tokenizer(folder: Path) -> Any:
    with quiet_transformers(), _damage(folder):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _digest(folder: Path) -> str:
    file = next(folder / name for name in (WEIGHTS, INDEX, OLD_WEIGHTS) if (folder / name).is_file())
    return file_digest(file)


def _licence(card: Path) -> str | None:
    """The licence in the header of a model card."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^licen[cs]e:\s*(\S+)", text, flags=re.MULTILINE)
    return found[1] if found else None


def _downloaded(name: str, announce: Callable[[str], None]) -> Path:
    """The folder of a network on the Hub: on this machine already, or downloaded now."""
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(name, CONFIGURATION)
    if isinstance(cached, str) and any((Path(cached).parent / file).is_file() for file in (WEIGHTS, INDEX, OLD_WEIGHTS)):
        return Path(cached).parent
    page = f"https://huggingface.co/{name}"
    try:
        with quiet("huggingface_hub"):
            files = {one.rfilename: one.size or 0 for one in huggingface_hub.HfApi().model_info(name, files_metadata=True).siblings}
            wanted = (*_WANTED, *(() if any(file.endswith(".safetensors") for file in files) else (OLD_WEIGHTS,)))
            size = sum(size for file, size in files.items() if any(Path(file).match(pattern) for pattern in wanted))
            announce(f"Downloading {name} ({size / 1e6:.0f} MB) from {page} to {huggingface_hub.constants.HF_HUB_CACHE}")
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(wanted)))
    except Exception as error:  # network, proxy, permission, disk, a name that is not there: each has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{name} is not a folder here, and cannot be downloaded from {page} now ({reason.rstrip('.')}). On a machine with internet, "
            f"`hf download {name} --local-dir DIR` writes it; copy that folder here and give it with {setting('backbone', 'DIR')}."
        ) from None
