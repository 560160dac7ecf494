"""The chosen layers and head once more, unfitted: for other images, or the same in other groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.errors import ParameterError
from headstart.heads.labels import ClassWeight
from headstart.maps import LayerLike, LayerMap
from headstart.selection.candidates import make_head
from headstart.selection.choice import Candidate
from headstart.selection.pipeline import HeadPipeline


def unfitted(
    candidate: Candidate,
    *,
    layers: Sequence[LayerLike],
    hyperparameters: Mapping[str, Any] | None = None,
    class_weight: ClassWeight = None,
    seed: int = 0,
) -> HeadPipeline:
    """A pipeline with the layers, the head and the hyperparameters of a candidate.

    Args:
        candidate: of a choice.
        layers: slices of the feature vector, as for `choose_head`.
        hyperparameters: in place of the candidate's own.
        class_weight: as for `choose_head`.
        seed: of the head.

    Raises:
        ParameterError: a layer of the candidate is not among `layers`.
    """
    slices = {layer.name: (layer.name, layer.start, layer.stop) for layer in layers}
    missing = [name for name in candidate.layers if name not in slices]
    if missing:
        raise ParameterError(f"The head was chosen on the layer {missing[0]!r}, which is not among {', '.join(slices)}.")
    settings = dict(candidate.hyperparameters if hyperparameters is None else hyperparameters)
    map_ = LayerMap([slices[name] for name in candidate.layers], weights=candidate.weights)
    return HeadPipeline(map_, make_head(candidate.head, settings, class_weight=class_weight, seed=seed))
