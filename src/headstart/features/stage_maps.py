"""`StageMaps`: the maps of a frozen backbone for many inputs, float16, in memory or in a file that the system can page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.backbones.stage_maps import MapLayer
from headstart.errors import ParameterError
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.warp import View, one_thread, render

if TYPE_CHECKING:
    from headstart.features.windows import WholeImages

DrawView: TypeAlias = Callable[[int, int], View | None]
"""From the position of an input and the number of a view, from 0, to that view; None where that input has no such view."""

PLAIN, MIRROR = View(), View(mirrored=True)
"""An input as it is, and its mirror image."""

_LARGEST = 65504.0  # of float16
_LARGER = 1.25  # how much larger an image is decoded of which parts are taken


def plain_view(index: int, number: int) -> View | None:
    """The input as it is, and no other view."""
    return PLAIN if number == 0 else None


@dataclass(frozen=True)
class MapRequest:
    """Which maps a task needs: names of layers, in this order, and `views` of each input, at most.

    The first view is the input as it is; where images are seen through windows, every view is one window, and `mirrored` says whether
    their mirror images may be used.
    """

    layers: tuple[str, ...]
    views: int = 1
    draw: DrawView = plain_view
    mirrored: bool = False

    def of(self, index: int) -> tuple[View, ...]:
        """The views of one input."""
        return tuple(view for number in range(self.views) if (view := self.draw(index, number)) is not None)


ChooseMaps: TypeAlias = Callable[[tuple[MapLayer, ...]], MapRequest]
"""From the maps that a backbone has to those that are needed."""


def maps_named(names: Sequence[str], *, mirrored: bool = False) -> ChooseMaps:
    """The maps of these layers, of every input as it is; with `mirrored` also of its mirror image."""
    request = MapRequest(tuple(names), 2, lambda index, number: (PLAIN, MIRROR)[number]) if mirrored else MapRequest(tuple(names))
    return lambda layers: request


@dataclass(frozen=True, eq=False)
class StageMaps:
    """Maps of n inputs in v views.

    Attributes:
        layers: the maps of one input, in order.
        request: what they were made by: the views of each input.
        values: float16 (n, v, D): the maps of an input side by side, each flattened from (channels, height, width).
        rows: int64 (m,): the rows of `values` that belong to the inputs; all inputs share one array.
        wholes: gives what a model on the maps says of whole inputs, where these are seen through windows.
    """

    layers: tuple[MapLayer, ...]
    request: MapRequest
    values: npt.NDArray[np.float16]
    rows: npt.NDArray[np.int64]
    wholes: WholeImages | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, index: int) -> tuple[View, ...]:
        """The views of one input whose maps there are."""
        return self.request.of(int(self.rows[index]))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many views of each input there are, int64 (m,)."""
        return np.array([len(self.views(index)) for index in range(len(self))], np.int64)

    @property
    def mirrored(self) -> bool:
        """Whether there are the mirror images of all inputs."""
        return self.request.mirrored if self.wholes is not None else all(self.views(index)[1:2] == (MIRROR,) for index in range(len(self)))

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """The maps of some inputs, without a copy."""
        return replace(self, rows=self.rows[rows])

    def image(self, index: int, view: int = 0) -> dict[str, npt.NDArray[np.float16]]:
        """The maps of one input, float16 (channels, height, width) each, by the name of the layer; views of the array."""
        return self._split(self.values[self.rows[index], view])

    def batch(self, indices: npt.NDArray[np.int64], view: int = 0) -> dict[str, npt.NDArray[np.float16]]:
        """The maps of some inputs, float16 (m, channels, height, width) each, by the name of the layer."""
        return self._split(self.values[self.rows[indices], view])

    def _split(self, values: npt.NDArray[np.float16]) -> dict[str, npt.NDArray[np.float16]]:
        found, start = {}, 0
        for layer in self.layers:
            found[layer.name] = values[..., start : start + layer.size].reshape(*values.shape[:-1], *layer.shape)
            start += layer.size
        return found


def viewed(pixels: npt.NDArray[np.uint8], larger: Callable[[], npt.NDArray[np.uint8]], view: View) -> npt.NDArray[np.uint8]:
    """A view of an image: of its square (S, S, 3), or of a `larger` square of it where a part is taken."""
    if view == PLAIN:
        return pixels
    if view == MIRROR:
        return np.ascontiguousarray(pixels[:, ::-1])
    return part_of(larger(), view, size=len(pixels))


def part_of(larger: npt.NDArray[np.uint8], view: View, *, size: int) -> npt.NDArray[np.uint8]:
    """A view (size, size, 3) of a larger square."""
    with one_thread():
        return np.ascontiguousarray(render(larger, view, size=size))


def larger_square(preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing to a square of which a part is still sharp."""
    return replace(preprocessing, size=round(_LARGER * preprocessing.size))


def chosen(layers: Sequence[MapLayer], names: Sequence[str]) -> tuple[MapLayer, ...]:
    """The layers of these names, in the order of the names; ParameterError where one is not there."""
    known: Mapping[str, MapLayer] = {layer.name: layer for layer in layers}
    if missing := [name for name in names if name not in known]:
        raise ParameterError(f"The backbone has no map {missing[0]!r}; it has {', '.join(known)}.")
    return tuple(known[name] for name in names)


def write_into(target: npt.NDArray[np.float16], maps: Sequence[npt.NDArray[Any]]) -> None:
    """Put the maps of one view of one input side by side into (D,), clipped to what float16 can hold."""
    start = 0
    for one in maps:
        target[start : start + one.size] = np.clip(one, -_LARGEST, _LARGEST).ravel()
        start += one.size
