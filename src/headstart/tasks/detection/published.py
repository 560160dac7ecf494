"""Files of whole detectors of torchvision, trained on COCO as a rule: recognised by the names of their weights, and downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from headstart.backbones.composed import Specification
from headstart.backbones.loading import find
from headstart.backbones.weight_files import Array, read_tensors
from headstart.errors import BackboneError, ParameterError, setting
from headstart.settings import FitSettings

COCO = "coco"
"""In place of a weight file: the one that torchvision publishes for the architecture."""
BACKBONE = "resnet50"
"""The backbone of these files."""
_MARKS = {
    "fcos": "head.regression_head.bbox_ctrness.weight", "retinanet": "head.regression_head.bbox_reg.weight",
    "faster_rcnn": "rpn.head.cls_logits.weight", "ssd": "head.classification_head.module_list.0.weight",
}  # fmt: skip
_BODY, _LAST, _TOO_DEEP = "backbone.body.", "backbone.body.layer3.5.conv3.weight", "backbone.body.layer3.6.conv3.weight"
_PUBLISHED = {
    "fcos": "fcos_resnet50_fpn_coco-99b0c9b7.pth", "retinanet": "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth",
    "faster_rcnn": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
}  # fmt: skip
_ADDRESS = "https://download.pytorch.org/models/"
_TERMS = (
    "torchvision's code is under BSD-3-Clause; of its weights it says that they may have terms of their own, from the data that they were "
    "trained on, here COCO"
)


def detector_in(names: Iterable[str]) -> tuple[str, str] | None:
    """The architecture whose weights have these names, and what stands before each name; None where they are of no whole detector."""
    names = list(names)
    for architecture, mark in _MARKS.items():
        for name in names:
            if name == mark or name.endswith(f".{mark}"):
                return architecture, name.removesuffix(mark)
    return None


def detector_weights(settings: FitSettings) -> dict[str, Array] | None:
    """The weights of the whole detector that the settings give, by torchvision's names; None where they give none, or a backbone alone."""
    path = _file_of(settings)
    if path is None:
        return None
    status = path.stat()
    return _detector_of(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)
def _detector_of(path: Path, version: tuple[int, int]) -> dict[str, Array] | None:
    """Read once: a fit makes several networks, and asks before whether there is a detector."""
    tensors = read_tensors(path)
    found = detector_in(tensors)
    return None if found is None else {name.removeprefix(found[1]): value for name, value in tensors.items() if name.startswith(found[1])}


def resolved(given: FitSettings) -> FitSettings:
    """The settings with the file that ``coco`` stands for, downloaded if need be, and checked where its weights are of a whole detector.

    ParameterError where architecture or backbone are others than those of the file; BackboneError where it cannot be downloaded.
    """
    if given.weights == COCO:
        if given.architecture not in _PUBLISHED:
            raise ParameterError(
                f"{setting('weights', COCO)} is of a published detector: give --architecture {', '.join(_PUBLISHED)} with it."
            )
        _check_backbone(given, f"{_PUBLISHED[given.architecture]}, which {setting('weights', COCO)} stands for,")
        given = replace(given, weights=_downloaded(_PUBLISHED[given.architecture]))
    if (weights := detector_weights(given)) is None:
        return given
    _check(given, weights)
    return given


def _check(given: FitSettings, weights: Mapping[str, Array]) -> None:
    kind = detector_in(weights)
    assert kind is not None
    if kind[0] == "ssd" or _LAST not in weights or _TOO_DEEP in weights:
        body = "SSD" if kind[0] == "ssd" else "a detector on another backbone than ResNet-50"
        raise ParameterError(f"{given.weights} holds {body}: of whole detectors, those of torchvision on ResNet-50 are taken.")
    if (given.architecture or "light") != kind[0]:
        raise ParameterError(
            f"{given.weights} holds the whole detector {kind[0]}, and the architecture is {given.architecture or 'light'}: give "
            f"--architecture {kind[0]}."
        )
    _check_backbone(given, f"{given.weights} holds a whole detector, which")


def _check_backbone(given: FitSettings, what: str) -> None:
    names = Specification.parse(given.backbone).names
    if [find(name).name.partition(".")[0] for name in names] != [BACKBONE]:
        raise ParameterError(f"{what} is on ResNet-50, and the backbone is {given.backbone}: give --backbone {BACKBONE}.")


def _file_of(settings: FitSettings) -> Path | None:
    """The weight file that may hold a detector."""
    path = None if settings.weights is None else Path(settings.weights)
    return path if path is not None and path.is_file() and path.suffix not in (".h5", ".keras") else None


def _downloaded(name: str) -> Path:
    """A file that torchvision publishes, from the folder where PyTorch keeps such files, or the internet."""
    from headstart.backbones import timm_models
    from headstart.backbones.loading import to_stderr

    timm_models.require("A published detector")
    from timm.models._hub import download_cached_file, get_cache_dir

    path = Path(get_cache_dir()) / name
    if path.is_file():
        return path
    reason = "HF_HUB_OFFLINE is set"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in {"1", "ON", "YES", "TRUE"}:
        to_stderr(f"Downloading {_ADDRESS}{name} to {path.parent} ({_TERMS})")
        try:
            return Path(download_cached_file(_ADDRESS + name, check_hash=True, progress=True))
        except Exception as error:  # network, proxy, permission, disk: each layer below has its own
            reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    raise BackboneError(
        f"{_ADDRESS}{name} is not on this machine and cannot be downloaded now ({reason}). Copy it to {path}, or give --weights FILE."
    )
