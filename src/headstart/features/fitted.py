"""`FittedOn`: what an estimator was fitted on, in this process, in a copy of it and in another process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from headstart.backbones import Backbone
from headstart.errors import BackboneError, DataError
from headstart.features.prepared import ExtractorSettings, Prepared, prepare, prepare_trained
from headstart.features.running import Images
from headstart.features.stage_maps import ChooseMaps, StageMaps
from headstart.features.table import taken
from headstart.modalities.image import Preprocessing
from headstart.text import unread


class FittedOn:
    """A base of estimators that holds the extractor whose features or maps were learned from, whatever parameters are set to since.

    What belongs to a process (open engines, temporary folders) is left out of copies and pickles, and made again when it is needed. A
    trained network exists nowhere else, so the state carries it along.
    """

    _fitted: Prepared
    _fitted_with: tuple[ExtractorSettings, str]  # with the id of the extractor
    _trained: tuple[Backbone, Preprocessing] | None
    _network: bytes

    def _fit_on(self, prepared: Prepared) -> None:
        """Hold what was learned from."""
        extractor = prepared.extractor
        self._fitted, self._fitted_with = prepared, (prepared.settings, extractor.id)
        self._trained = (extractor.backbone, extractor.preprocessing) if extractor.backbone.tuned else None
        self.__dict__.pop("_network", None)

    def _as_fitted(self) -> Prepared:
        """What was learned from; BackboneError where the backbone now gives something else."""
        if "_fitted" not in self.__dict__:
            settings, extractor_id = self._fitted_with
            prepared = prepare(settings) if self._trained is None else prepare_trained(settings, *self._trained, self._network)
            if prepared.extractor.id != extractor_id:
                raise BackboneError(
                    f"The {type(self).__name__} was fitted on features of {extractor_id}, and its backbone now gives "
                    f"{prepared.extractor.id}. Fit again."
                )
            self._fit_on(prepared)
        return self._fitted

    def _maps_of(self, images: Images, choose: ChooseMaps, *, lacking: str, together: int) -> Iterator[tuple[Images, StageMaps]]:
        """Yield `together` images at a time, and their maps; DataError where one cannot be read, which then is `lacking` something."""
        prepared = self._as_fitted()
        for start in range(0, len(images), together):
            part = taken(images, np.arange(start, min(start + together, len(images))))
            features = prepared.extract(part, maps=choose)
            if features.refused:
                raise DataError(unread(features.refused, len(part), f"have no {lacking}. Leave them out and try again"))
            assert features.maps is not None
            yield part, features.maps

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        if "_fitted" in state and self._trained is not None:
            state["_network"] = self._fitted.extractor.backbone.network.read_bytes()
        return {name: value for name, value in state.items() if name != "_fitted"}
