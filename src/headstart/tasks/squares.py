"""Settings of tasks that see the whole image, squashed to a square."""

from __future__ import annotations

from dataclasses import replace

from headstart.backbones.composed import Specification
from headstart.errors import ParameterError
from headstart.settings import FitSettings


def on_square(given: FitSettings, task: str, *, size: int, asked: int | None = None) -> FitSettings:
    """The settings with a square of `asked` pixels, or that of the backbone's name, or of `size`.

    ParameterError for several networks together and for mirror images, which such a task has of its own.
    """
    backbone = Specification.parse(given.backbone)
    if not backbone.plain:
        raise ParameterError(f"The task {task} takes one network without mirror images, not {given.backbone}: name one with --backbone.")
    return replace(given, backbone=str(replace(backbone, size=asked or backbone.size or size)), fit_image="squash")
