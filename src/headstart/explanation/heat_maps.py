"""Where in an image the evidence for a class lies: heat maps of a saved run, for every backbone and every head, by the engine alone.

Two methods. *cells*: the features are means over the positions of the stages' maps, so it can be computed for each position how the
log-odds of the class change when it has a larger weight in all of these means. The head and whatever else follows the pooling are computed
exactly, not linearised; for a linear head and an infinitesimal change this is Grad-CAM (Selvaraju et al. 2017), summed over the
stages. It takes one pass of the network per image. *occlusion* (Zeiler and Fergus 2014): how much the log-odds fall when a window of
the image is blurred. It works with any network, and takes a pass for every window.

Where the model has an output for each place, the log-odds are the mean over the region that it gives the class, as in Seg-Grad-CAM
(Vinogradova et al. 2020), and the method is occlusion. Of boxes, they are those of the surest proposal that overlaps the box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from headstart.engine import Engine, open_engine
from headstart.errors import BackboneError, ParameterError
from headstart.explanation.stage_maps import LOGITS, NetworkGraph, PooledNetwork, UnknownMapError, find_poolings
from headstart.metrics.box_link import BoxLink
from headstart.metrics.link import SOFTMAX, Link, PlaceLink, joined
from headstart.modalities.image import Preprocessing
from headstart.run import MODEL, Run

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

METHODS = ("auto", "fast", "cells", "occlusion")
CELLS = 7
STEP = 0.2
_WINDOW = 2 / 7  # of the side
_BLUR = 12  # of the side
_NOTHING = 1e-3  # log-odds: less is rounding


class HeatMaps:
    """Heat maps of a saved model.

    Args:
        model: ``model.onnx`` of a run.
        preprocessing: of the run; heat maps are made of prepared images.
        classes: the class names of the run.
        link: from logits to probabilities.
        method: ``auto`` is ``occlusion``, which measured better where heads use all stages. ``fast`` is ``cells`` where all features are
            means over positions and the head answers to small changes; else occlusion with a quarter of the windows, side by side.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        cells: height and width of the grid on which evidence is found.
        logits: the outputs that the link takes, joined.
        step: by how much more a place counts in *cells*: 1 would be an image that is this place only.

    Raises:
        ParameterError: an unknown method or engine, or numbers outside their limits.
        BackboneError: the model cannot be read; or the method ``cells`` was asked for and does not fit this network.
    """

    def __init__(
        self, model: str | Path, *, preprocessing: Preprocessing, classes: Sequence[str], link: Link = SOFTMAX, method: str = "auto",
        engine: str = "auto", cells: int = CELLS, step: float = STEP, logits: Sequence[str] = (LOGITS,),
    ) -> None:  # fmt: skip
        if method not in METHODS:
            raise ParameterError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        size = preprocessing.size
        if not 2 <= cells <= size:
            raise ParameterError(f"cells must be from 2 to the {size} pixels of the image, got {cells!r}.")
        if not (np.isfinite(step) and -0.5 <= step <= 1 and step):
            raise ParameterError(f"step must be from -0.5 to 1 and not 0, got {step!r}.")
        self._model, self._size, self._classes, self._link = Path(model), size, tuple(classes), link
        self._engine_kind, self._cells, self._step, self._asked, self._logits = engine, cells, step, method, tuple(logits)
        self._network = self._pooled() if method in ("fast", "cells") else None
        if self._network is None:
            _ = self._whole  # so that a model that cannot be opened is refused at once

    @classmethod
    def of(cls, run: Run, *, method: str = "auto", engine: str = "auto", column: str | None = None) -> Self:
        """Return the heat maps of an opened run, of a `column` of labels where it has several; arguments and errors as of the class."""
        of = run.explained(column, "Heat maps are for")
        return cls(
            run.path / MODEL, preprocessing=run.preprocessing, classes=of.classes, link=of.link, method=method, engine=engine,
            logits=of.explained,
        )  # fmt: skip

    def at(self, box: tuple[float, float, float, float]) -> Self:
        """The heat maps of one box, left, top, right and bottom as shares of the sides, in place of the surest of a class.

        ParameterError where the model finds no boxes.
        """
        if not isinstance(self._link, BoxLink):
            raise ParameterError("Heat maps of a box are for runs that find boxes.")
        own = copy(self)
        own._link = replace(self._link, given=box)
        return own

    @property
    def method(self) -> str:
        """The one in use: ``cells`` or ``occlusion``."""
        return "occlusion" if self._network is None else "cells"

    @cached_property
    def _whole(self) -> Engine:
        return open_engine(self._model, kind=self._engine_kind, outputs=self._logits, size=self._size)

    def _pooled(self) -> PooledNetwork | None:
        try:
            graph = NetworkGraph(self._model.read_bytes())
        except OSError as error:
            raise BackboneError(f"{self._model}: cannot be opened ({error.strerror}).") from None
        poolings = None if isinstance(self._link, PlaceLink) else find_poolings(graph)
        if poolings is None:
            self._check_fallback()
            return None
        return PooledNetwork(graph, poolings, size=self._size, cells=self._cells, engine=self._engine_kind, logits=self._logits[0])

    def _check_fallback(self) -> None:
        if self._asked == "cells" and isinstance(self._link, PlaceLink):
            raise BackboneError(
                "The method 'cells' is for one output for a whole image, and this run has one for each place. Use 'occlusion'."
            )
        if self._asked == "cells":
            raise BackboneError(
                "The features of this network are not only means over positions (a class token, for one, is none), so the method 'cells' "
                "cannot tell where they come from. Use 'occlusion'."
            )

    def __call__(self, images: Pixels, targets: Sequence[int] | npt.NDArray[np.int64]) -> Floats:
        """Return heat, float32 (n, size, size), from 0, nothing or evidence against the class, to 1, the most in this image.

        It is all 0 where no place is evidence for the class. Arguments and errors as of `evidence`.
        """
        heat = np.zeros((len(images), self._size, self._size), np.float32)
        for row, evidence in enumerate(self.evidence(images, targets)):
            heat[row] = to_heat(evidence, size=self._size)
        return heat

    def evidence(self, images: Pixels, targets: Sequence[int] | npt.NDArray[np.int64]) -> Floats:
        """Return evidence on the grid with its sign, float32 (n, cells, cells), in log-odds: above 0 for the class, below against it.

        By *cells*, it is how much they rise for each unit by which the place counts more; by *occlusion*, how much they fall without it.
        `images` are prepared, uint8 (n, size, size, 3); `targets` (n,) are the classes. Raises ParameterError for anything else.
        """
        targets = np.asarray(targets)
        self._check(images, targets)
        if self._network is not None:
            try:
                found = self._by_cells(self._network, images, targets)
                silent = np.flatnonzero(~found.any(axis=(1, 2)))  # nearest neighbours: a small change alters no vote
                if len(silent) and self._asked != "cells":
                    found[silent] = self._occluded(images[silent], targets[silent])
                return found
            except UnknownMapError:
                self._check_fallback()
                self._network = None
        return self._occluded(images, targets)

    def _check(self, images: Pixels, targets: npt.NDArray[np.int64]) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (self._size, self._size, 3):
            raise ParameterError(
                f"Heat maps are made of prepared images, uint8 (n, {self._size}, {self._size}, 3), got {images.dtype} {images.shape}."
            )
        if targets.shape != (len(images),) or (len(targets) and targets.dtype.kind not in "iu"):
            raise ParameterError(
                f"targets must be the number of a class for each of the {len(images)} images, got {targets.dtype} {targets.shape}."
            )
        if len(targets) and not (targets.min() >= 0 and targets.max() < len(self._classes)):
            raise ParameterError(f"targets must be from 0 to {len(self._classes) - 1}, got {targets.min()} to {targets.max()}.")

    def _by_cells(self, network: PooledNetwork, images: Pixels, targets: npt.NDArray[np.int64]) -> Floats:
        found = np.zeros((len(images), self._cells, self._cells), np.float32)
        for row, maps in enumerate(network.maps(iter(images))):
            odds = self._link.log_odds(network.logits([_upweighted(grid, self._step) for grid in maps]), int(targets[row]))
            found[row] = ((odds[1:] - odds[0]) / self._step).reshape(self._cells, self._cells)
        return _zero_where_rounding(found)

    def _occluded(self, images: Pixels, targets: npt.NDArray[np.int64]) -> Floats:
        spacing = 1.0 if self._asked == "fast" else 0.5
        hidden = windows(self._cells, spacing=spacing)
        found = np.zeros((len(images), self._cells, self._cells), np.float32)
        results = self._whole.run(self._with_windows(images, spacing))
        for row, target in enumerate(targets.tolist()):
            odds = self._link.log_odds(np.stack([joined(outputs) for outputs in islice(results, len(hidden) + 1)]), target)
            fall = (odds[0] - odds[1:]).astype(np.float32)
            found[row] = np.tensordot(fall, hidden, axes=1) / hidden.sum(axis=0)
        return _zero_where_rounding(found)

    def _with_windows(self, images: Pixels, spacing: float) -> Iterator[Pixels]:
        """Each image as it is, and then with each window blurred."""
        shares = _soft_windows(self._size, self._cells, spacing)
        for image in images:
            yield image
            blurred = blur(image, radius=self._size / _BLUR)
            whole, difference = image.astype(np.float32) + 0.5, blurred.astype(np.float32) - image
            for share in shares:
                yield (whole + share[:, :, None] * difference).astype(np.uint8)


def _zero_where_rounding(evidence: Floats) -> Floats:
    """Evidence (n, cells, cells), where it is next to nothing in a whole image: nothing."""
    evidence[np.abs(evidence).max(axis=(1, 2), initial=0) < _NOTHING] = 0
    return evidence


def _upweighted(grid: Floats, step: float) -> Floats:
    """The mean of a map (cells, C), and with each of its cells counting more by `step`: float32 (1 + cells, C)."""
    mean = grid.mean(axis=0, keepdims=True)
    return np.concatenate([mean, mean + step * (grid - mean)])


@lru_cache(maxsize=8)
def windows(cells: int, *, spacing: float = 0.5) -> Floats:
    """Windows that together cover a grid evenly: float32 (m, cells, cells), 1 inside.

    `spacing` is from one to the next, in widths of a window: 1 puts them side by side, 0.5 lets each overlap half of the next.
    """
    stride = max(1, round(_WINDOW * spacing * cells))
    width = round(stride / spacing)
    made = []
    for top in range(stride - width, cells, stride):
        for left in range(stride - width, cells, stride):
            window = np.zeros((cells, cells), np.float32)
            window[max(0, top) : top + width, max(0, left) : left + width] = 1
            made.append(window)
    return np.stack(made)


@lru_cache(maxsize=2)
def _soft_windows(size: int, cells: int, spacing: float) -> Floats:
    """The windows in pixels, with soft edges, float32 (m, size, size)."""
    return np.stack([np.clip(_resized(window, size), 0, 1) for window in windows(cells, spacing=spacing)])


def _resized(grid: Floats, size: int) -> Floats:
    """float32 (h, w) to (size, size), smoothly."""
    from PIL import Image

    return np.asarray(Image.fromarray(grid, mode="F").resize((size, size), Image.Resampling.BICUBIC))


def blur(image: Pixels, *, radius: float) -> Pixels:
    """A uint8 image (H, W, 3), blurred with a Gaussian of this standard deviation in pixels."""
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def to_heat(evidence: Floats, *, size: int) -> Floats:
    """Evidence float32 (cells, cells) as heat: float32 (size, size), 0 for none or evidence against, 1 for the most."""
    heat: Floats = np.maximum(_resized(np.ascontiguousarray(evidence, np.float32), size), np.float32(0))
    top = float(heat.max())
    if top > 0:
        heat /= np.float32(top)
    return heat
