"""One view of one image: the changes drawn for it, and its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.errors import MissingExtraError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Pixels = npt.NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]
"""Top, left, bottom, right, as shares of height and width."""

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class View:
    """The changes of one image, in this order; geometric ones first, in a single resampling."""

    zoom: tuple[float, float] = (1.0, 1.0)  # factors of height and width about the centre; above 1 enlarges
    shear: float = 0.0  # degrees by which vertical lines lean to the left (their upper end; positive) or to the right
    rotation: float = 0.0  # degrees about the centre, counter-clockwise
    shift: tuple[float, float] = (0.0, 0.0)  # down and right, as shares of height and width
    crop: Box = _WHOLE  # the part that remains
    mirrored: bool = False  # left and right are exchanged
    upside_down: bool = False  # top and bottom are exchanged
    brightness: float = 1.0  # a factor, as the next two
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # share of the colour circle
    gray: bool = False  # whether colours are removed
    erased: Box | None = None  # the part that is replaced by noise, if any
    noise: int = 0  # seed of that noise

    @property
    def bends(self) -> bool:
        """Whether it needs more than a crop and flips."""
        return bool(self.rotation or self.shear or self.zoom != (1.0, 1.0) or self.shift != (0.0, 0.0))

    @property
    def paints(self) -> bool:
        """Whether it changes colours."""
        factors = (self.brightness, self.contrast, self.saturation)
        return bool(factors != (1.0, 1.0, 1.0) or self.hue or self.gray or self.erased)

    def matrix(self, *, height: int, width: int) -> npt.NDArray[np.float64]:
        """(2, 3): from (x, y, 1) of the view to (x, y) of the image, both -1 at the left and upper edge and 1 at the opposite ones."""
        turn, lean = math.radians(self.rotation), math.tan(math.radians(self.shear))
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        forward = rotation @ np.array([[1.0, lean], [0.0, 1.0]]) @ np.diag(self.zoom[::-1])
        sides = np.array([width, height], dtype=np.float64)
        back = np.linalg.inv(forward) * sides / sides[:, None]  # angles are those of the pixels, whatever the image's aspect ratio
        top, left, bottom, right = self.crop
        half = np.array([(right - left) * (-1 if self.mirrored else 1), (bottom - top) * (-1 if self.upside_down else 1)])
        centre = np.array([left + right - 1 - 2 * self.shift[1], top + bottom - 1 - 2 * self.shift[0]])
        return np.column_stack([back * half, back @ centre])


def render(image: Pixels, view: View, *, size: int) -> Pixels:
    """Compute the view of an image: uint8 (H, W, 3) -> uint8 (size, size, 3). Call it within `one_thread`."""
    if view.bends:
        planes = _resampled(image, view, size)
    else:
        resized = _resized(image, view, size)
        if not view.paints:
            return resized
        planes = _torch().from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))
    painted: Pixels = _painted(planes, view).permute(1, 2, 0).contiguous().numpy()
    return painted


def _resized(image: Pixels, view: View, size: int) -> Pixels:
    """Crop, resize and flip with Pillow."""
    height, width = image.shape[:2]
    if (height, width) != (size, size) or view.crop != _WHOLE:
        from PIL import Image

        top, left, bottom, right = view.crop
        box = (left * width, top * height, right * width, bottom * height)
        resized = Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.BILINEAR, box=box)
        image = np.asarray(resized)
    return image[:: -1 if view.upside_down else 1, :: -1 if view.mirrored else 1]


def _resampled(image: Pixels, view: View, size: int) -> Any:
    """Everything in one affine resampling; a uint8 tensor (3, size, size)."""
    torch = _torch()
    # x + iy: one addition makes the whole grid of points.
    along, down, offset = (view.matrix(height=image.shape[0], width=image.shape[1]) * [[1], [1j]]).sum(axis=0)
    points = (2 * np.arange(size) + 1) / size - 1
    grid = np.add.outer((points * down + offset).astype(np.complex64), (points * along).astype(np.complex64))
    planes = torch.from_numpy(np.array(image.transpose(2, 0, 1), dtype=np.float32, order="C"))
    places = torch.from_numpy(grid.view(np.float32).reshape(1, size, size, 2))
    sampled = torch.nn.functional.grid_sample(planes[None], places, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0].add_(0.5).to(torch.uint8)


def _painted(planes: Any, view: View) -> Any:
    """Change colours, and erase; a uint8 tensor (3, size, size)."""
    if not view.paints:
        return planes
    torch = _torch()
    from torchvision.transforms.v2 import functional

    for name in ("brightness", "contrast", "saturation"):
        if (factor := getattr(view, name)) != 1:
            planes = getattr(functional, f"adjust_{name}")(planes, factor)
    if view.hue:
        planes = functional.adjust_hue(planes, view.hue)
    if view.gray:
        planes = functional.rgb_to_grayscale(planes, num_output_channels=3)
    if view.erased:
        top, left, bottom, right = (round(edge * planes.shape[-1]) for edge in view.erased)
        # Noise rather than one colour: the best of the fillings that Zhong et al. compare.
        noise = np.random.default_rng(view.noise).integers(256, size=(3, bottom - top, right - left), dtype=np.uint8)
        planes = functional.erase(planes, top, left, bottom - top, right - left, torch.from_numpy(noise))
    return planes


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("This augmentation", extra="torch") from error
    return torch


@cache
def _controller() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context torch computes in the calling thread alone; the number of threads of other threads does not change.

    Views are made in several threads, one image each, and one image is too small to be divided. `torch.set_num_threads` would
    slow down the training itself, because it also counts for the threads that torch starts later.
    """
    try:
        import torch
    except ImportError:
        yield
        return
    torch.get_num_threads()  # sets the number of a new thread; done later, that would undo the limit
    with _controller().limit(limits=1, user_api="openmp"):
        yield
