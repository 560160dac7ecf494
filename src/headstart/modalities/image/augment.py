"""`Augmentation`: random changes of training images, as plain numbers; `Mixing`: MixUp and CutMix. Torch is imported late."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError, nearest
from headstart.modalities.image.warp import Box, View, one_thread, render
from headstart.settings.field import Limit, Settings, documented, number, option, options, require, whole

AUGMENT_VERSION = 1
"""Part of every `Augmentation.id`: raise it whenever a change alters a view for the same seed."""

_CROP_ASPECTS = (3 / 4, 4 / 3)
_ERASED_AREAS = (0.02, 0.2)
_ERASED_ASPECTS = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Mixing:
    """How each image of a batch is mixed with its partner: MixUp, or CutMix with a box."""

    partners: npt.NDArray[np.int64]  # (count,), a permutation: the place in the batch of each image's partner
    share: float  # weight of each image and its target; the rest is its partner's
    box: Box | None = None  # for CutMix, the part taken from the partner

    def images(self, own: Any, partners: Any) -> Any:
        """Mix two tensors (N, C, H, W): the images of some rows of the batch, and those of their partners, in the same order.

        MixUp: the weighted mean. CutMix: the box is the partner's. A pixel that the edge of the box divides is mixed by the area on
        each side, so that the share is exact at every resolution. Whole numbers become float32.
        """
        import torch

        own, partners = (values if values.is_floating_point() else values.float() for values in (own, partners))
        if self.box is None:
            return torch.lerp(partners, own, self.share)
        top, left, bottom, right = self.box
        rows, columns = (
            torch.as_tensor(_covered(*edges, count), dtype=own.dtype, device=own.device)
            for edges, count in (((top, bottom), own.shape[-2]), ((left, right), own.shape[-1]))
        )
        return torch.lerp(own, partners, (rows[:, None] * columns).expand_as(own))

    def targets(self, own: Any, partners: Any) -> Any:
        """Mix two float tensors (N, k) of targets, in the same order as the images."""
        return own * self.share + partners * (1 - self.share)


def _between(least: float, most: float, meaning: str) -> Limit:
    return Limit(f"a number from {least:g} to {most:g} ({meaning})", number(least=least, most=most).allows)


_PROBABILITY, _ALPHA = _between(0, 1, "a probability"), _between(0, 100, "alpha of the beta distribution")


@documented
@dataclass(frozen=True, kw_only=True)
class Augmentation(Settings):
    """Random changes of training images. By default nothing is changed.

    A view depends only on the seed, its number and the key of the image: not on the order, the batch, the thread or the process.
    """

    flip: float = option(0.0, "Probability of a horizontal flip.", _PROBABILITY)
    vertical_flip: float = option(0.0, "Probability of a vertical flip.", _PROBABILITY)
    rotation: float = option(0.0, "The angle is uniform in [-rotation, rotation].", _between(0, 180, "degrees"))
    shear: float = option(0.0, "The angle by which vertical lines lean is uniform in [-shear, shear].", _between(0, 60, "degrees"))
    zoom: float = option(
        0.0, "Height and width are each enlarged by a factor uniform in [1 - zoom, 1 + zoom].", _between(0, 0.9, "a share of the size")
    )  # fmt: skip
    shift: float = option(
        0.0, "The image moves by up to this share of the side, down or up and right or left.", _between(0, 1, "a share of the side")
    )  # fmt: skip
    crop: float = option(
        1.0, "Smallest share of the area of a random crop, uniform in [crop, 1].", _between(0.01, 1, "the smallest share of the area"),
        details="Its aspect ratio, relative to that of the image, is log-uniform in [3/4, 4/3] as far as the crop fits into the image "
        "(Szegedy et al. 2015). 1 crops nothing.",
    )  # fmt: skip
    colour: float = option(
        0.0, "Brightness, contrast and saturation are each multiplied by a factor uniform in [1 - colour, 1 + colour].",
        _between(0, 1, "a share of the value"),
    )  # fmt: skip
    hue: float = option(
        0.0, "All hues move by a share of the colour circle, uniform in [-hue, hue].", _between(0, 0.5, "a share of the colour circle"),
        details="Takes several times as long as everything else.",
    )  # fmt: skip
    gray: float = option(0.0, "Probability of a gray image.", _PROBABILITY)
    erase: float = option(
        0.0, "Probability that a rectangle of 2 to 20 % of the area is replaced by noise (random erasing, Zhong et al. 2017).", _PROBABILITY
    )  # fmt: skip
    mixup: float = option(0.0, "Alpha of MixUp (Zhang et al. 2017); 0 turns it off.", _ALPHA)
    cutmix: float = option(
        0.0, "Alpha of CutMix (Yun et al. 2019); 0 turns it off. With both, each batch takes one of them at random.", _ALPHA
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in options(type(self)):
            object.__setattr__(self, name, float(getattr(self, name)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``none``, ``light``, ``standard``, ``flip=0.5,rotation=10``, or the path of a TOML file; else ParameterError."""
        text = text.strip()
        if text in _NAMED:
            return cls(**asdict(_NAMED[text]))
        if text.casefold().endswith(".toml"):
            return cls.from_dict(_read_toml(Path(text)))
        values: dict[str, float] = {}
        for entry in text.split(","):
            name, equals, number = (part.strip() for part in entry.partition("="))
            if not equals:
                raise ParameterError(
                    f"Augmentation must be {', '.join(_NAMED)}, entries such as 'flip=0.5,rotation=10', or a .toml file; got {text!r}."
                    f"{nearest(entry.strip(), (*_NAMED, *options(cls)))}"
                )
            if name in values:
                raise ParameterError(f"Augmentation: {name} is given twice in {text!r}. Keep one.")
            try:
                values[name] = float(number)
            except ValueError as error:
                raise ParameterError(f"Augmentation: {name} must be a number, as in '{name}=0.5'; got {number!r}.") from error
        return cls.from_dict(values)

    @property
    def text(self) -> str:
        """The settings that differ from the defaults, as `parse` reads them; ``none`` if none do."""
        entries = [(field.name, getattr(self, field.name)) for field in fields(self) if getattr(self, field.name) != field.default]
        return ",".join(f"{name}={repr(value).removesuffix('.0')}" for name, value in entries) or "none"

    @property
    def id(self) -> str:
        """Covers everything that changes a view for a given seed, the version of this code included."""
        return f"{self.text}-a{AUGMENT_VERSION}"

    @property
    def still(self) -> bool:
        """Whether single images stay as they are; mixing does not count."""
        defaults = {field.name: field.default for field in fields(self)} | {"mixup": self.mixup, "cutmix": self.cutmix}
        return asdict(self) == defaults

    def view(self, *, key: int, seed: int, view: int) -> View:
        """Draw view number `view` of the image `key`."""
        generator = np.random.default_rng([seed, view, key & 0xFFFF_FFFF_FFFF_FFFF])
        # Always the same count in the same order: the rotation drawn does not depend on whether there is a crop.
        spare = generator.random(24).tolist()

        def around(centre: float, limit: float) -> float:
            value: float = centre + limit * (2 * spare.pop() - 1)
            return value

        mirrored, upside_down, gray, erase = (spare.pop() < chance for chance in (self.flip, self.vertical_flip, self.gray, self.erase))
        return View(
            mirrored=mirrored,
            upside_down=upside_down,
            rotation=around(0, self.rotation),
            shear=around(0, self.shear),
            zoom=(around(1, self.zoom), around(1, self.zoom)),
            shift=(around(0, self.shift), around(0, self.shift)),
            crop=_box(spare, (self.crop, 1.0), _CROP_ASPECTS),
            brightness=around(1, self.colour),
            contrast=around(1, self.colour),
            saturation=around(1, self.colour),
            hue=around(0, self.hue),
            gray=gray,
            erased=_box(spare, _ERASED_AREAS, _ERASED_ASPECTS) if erase else None,
            noise=int(generator.integers(1 << 32)),
        )

    def views(
        self, pixels: npt.NDArray[np.uint8], *, size: int, keys: npt.NDArray[np.int64], seed: int, view: int
    ) -> npt.NDArray[np.uint8]:
        """Compute one view of each image: from uint8 (n, H, W, 3) to uint8 (n, size, size, 3).

        All geometric changes, and the resizing, are one bilinear resampling, which repeats the edge pixels outside of the image. Flips and
        crops alone are resized with an antialiased bilinear filter; with rotation, shear, zoom or shift there is none, so that `pixels`
        should then be less than twice as large as the view. `keys` int64 (n,) identify the images, whatever their order; `seed` is that of
        the whole training. MissingExtraError where torch is needed, that is for more than flips and crops, and is not installed.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape[1:3]:
            raise ParameterError(f"Views are made of pixels of type uint8 and shape (n, H, W, 3), got {pixels.dtype} {pixels.shape}.")
        if keys.shape != (len(pixels),) or keys.dtype.kind not in "iu":
            raise ParameterError(f"Views of {len(pixels)} images need as many whole numbers as keys, got {keys.dtype} {keys.shape}.")
        require(whole(1), size=size)
        require(whole(0), seed=seed, view=view)
        out = np.empty((len(pixels), size, size, 3), dtype=np.uint8)
        with one_thread():
            for index, key in enumerate(keys.tolist()):
                out[index] = render(pixels[index], self.view(key=key, seed=seed, view=view), size=size)
        return out

    def mix(self, *, seed: int, step: int, count: int) -> Mixing | None:
        """Draw how the images of one batch are mixed: `count` over all processes, in step number `step`. None without MixUp and CutMix."""
        if not (self.mixup or self.cutmix):
            return None
        generator = np.random.default_rng([seed, step, count, 0, 1])  # two more numbers than any view: never the same draws
        partners = generator.permutation(count).astype(np.int64)
        cuts = generator.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cuts else self.mixup
        share = float(generator.beta(alpha, alpha))
        if not cuts:
            return Mixing(partners, share)
        half = math.sqrt(1 - share) / 2
        y, x = generator.random(2).tolist()
        box = (max(0.0, y - half), max(0.0, x - half), min(1.0, y + half), min(1.0, x + half))
        # The box may extend beyond the edge of the image: only the area inside counts.
        return Mixing(partners, 1 - (box[2] - box[0]) * (box[3] - box[1]), box)


NONE = Augmentation()

LIGHT = Augmentation(flip=0.5, crop=0.7)
"""Suits nearly all photos: flips, and mild crops that keep the object in the picture."""

STANDARD = Augmentation(flip=0.5, crop=0.5, rotation=10, colour=0.2, erase=0.1)
"""For longer trainings, against overfitting: also small rotations, changes of light, and erasing."""

_NAMED: Mapping[str, Augmentation] = {"none": NONE, "light": LIGHT, "standard": STANDARD}


def _box(spare: list[float], areas: tuple[float, float], aspects: tuple[float, float]) -> Box:
    """Draw a box in shares of the sides, from four numbers in [0, 1): its area, aspect ratio and place.

    The aspect ratio is drawn from where a box of this area fits. Drawing again until it fits would favour small areas.
    """
    area = areas[0] + (areas[1] - areas[0]) * spare.pop()
    least, most = math.log(max(aspects[0], area)), math.log(min(aspects[1], 1 / area))
    aspect = math.exp(least + (most - least) * spare.pop())
    height, width = min(1.0, math.sqrt(area / aspect)), min(1.0, math.sqrt(area * aspect))
    top, left = (1 - height) * spare.pop(), (1 - width) * spare.pop()
    return (top, left, min(1.0, top + height), min(1.0, left + width))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParameterError(f"There is no file {path} to read the augmentation from.") from error
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not a TOML file: {error}. Write one entry on each line, such as: flip = 0.5") from error


def _covered(start: float, stop: float, count: int) -> npt.NDArray[np.float64]:
    """Share (count,) of each of `count` pixels that lies between `start` and `stop`, which are shares of the whole side."""
    return np.diff(np.clip(np.arange(count + 1), start * count, stop * count))
