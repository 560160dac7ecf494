"""The inputs of the network in training: images, or stored activations of its frozen part (PyTorch)."""

from __future__ import annotations

import contextlib
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

from headstart.backbones.stages import Layout
from headstart.engine import Engine, ahead, available_cores
from headstart.errors import DataError, ImageError, RunError
from headstart.features import Images
from headstart.features.stage_maps import part_of
from headstart.features.windows import window_view
from headstart.files import is_full, replacing
from headstart.modalities.image import Preprocessing, image_name, quiet_decoding, source_bytes
from headstart.modalities.image.augment import NONE, Augmentation, Mixing
from headstart.pixels.windows import Windows
from headstart.training.job import Rows, TrainingJob

DECODED_BYTES = 1 << 30
"""Bytes of decoded images that are held in memory."""
DISK_SHARE = 0.5
"""Share of the free disk space that stored activations may take."""
_LARGEST = 65504.0  # of float16
_VIEWS = "views.json"

Uint8 = npt.NDArray[np.uint8]


class Pixels:
    """Decoded images by their number, as in testing, and as augmented views for training; at most `memory` bytes of them are held.

    Where images are seen through `windows`, every view is a window, and so is what stands for an image as in testing.
    """

    def __init__(
        self, images: Images, *, preprocessing: Preprocessing, augmentation: Augmentation, seed: int, memory: int,
        windows: Windows | None = None,
    ) -> None:  # fmt: skip
        self._images, self._preprocessing, self._augmentation, self._seed = images, preprocessing, augmentation, seed
        # A random crop is taken out of the whole image and not out of the part that testing would see.
        share = preprocessing.crop if augmentation.crop < 1 else 1.0
        self._larger = replace(preprocessing, size=round(preprocessing.size / share), crop=1.0) if share < 1 else preprocessing
        self._windows = windows
        if windows is not None:
            self._larger = replace(preprocessing, size=windows.square)
        self._decoded: dict[int, Uint8] = {}
        self._room = memory // (self._larger.size**2 * 3)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image as the network takes it."""
        return (self._preprocessing.size, self._preprocessing.size, 3)

    @property
    def augmented(self) -> bool:
        """Whether views differ from the images as in testing."""
        return self._windows is not None or not self._augmentation.still

    def plain(self, index: int) -> Uint8:
        """uint8 (size, size, 3), as in testing."""
        if self._windows is not None:
            return self._window(index, NONE, 0)
        found = self._decoded.get(index) if self._larger is self._preprocessing else None
        return self._decode(index, self._preprocessing) if found is None else found

    def view(self, index: int, number: int) -> Uint8:
        """View `number` of an image, uint8 (size, size, 3)."""
        if self._windows is not None:
            return self._window(index, self._augmentation, number)
        pixels = self._of_views(index)
        if self._augmentation.still:
            return pixels
        size, keys = self._preprocessing.size, np.array([index])
        made: Uint8 = self._augmentation.views(pixels[None], size=size, keys=keys, seed=self._seed, view=number)[0]
        return made

    def _window(self, index: int, augmentation: Augmentation, number: int) -> Uint8:
        assert self._windows is not None
        view = window_view(augmentation, self._windows, key=index, seed=self._seed, view=number)
        return part_of(self._of_views(index), view, size=self._preprocessing.size)

    def _of_views(self, index: int) -> Uint8:
        """What views are made of."""
        pixels = self._decoded.get(index)
        if pixels is None:
            pixels = self._decode(index, self._larger)
            if len(self._decoded) < self._room:
                self._decoded[index] = pixels
        return pixels

    def _decode(self, index: int, preprocessing: Preprocessing) -> Uint8:
        source = self._images[index]
        try:
            return preprocessing(source_bytes(source), name=image_name(source))
        except ImageError as error:  # it was readable when its features were computed
            raise DataError(f"An image can no longer be read: {error}. Do not change the images during a training.") from None


class ImageInputs:
    """Images, decoded and augmented in threads, normalised for the network: float32 (N, 3, H, W), channels last in memory.

    `normalise` makes the network's input of uint8 tensors (N, H, W, 3).
    """

    def __init__(self, pixels: Pixels, *, normalise: Callable[[Any], Any], device: str) -> None:
        self._pixels, self._normalise, self._device = pixels, normalise, device
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-images")

    def prepare(self, epoch: int | None) -> None:
        """Compute what the epoch (from 0) needs and is not there yet; with None, only the images as in testing. Here that is nothing."""

    def view(self, epoch: int) -> int | None:
        """See `Inputs`."""
        return epoch if self._pixels.augmented else None

    def views(self, rows: Rows, epoch: int) -> Any:
        """The images of these rows as augmented in the epoch: a tensor for the network."""
        return self._tensor(list(self._pool.map(lambda row: self._pixels.view(row, epoch), rows.tolist())))

    def plain(self, rows: Rows) -> Any:
        """The images of these rows as in testing."""
        return self._tensor(list(self._pool.map(self._pixels.plain, rows.tolist())))

    def mixed(self, own: Any, partners: Any, mixing: Mixing) -> Any:
        """Images mixed with their partners."""
        return mixing.images(own, partners)

    def _tensor(self, images: Sequence[Uint8]) -> Any:
        batch = torch.from_numpy(np.stack(images)) if images else torch.empty(0, *self._pixels.shape, dtype=torch.uint8)
        if self._device == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        return self._normalise(batch)


class StoredInputs:
    """Activations that the engine computes once, stored on disk as float16 and read batch by batch.

    `engine` opens the frozen part: an image to what a `Front` of this `layout`, or an `End`, gives. The job's validation rows are stored as
    in testing, and those of `train` as `views` views each (0 if images are not augmented), of which epochs take turns; files of an
    earlier training are used.
    """

    def __init__(
        self, engine: Callable[[], Engine], pixels: Pixels, job: TrainingJob, *, train: Rows, views: int, folder: Path, device: str,
        layout: Layout | None = None,
    ) -> None:  # fmt: skip
        self._engine, self._pixels, self._views, self._folder = engine, pixels, views, folder
        self._device, self._layout, self._job = device, layout, job
        self._rows = (train, job.validation if views else np.union1d(job.validation, train))  # of views, and of images as in testing
        self._places = [{row: place for place, row in enumerate(rows.tolist())} for rows in self._rows]
        self._open: dict[int | None, npt.NDArray[np.float16]] = {}

    def prepare(self, epoch: int | None) -> None:
        """See `ImageInputs`."""
        self._file(None)
        if self._views and epoch is not None:
            self._file(epoch % self._views)

    def view(self, epoch: int) -> int | None:
        """See `Inputs`."""
        return epoch % self._views if self._views else None

    def views(self, rows: Rows, epoch: int) -> Any:
        """See `ImageInputs`."""
        return self._read(epoch % self._views, rows) if self._views else self.plain(rows)

    def plain(self, rows: Rows) -> Any:
        """See `ImageInputs`."""
        return self._read(None, rows)

    def mixed(self, own: Any, partners: Any, mixing: Mixing) -> Any:
        """See `ImageInputs`. Where there are no positions there is no box to cut out: values are mixed with the same weights."""
        layout = self._layout or Layout(tuple(own.shape[1:]))
        (activation, pooled), (other, others) = layout.split(own), layout.split(partners)
        everywhere = replace(mixing, box=None)
        if activation.ndim == 4:
            activation = mixing.images(activation.permute(0, 3, 1, 2), other.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            activation = everywhere.images(activation, other)
        return layout.joined(activation, [everywhere.images(one, two) for one, two in zip(pooled, others, strict=True)])

    def _read(self, view: int | None, rows: Rows) -> Any:
        places = [self._places[view is None][row] for row in rows.tolist()]
        return torch.from_numpy(self._open[view][places]).to(self._device).float()

    def _file(self, view: int | None) -> None:
        if view in self._open:
            return
        path = self._folder / ("plain.npy" if view is None else f"view{view}.npy")
        with self._job.processes.first_on_machine():
            if not path.exists():
                self._compute(path, self._rows[view is None], view)
        self._open[view] = np.load(path, mmap_mode="r")  # closed with this object, when the training is over

    def _compute(self, path: Path, rows: Rows, view: int | None) -> None:
        """Write a file of activations atomically."""
        self._job.listener.stage("Computing the frozen part" + ("" if view is None else f", view {view + 1} of {self._views}"))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Not through a memory map: on a full disk that kills the process without a message.
            with replacing(path, durable=False) as partial, partial.open("wb") as stream:
                for done, activation in enumerate(self._activations(rows, view)):
                    if not done:
                        _write_header(stream, (len(rows), *activation.shape))
                    stream.write(np.clip(activation, -_LARGEST, _LARGEST).astype(np.float16).tobytes())
                    self._job.listener.progress(done + 1, len(rows))
                if not len(rows):
                    _write_header(stream, (0, 1))
        except OSError as error:
            reason = "the disk is full" if is_full(error) else error.strerror or error
            raise RunError(
                f"The output of the frozen part cannot be stored in {self._folder}: {reason}. Free some space, or choose another --out."
            ) from None

    def _activations(self, rows: Rows, view: int | None) -> Iterator[npt.NDArray[np.float32]]:
        def pixels(row: int) -> Uint8:
            return self._pixels.plain(row) if view is None else self._pixels.view(row, view)

        if not len(rows):
            return
        with quiet_decoding(), ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-views") as pool:
            for outputs in self._engine().run(ahead(pool, pixels, rows.tolist())):
                yield outputs[0]


class Inputs(Protocol):
    """What feeds the network of the loop: see `ImageInputs`."""

    def prepare(self, epoch: int | None) -> None:
        """Compute what the epoch needs and is not there yet; with None, only the images as in testing."""

    def view(self, epoch: int) -> int | None:
        """The number of the view that images have in the epoch; None where they are as in testing."""

    def views(self, rows: Rows, epoch: int) -> Any:
        """What the network takes of these rows in the epoch."""

    def plain(self, rows: Rows) -> Any:
        """What the network takes of these rows in testing."""

    def mixed(self, own: Any, partners: Any, mixing: Mixing) -> Any:
        """Images mixed with their partners."""


"""Batches for the network."""


def _write_header(stream: IO[bytes], shape: tuple[int, ...]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)


def affordable_views(asked: int, *, bytes_each: int, train: int, plain: int, folder: Path) -> tuple[int, int]:
    """The number of views that fit on the disk, at most `asked`, and the bytes of all files; (-1, bytes) if not even one fits.

    The number is stored in the folder and holds for the whole training: the free space differs when it is resumed another day, or another
    process asks while the first files are being written. `asked` is 0 if images are not augmented; `plain` images are stored besides the
    `train` ones.
    """
    above = next(place for place in (folder, *folder.parents) if place.exists())
    room = int(shutil.disk_usage(above).free * DISK_SHARE)

    def size(views: int) -> int:
        return bytes_each * (plain + (views * train if views > 0 else train))

    fitting = (views for views in range(asked, -1, -1) if size(views) <= room and (views or not asked))
    views = _first_written(folder / _VIEWS, next(fitting, -1))
    return views, size(views)


def _first_written(path: Path, number: int) -> int:
    """The number in the file; if there is none, `number` is written."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(number))
        with contextlib.suppress(OSError):
            os.link(part, path)  # only the first process succeeds, and the file is complete at once
        part.unlink()
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads(path.read_text()))
    return number
