"""Reads Keras' own weight files (HDF5): ``.h5`` of any Keras, ``.weights.h5`` of Keras 3, and whole models (``.h5``, ``.keras``).

A file is read as layers by name, each with its arrays in Keras' order. Only plain arrays inside the file are read: no links to other files,
no configuration, no code; h5py is imported inside the functions only.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.weight_files import Array, Refused
from headstart.errors import BackboneError, MissingExtraError

Layers = dict[str, list[Array]]

_INSIDE = "model.weights.h5"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_DEPTH = 16  # of models in models
_MAX_ARRAYS = 20_000


def is_of_keras(path: Path) -> bool:
    """Whether a file is HDF5, or an archive as Keras 3 writes one of a whole model."""
    with path.open("rb") as stream:
        if stream.read(len(_SIGNATURE)) == _SIGNATURE:
            return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _INSIDE in archive.namelist()


def _hdf5(path: Path) -> Any:
    """The HDF5 file, or what h5py takes for one: of an archive its member with the weights, which Keras does not compress."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(_INSIDE).compress_type != zipfile.ZIP_STORED:
            raise Refused("is compressed, which Keras never does")
        return io.BytesIO(archive.read(_INSIDE))


def read_layers(path: Path) -> Layers:
    """The layers with weights by name, each with its arrays in the order in which Keras has them.

    Raises BackboneError where the file is cut off, is not one that Keras wrote, or refers to anything outside itself; MissingExtraError
    without h5py.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(f"Reading {path.name}, a file of Keras,", extra="torch") from None
    try:
        with h5py.File(_hdf5(path), "r") as file:
            found = list(_named(h5py, file))
            _check_sizes(found, path.stat().st_size)
            layers: Layers = {}
            for name, arrays in found:
                if arrays and name in layers:
                    raise Refused(f"has two layers {name!r}: give the file of one network")
                if arrays:
                    layers[name] = [np.asarray(array[()]) for array in arrays]
        if not layers:
            raise Refused("holds no layers with weights as Keras writes them")
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError, ... on damaged files
        reason = str(error) if isinstance(error, Refused) else f"cannot be read ({type(error).__name__})"
        raise BackboneError(
            f"{path}: {'is cut off' if 'truncated' in str(error) else reason}. Expected is a file of a network of keras.applications, "
            "as model.save_weights or model.save writes it."
        ) from None
    return layers


def _check_sizes(found: list[tuple[str, list[Any]]], size: int) -> None:
    arrays = [array for _, arrays in found for array in arrays]
    if len(arrays) > _MAX_ARRAYS:
        raise Refused(f"holds more than {_MAX_ARRAYS} arrays")
    if any(array.external or array.is_virtual or array.dtype.kind not in "fiu" for array in arrays):
        raise Refused("refers to other files, or holds something else than numbers")
    if sum(array.nbytes for array in arrays) > size:
        raise Refused("announces more numbers than it holds")


def _named(h5py: Any, file: Any) -> Iterator[tuple[str, list[Any]]]:
    """(layer, its datasets) of either layout."""
    top = _member(h5py, file, "model_weights") if "model_weights" in file else file  # a whole model, its configuration beside it
    if "layer_names" in top.attrs:
        for name in _texts(top.attrs["layer_names"]):
            group = _member(h5py, top, name)
            yield from _legacy(h5py, name, group)
    else:
        yield from _current(h5py, top, 0)


def _legacy(h5py: Any, layer: str, group: Any) -> Iterator[tuple[str, list[Any]]]:
    """A layer, or the layers of a model used as one, whose arrays are called ``layer/kernel:0``."""
    owners: dict[str, list[Any]] = {}
    for name in _texts(group.attrs.get("weight_names", ())):
        owners.setdefault(([layer, *name.split("/")])[-2], []).append(_member(h5py, group, name))
    yield from owners.items() if len(owners) > 1 else ((layer, arrays) for arrays in owners.values())


def _current(h5py: Any, group: Any, depth: int) -> Iterator[tuple[str, list[Any]]]:
    """Groups ``.../LAYER/vars/0, 1, ...``, where ``vars`` has the layer's own name as an attribute."""
    if depth > _MAX_DEPTH:
        raise Refused("nests its groups without end")
    for key in group:
        if key == "optimizer":
            continue
        inner = _member(h5py, group, key)
        if key != "vars":
            if isinstance(inner, h5py.Group):
                yield from _current(h5py, inner, depth + 1)
            continue
        arrays = [_member(h5py, inner, str(number)) for number in range(len(inner))]
        if arrays and "name" not in inner.attrs:
            raise Refused("was written by an early Keras 3, without the names of its layers: save it again with a newer one")
        yield str(inner.attrs.get("name", "")), arrays


def _member(h5py: Any, group: Any, name: str) -> Any:
    """What a group holds under a name, never through a link to another place or file."""
    held = group
    for part in name.split("/"):
        if not isinstance(held, h5py.Group) or not isinstance(held.get(part, getlink=True), h5py.HardLink):
            raise Refused(f"has no {name[:60]!r} where it announces one")
        held = held[part]
    return held


def _texts(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
