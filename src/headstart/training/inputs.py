"""What the network is fed with in training: images, or stored activations at the place where the frozen part ends (PyTorch)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from headstart.engine import Engine, ahead, available_cores
from headstart.errors import RunError
from headstart.files import replacing
from headstart.modalities.image import quiet_decoding
from headstart.modalities.image.mixing import Mixing
from headstart.progress import Progress
from headstart.training.pixels import Pixels
from headstart.training.team import Team

Rows = npt.NDArray[np.int64]
KEPT_PIXELS = 1 << 30
"""Bytes of decoded images that are kept in memory."""
DISK_SHARE = 0.5
"""Of the free space, what stored activations may take."""


class Inputs(Protocol):
    """Batches for the network."""

    def prepare(self, epoch: int | None) -> None:
        """Compute what the epoch (from 0) needs and is not there yet; with None, only the images as in testing."""
        ...

    def views(self, rows: Rows, epoch: int) -> Any:
        """The images of these rows as the epoch sees them: a tensor for the network."""
        ...

    def plain(self, rows: Rows) -> Any:
        """The images of these rows as in testing."""
        ...

    def mixed(self, own: Any, partners: Any, mixing: Mixing) -> Any:
        """Images and their partners, mixed."""
        ...


class ImageInputs:
    """Images, decoded and augmented in threads, normalised for the network: float32 (N, 3, H, W), channels last in memory.

    Args:
        pixels: gives images and views.
        normalise: uint8 tensors (N, H, W, 3) to the network's input.
        device: of the tensors.
    """

    def __init__(self, pixels: Pixels, *, normalise: Callable[[Any], Any], device: str) -> None:
        self._pixels, self._normalise, self._device = pixels, normalise, device
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-images")

    def prepare(self, epoch: int | None) -> None:
        """Nothing is prepared."""

    def views(self, rows: Rows, epoch: int) -> Any:
        """See `Inputs`."""
        return self._tensor(list(self._pool.map(lambda row: self._pixels.view(row, epoch), rows.tolist())))

    def plain(self, rows: Rows) -> Any:
        """See `Inputs`."""
        return self._tensor(list(self._pool.map(self._pixels.plain, rows.tolist())))

    def mixed(self, own: Any, partners: Any, mixing: Mixing) -> Any:
        """See `Inputs`."""
        return mixing.images(own, partners)

    def _tensor(self, images: Sequence[npt.NDArray[np.uint8]]) -> Any:
        batch = torch.from_numpy(np.stack(images)) if images else torch.empty(0, *self._pixels.shape, dtype=torch.uint8)
        if self._device == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        return self._normalise(batch)


class StoredInputs:
    """Activations that the engine computes once from images, kept on disk as float16 and read back batch by batch.

    Args:
        engine: runs the frozen part: an image to an activation (h, w, C), (tokens, C) or (C,).
        pixels: gives images and views.
        rows: which images are stored as views (`train`) and as in testing (`plain`).
        views: how many views of each training image; epochs take turns. 0 where images are not augmented.
        folder: where the files lie; what is there from an earlier, interrupted run is used.
        device, channels_first: of the tensors: whether four-dimensional ones are (N, C, h, w).
        team: one process of each machine computes.
        progress: called as images are done.
    """

    def __init__(
        self, engine: Callable[[], Engine], pixels: Pixels, *, train: Rows, plain: Rows, views: int, folder: Path, device: str,
        channels_first: bool, team: Team, stage: Callable[[str], None], progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self._engine, self._pixels, self._views, self._folder = engine, pixels, views, folder
        self._device, self._channels_first, self._team = device, channels_first, team
        self._stage, self._progress = stage, progress
        self._rows = {"views": train, "plain": plain if views else np.union1d(plain, train)}
        self._where = {name: {row: place for place, row in enumerate(rows.tolist())} for name, rows in self._rows.items()}
        self._open: dict[str, npt.NDArray[np.float16]] = {}

    def prepare(self, epoch: int | None) -> None:
        """See `Inputs`."""
        self._file("plain", "plain", None)
        if self._views and epoch is not None:
            self._file(self._name(epoch), "views", epoch % self._views)

    def views(self, rows: Rows, epoch: int) -> Any:
        """See `Inputs`."""
        return self._read(self._name(epoch), "views", rows) if self._views else self.plain(rows)

    def plain(self, rows: Rows) -> Any:
        """See `Inputs`."""
        return self._read("plain", "plain", rows)

    def mixed(self, own: Any, partners: Any, mixing: Mixing) -> Any:
        """See `Inputs`. What is no map of positions has no box to be cut out: its values are mixed in the same shares."""
        if own.ndim != 4:
            return replace(mixing, box=None).images(own, partners)
        if self._channels_first:
            return mixing.images(own, partners)
        return mixing.images(own.permute(0, 3, 1, 2), partners.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _name(self, epoch: int) -> str:
        return f"view{epoch % self._views}"

    def _read(self, name: str, kind: str, rows: Rows) -> Any:
        places = [self._where[kind][row] for row in rows.tolist()]
        batch = torch.from_numpy(self._open[name][places]).to(self._device).float()
        return batch.permute(0, 3, 1, 2) if batch.ndim == 4 and self._channels_first else batch

    def _file(self, name: str, kind: str, view: int | None) -> None:
        if name in self._open:
            return
        path, rows = self._folder / f"{name}.npy", self._rows[kind]
        with self._team.one_first():
            if not path.exists():
                self._compute(path, rows, view)
        self._open[name] = np.load(path, mmap_mode="r")  # closed with this object, when the training is over

    def _compute(self, path: Path, rows: Rows, view: int | None) -> None:
        """Write a file of activations, whole or not at all."""
        self._stage("Computing the frozen part" + ("" if view is None else f", view {view + 1} of {self._views}"))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Not through a memory map: on a full disk that ends the process without a word.
            with replacing(path, durable=False) as partial, partial.open("wb") as stream:
                for done, activation in enumerate(self._activations(rows, view)):
                    if not done:
                        _write_header(stream, (len(rows), *activation.shape))
                    stream.write(np.clip(activation, -_LARGEST, _LARGEST).astype(np.float16).tobytes())
                    if self._progress is not None:
                        self._progress(done + 1, len(rows))
                if not len(rows):
                    _write_header(stream, (0, 1))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RunError(
                f"The output of the frozen part cannot be kept in {self._folder}: "
                f"{'the disk is full' if full else error.strerror or error}. Free some space, or choose another --out."
            ) from None

    def _activations(self, rows: Rows, view: int | None) -> Iterator[npt.NDArray[np.float32]]:
        def pixels(row: int) -> npt.NDArray[np.uint8]:
            return self._pixels.plain(row) if view is None else self._pixels.view(row, view)

        if not len(rows):
            return
        with quiet_decoding(), ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-views") as pool:
            for outputs in self._engine().run(ahead(pool, pixels, rows.tolist())):
                yield outputs[0]


_LARGEST = 65504.0  # of float16
_VIEWS = "views.json"


def _write_header(stream: IO[bytes], shape: tuple[int, ...]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)


def affordable_views(wanted: int, *, bytes_each: int, train: int, plain: int, folder: Path) -> tuple[int, int]:
    """How many views fit on the disk, at most `wanted`, and how many bytes all files then take; (-1, bytes) where not even one fits.

    The answer is kept in the folder and holds for the whole training: when that goes on another day, or another process asks while the
    first files are being written, there is other room on the disk.

    Args:
        wanted: views of each training image; 0 where images are not augmented.
        bytes_each: of one activation.
        train: number of training images.
        plain: number of images that are stored as in testing besides.
        folder: where they are to lie.
    """
    above = next(place for place in (folder, *folder.parents) if place.exists())
    room = int(shutil.disk_usage(above).free * DISK_SHARE)

    def size(views: int) -> int:
        return bytes_each * (plain + (views * train if views > 0 else train))

    fitting = (views for views in range(wanted, -1, -1) if size(views) <= room and (views or not wanted))
    views = _decided(folder / _VIEWS, next(fitting, -1))
    return views, size(views)


def _decided(path: Path, views: int) -> int:
    """What the file says, where there is one; else `views`, which it then says."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(views))
        with contextlib.suppress(OSError):
            os.link(part, path)  # only the first succeeds, and the file is whole at once
        part.unlink()
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads(path.read_text()))
    return views
