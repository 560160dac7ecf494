"""What tasks that learn from maps ask of settings and data: the whole image on a square, and a training that there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headstart.backbones import timm_models
from headstart.backbones.composed import Specification
from headstart.errors import DataError, ParameterError, setting
from headstart.modalities.image.augment import Augmentation
from headstart.settings import FineTuning, FitSettings
from headstart.text import plural

FEWEST = 8
"""Training images of which some can be held out."""
_NAMED = 5  # classes in a message


def on_square(given: FitSettings, task: str, *, size: int, asked: int | None = None) -> FitSettings:
    """The settings with a square of `asked` pixels, or that of the backbone's name, or of `size`.

    ParameterError for several networks together and for mirror images, which such a task has of its own.
    """
    backbone = Specification.parse(given.backbone)
    if not backbone.plain:
        raise ParameterError(f"The task {task} takes one network without mirror images, not {given.backbone}: name one with --backbone.")
    return replace(given, backbone=str(replace(backbone, size=asked or backbone.size or size)), fit_image="squash")


@dataclass(frozen=True, kw_only=True)
class HeadOfTask:
    """A head that a task trains on maps, as messages speak of it.

    Attributes:
        task: the name of the task.
        size: side of the square in pixels, where nothing says another.
        targets: ``masks``; `part`: what an image has of a class, ``a pixel``.
        head: ``a decoder``; `learned`: ``masks are learned by a decoder``.
        cropped: what cutting the centre of images would do.
    """

    task: str
    size: int
    targets: str
    part: str
    head: str
    learned: str
    cropped: str

    def settings(self, given: FitSettings) -> FitSettings:
        """The settings on a square; ParameterError for those of heads on features."""
        if given.head != "auto" or given.map != "none":
            name, value = ("head", given.head) if given.head != "auto" else ("map", given.map)
            raise ParameterError(f"{setting(name, value)} is for features, and {self.learned}: leave it out.")
        if given.fit_image == "crop":
            raise ParameterError(f"{setting('fit_image', 'crop')} would {self.cropped}: leave it out.")
        return on_square(given, self.task, size=self.size, asked=None if given.fine_tuning is None else given.fine_tuning.image_size)

    def check(self, source: str, counts: Mapping[str, int], *, images: int, plan: FineTuning | None) -> None:
        """DataError for training `images` that lack a class, by its `counts`, or are too few; ParameterError for another training."""
        if lacking := [name for name, count in counts.items() if not count]:
            more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
            raise DataError(
                f"{source}: no training image has {self.part} of {', '.join(lacking[:_NAMED])}{more}: it cannot be learned. Add images, or "
                "remove the class."
            )
        if images < 2:
            raise DataError(f"{source}: {plural(images, 'training image')}; {self.head} needs two or more.")
        timm_models.require(f"Learning {self.targets}")
        if plan is None:
            return
        augmentation = Augmentation.parse(plan.augment)
        if augmentation.mixup or augmentation.cutmix:
            raise ParameterError(
                f"MixUp and CutMix mix images with one label each, and these have {self.targets}: leave them out of --augment."
            )
        if plan.head_layers or plan.pooling != "avg":
            raise ParameterError(
                f"{self.learned[:1].upper()}{self.learned[1:]}, which has no --head-layers and no --pooling: leave them out."
            )
        if plan.strategy != "probe" and images < FEWEST:
            raise DataError(
                f"{source}: {plural(images, 'training image')}; to train the backbone, some are held out: {FEWEST} are needed. "
                "Use --strategy probe."
            )
