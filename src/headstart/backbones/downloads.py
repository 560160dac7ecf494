"""Fetches published weights: from the Hugging Face Hub or an address that timm knows, announced before and checked after."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from headstart.backbones.records import HUB_SOURCE, URL_SOURCE, BackboneRecord
from headstart.errors import BackboneError, MissingExtraError
from headstart.files import file_digest
from headstart.progress import quiet

_FILES = ("model.safetensors", "pytorch_model.bin")
_HELP = (
    "With the file at hand, give it with --weights FILE; a folder of earlier downloads is found through the environment variable HF_HOME; "
    "HF_HUB_OFFLINE=1 stops every attempt to go online. tf_efficientnet_lite0, 1 and 2 need no download."
)


def _megabytes(record: BackboneRecord) -> str:
    return f"about {record.file_size / 1e6:.0f} MB" if record.file_size else "size not known beforehand"


def _checked_by_name(path: Path, digest: str) -> None:
    """The Hub names its cached files by their SHA-256, PyTorch's file names end in the beginning of it: compare."""
    match = re.fullmatch(r"(?:.*-)?([0-9a-f]{64}|(?<=-)[0-9a-f]{8,63})(?:\.\w+)?", path.resolve().name)
    told = match[1] if match else ""
    if not digest.startswith(told):
        raise BackboneError(f"{path} is damaged: its SHA-256 is {digest}, it should begin with {told}. Delete it and try again.")


def _from_hub(record: BackboneRecord, announce: Callable[[str], None]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError(f"Downloading the weights of {record.name}", extra="torch") from None
    owner, repository, *inside = record.source.removeprefix(HUB_SOURCE).split("/", 2)
    where = f"{owner}/{repository}"
    names = tuple(inside) or _FILES
    for name in names:
        kept = huggingface_hub.try_to_load_from_cache(where, name)
        if isinstance(kept, str):
            return Path(kept)
    folder = huggingface_hub.constants.HF_HUB_CACHE
    announce(f"Downloading the weights of {record.name} ({_megabytes(record)}) from https://huggingface.co/{where} to {folder}")
    for name in names:
        try:
            with quiet("huggingface_hub"):  # it writes two lines for each of its five attempts
                return Path(huggingface_hub.hf_hub_download(where, name))
        except LocalEntryNotFoundError as error:
            raise _unreachable(f"{where}/{name}", error) from None
        except EntryNotFoundError:
            continue
        except Exception as error:  # as below
            raise _unreachable(f"{where}/{name}", error) from None
    raise BackboneError(f"https://huggingface.co/{where} holds none of {', '.join(names)}. {_HELP}")


def _from_address(record: BackboneRecord, announce: Callable[[str], None]) -> Path:
    from timm.models._hub import download_cached_file, get_cache_dir

    address = record.source.removeprefix(URL_SOURCE)
    path = Path(get_cache_dir()) / address.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _unreachable(address, "HF_HUB_OFFLINE is set")
    announce(f"Downloading the weights of {record.name} ({_megabytes(record)}) from {address} to {path.parent}")
    try:
        return Path(download_cached_file(address, check_hash=True, progress=True))
    except Exception as error:  # network, proxy, permission, disk: each layer below has its own
        raise _unreachable(address, error) from None


def _unreachable(what: str, error: Exception | str) -> BackboneError:
    while isinstance(error, Exception) and error.__cause__ is not None and str(error.__cause__).strip():
        error = error.__cause__  # type: ignore[assignment]  # the first cause says what happened, the rest what it led to
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BackboneError(f"The weights {what} are neither on this machine nor can they be downloaded now ({reason.rstrip('.')}). {_HELP}")


def published_weights(record: BackboneRecord, *, announce: Callable[[str], None]) -> tuple[Path, str]:
    """Return the file of a record's published weights and its SHA-256, downloading it if it is not on this machine.

    Args:
        record: with a source ``hub:`` or ``url:``.
        announce: called with one line before a download (what, how large, from where, to where) and one after (the SHA-256).

    Raises:
        BackboneError: it cannot be reached, is damaged, or nobody publishes weights for this network.
    """
    if record.source.startswith(HUB_SOURCE):
        path = _from_hub(record, announce)
    elif record.source.startswith(URL_SOURCE):
        path = _from_address(record, announce)
    else:
        raise BackboneError(f"Nobody publishes ImageNet weights for {record.name} that timm knows of. Give your own with --weights FILE.")
    digest = file_digest(path)
    if record.weights_digest not in (None, digest):
        raise BackboneError(f"{path} is not the published file: its SHA-256 is {digest}, it should be {record.weights_digest}.")
    _checked_by_name(path, digest)
    announce(f"Weights of {record.name}: {path.name}, {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")
    return path, digest
