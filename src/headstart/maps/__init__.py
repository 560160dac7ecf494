"""Maps: scikit-learn transformers from features to features, each with its own way into ONNX."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from headstart.errors import RunError
from headstart.maps.alignment import ALIGNMENTS, Alignment, Coral, LinearTransport, Standardised, SubspaceAlignment, TransferComponents
from headstart.maps.deep import HiddenLayer
from headstart.maps.feature_map import FeatureMap
from headstart.maps.kernel import FourierMap, NystroemMap
from headstart.maps.layers import CLIP, FLOOR, Features, LayerMap, Slices
from headstart.maps.linear import GradientProjection, LinearDiscriminants, PrincipalComponents

MAPS: dict[str, type[FeatureMap]] = {
    one.name: one for one in (PrincipalComponents, LinearDiscriminants, GradientProjection, NystroemMap, FourierMap, HiddenLayer)
}
"""Every map that is learned for a task, by its name."""

KINDS: dict[str, tuple[str, ...]] = {
    "linear": ("pca", "lda", "gradients"), "kernel": ("nystroem", "fourier"), "deep": ("mlp",)
}  # fmt: skip
"""The names of the maps of each kind."""

__all__ = [
    "ALIGNMENTS", "CLIP", "FLOOR", "KINDS", "MAPS", "Alignment", "Coral", "FeatureMap", "Features", "FourierMap", "GradientProjection",
    "HiddenLayer", "LayerMap", "LinearDiscriminants", "LinearTransport", "NystroemMap", "PrincipalComponents", "Slices", "Standardised",
    "SubspaceAlignment", "TransferComponents", "map_from_state",
]  # fmt: skip


def map_from_state(settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> FeatureMap:
    """Make a fitted map from what its `state` gave; RunError for an unknown map, or where entries are missing."""
    name = settings.get("name")
    if name not in MAPS:
        raise RunError(f"The saved map is {name!r}; this version reads {', '.join(MAPS)}. Update with: pip install -U headstart")
    return MAPS[name].from_state(settings, arrays)
