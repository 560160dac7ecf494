"""Views of good images, and defects made of them: what a detector is chosen by, where real defects must not be used for it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]

_TRIES = 20
_VISIBLE = 12.0  # mean difference in levels of 255 below which a patch that was pasted is not seen


def cut_paste(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """An image with a defect: a piece of itself, cut out in one place and pasted in another, uint8 (H, W, 3).

    A rectangle of 2 to 15 % of the area or a thin scar, each in half of the cases, its brightness and contrast changed a little (Li et al.,
    "CutPaste: self-supervised learning for anomaly detection and localization", CVPR 2021). Where the piece looks like what it covers,
    another one is tried.
    """
    found, best = pixels.copy(), -1.0
    scar = bool(generator.random() < 0.5)
    for _ in range(_TRIES):
        piece, inside = _scar(pixels, generator) if scar else _rectangle(pixels, generator)
        height, width = inside.shape
        top, left = generator.integers(0, pixels.shape[0] - height + 1), generator.integers(0, pixels.shape[1] - width + 1)
        place = pixels[top : top + height, left : left + width]
        difference = float(np.abs(piece.astype(np.int16) - place)[inside].mean())
        if difference > best:
            best, found = difference, pixels.copy()
            found[top : top + height, left : left + width][inside] = piece[inside]
        if best >= _VISIBLE:
            break
    return found


def _rectangle(pixels: Pixels, generator: np.random.Generator) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    share, aspect = generator.uniform(0.02, 0.15), np.exp(generator.uniform(-1, 1) * np.log(3.3))
    side = (share * pixels.shape[0] * pixels.shape[1]) ** 0.5
    height = int(np.clip(side * aspect**0.5, 2, pixels.shape[0] - 1))
    width = int(np.clip(side / aspect**0.5, 2, pixels.shape[1] - 1))
    piece = _jittered(_cut(pixels, height, width, generator), generator)
    return piece, np.ones((height, width), np.bool_)


def _scar(pixels: Pixels, generator: np.random.Generator) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """A piece of 2 to 6 % by 8 to 20 % of the side, turned by up to 45 degrees."""
    from PIL import Image

    side = min(pixels.shape[:2])
    height, width = int(max(2, generator.uniform(0.02, 0.06) * side)), int(max(4, generator.uniform(0.08, 0.2) * side))
    piece, angle = _jittered(_cut(pixels, height, width, generator), generator), float(generator.uniform(-45, 45))
    turned = Image.fromarray(piece).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    inside = Image.fromarray(np.full((height, width), 255, np.uint8)).rotate(angle, Image.Resampling.NEAREST, expand=True)
    return np.asarray(turned), np.asarray(inside) > 0


def _cut(pixels: Pixels, height: int, width: int, generator: np.random.Generator) -> Pixels:
    top, left = generator.integers(0, pixels.shape[0] - height + 1), generator.integers(0, pixels.shape[1] - width + 1)
    return pixels[top : top + height, left : left + width]


def _jittered(piece: Pixels, generator: np.random.Generator) -> Pixels:
    contrast, brightness = generator.uniform(0.8, 1.2), generator.uniform(-25, 25)
    mean = piece.mean(axis=(0, 1))
    return np.asarray(np.clip((piece - mean) * contrast + mean + brightness, 0, 255), dtype=np.uint8)


def views(pixels: Pixels) -> dict[str, list[Pixels]]:
    """Views of one image as it might be photographed again, by kind, uint8 (H, W, 3) each: moved, turned, larger or smaller, lit."""
    side = min(pixels.shape[:2])
    step = max(1, round(0.04 * side))
    return {
        "moved": [_changed(pixels, move=shift) for shift in ((step, 0), (-step, 0), (0, step), (0, -step))],
        "turned": [_changed(pixels, angle=angle) for angle in (-5.0, 5.0)],
        "scaled": [_changed(pixels, scale=scale) for scale in (0.94, 1.06)],
        "lit": [np.clip(pixels * factor, 0, 255).astype(np.uint8) for factor in (0.9, 1.1)],
    }


def mirrored(pixels: Pixels) -> list[Pixels]:
    """An image with left and right exchanged, and with top and bottom: as unlike it as another specimen may be."""
    return [np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(pixels[::-1])]


def _changed(pixels: Pixels, *, move: tuple[int, int] = (0, 0), angle: float = 0.0, scale: float = 1.0) -> Pixels:
    """An image moved (down, right), turned about its middle by an angle in degrees, or scaled; its edge is continued outwards."""
    from PIL import Image

    height, width = pixels.shape[:2]
    reach = max(height, width) // 6
    image = Image.fromarray(np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge"))
    if angle:
        image = image.rotate(angle, Image.Resampling.BILINEAR)
    half_high, half_wide = height / 2 / scale, width / 2 / scale
    left, top = reach + width / 2 - half_wide - move[1], reach + height / 2 - half_high - move[0]
    box = (left, top, left + 2 * half_wide, top + 2 * half_high)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
