"""How long features, heads and the end of a fit will take on this machine, going by how long such work has taken so far."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from headstart.backbones.loading import find
from headstart.engine import available_cores
from headstart.errors import StoreError
from headstart.features import BackboneExtractor
from headstart.features.prepared import Prepared
from headstart.features.table import FeatureTable, taken
from headstart.progress import Progress
from headstart.selection import Choice

_TIMED = 24  # images on which the speed of a network is measured
_FITTED = 4000  # training images up to which a learning curve takes the longer the more there are
_KNOWN_AFTER = 32  # images after which the speed of an extraction under way is known


class TooSlowError(Exception):
    """An extraction would not end in time. What was computed is stored."""


@dataclass(eq=False)
class Forecast:
    """Predictions for the inputs of a table, in seconds; they improve with everything that is measured."""

    table: FeatureTable
    speeds: dict[str, float] = field(default_factory=dict)  # milliseconds an image, by the ids of extractors
    operations: dict[str, float | None] = field(default_factory=dict)  # 10^9 an image, by the same; None where that is not known
    stored: dict[str, dict[str, int]] = field(default_factory=dict)  # images without features by part of the data, by the same
    head_seconds: dict[int, float] = field(default_factory=dict)  # for a feature, by the number of training images

    def milliseconds(self, prepared: Prepared, *, measured: bool = False) -> float:
        """Time for an image, when many are computed together.

        It follows from the operations of networks that have not been measured; where these are unknown, or with `measured`, they are
        measured now.
        """
        return sum(self._of_part(part, measured=measured) for part in prepared.extractor.parts)

    def extraction(self, prepared: Prepared, part: str = "train", *, images: int | None = None) -> float:
        """Until the features of the training or ``test`` images, or of so many of them, are there; some may be stored."""
        return sum(self.extraction_of(prepared, network, part, images) for network in prepared.extractor.parts)

    def fitted(self, prepared: Prepared, images: int, seconds: float, choice: Choice) -> None:
        """A head was chosen within some seconds; where it was found in the store, what that took once counts."""
        once = sum(candidate.seconds for candidate in choice.evidence) / available_cores()
        self.head_seconds[images] = max(seconds, once) / prepared.extractor.dim

    def heads(self, prepared: Prepared, images: int) -> float:
        """Choosing a head on so many training images."""
        known = min(self.head_seconds, key=lambda count: abs(count - images))
        return self.head_seconds[known] * prepared.extractor.dim * images / known

    def closing(self, prepared: Prepared) -> float:
        """From the choice to the written run: features of the test images, reliability and learning curve (fits of heads), heat maps.

        The curve's fits are of a limited number of images, however many there are.
        """
        images = len(self.table.train)
        fits = 2.0 * self.heads(prepared, images) * min(1.0, _FITTED / max(images, 1))
        return 2.0 + self.extraction(prepared, "test") + fits + 0.3 * self.milliseconds(prepared)

    def fit(self, prepared: Prepared, *, train: int, test: int) -> float:
        """A fit on so many images from beginning to end, where no features are stored; unlike `closing`, with nothing added to be sure."""
        speed = self.milliseconds(prepared)
        return 0.5 + (train + test) * speed / 1000 + 3 * self.heads(prepared, train) + 0.1 * speed

    def watched(self, prepared: Prepared, images: int, progress: Progress, *, until: float) -> Progress:
        """A progress for the extraction of so many images: it measures speeds; raises `TooSlowError` where that would end after `until`."""
        return _Watched(self, prepared, images, progress, until)

    def extracted(self, prepared: Prepared, part: str, images: int) -> None:
        """So many images of a part of the data have features now."""
        for network in prepared.extractor.parts:
            missing = self._missing(prepared, network)
            missing[part] = max(missing[part] - images, 0)

    def extraction_of(self, prepared: Prepared, network: BackboneExtractor, part: str, images: int | None) -> float:
        """As `extraction`, of one of the networks."""
        missing = self._missing(prepared, network)[part]
        return (missing if images is None else min(missing, images)) * self._of_part(network) / 1000

    def _of_part(self, network: BackboneExtractor, *, measured: bool = False) -> float:
        """Milliseconds an image, measured before or now, or predicted from the median of those that were measured."""
        operations = self._operations_of(network)
        if network.id in self.speeds:
            return self.speeds[network.id]
        rates = [speed / known for key, speed in self.speeds.items() if (known := self.operations.get(key))]
        if operations is not None and rates and not measured:
            return operations * median(rates)
        return self.speeds.setdefault(network.id, self._timed(network))

    def _operations_of(self, network: BackboneExtractor) -> float | None:
        if network.id not in self.operations:
            record, size = find(network.backbone.name), network.preprocessing.size
            self.operations[network.id] = None if record.gflops is None else record.gflops * (size / record.input_size) ** 2
        return self.operations[network.id]

    def _timed(self, network: BackboneExtractor) -> float:
        images = taken(self.table.dataset.inputs, self.table.train[:_TIMED])
        network(images[:2])  # opens the engine
        began = time.perf_counter()
        network(images)
        return 1000 * (time.perf_counter() - began) / len(images)

    def _missing(self, prepared: Prepared, network: BackboneExtractor) -> dict[str, int]:
        """How many images of each part of the data have no features by a network yet."""
        if network.id not in self.stored:
            counts = {}
            for part, rows in (("train", self.table.train), ("test", self.table.test)):
                counts[part] = len(rows)
                with suppress(StoreError), prepared.store() as store:
                    if store is not None:
                        counts[part] = len(store.missing(network.id, [self.table.digests[row] for row in rows.tolist()]))
            self.stored[network.id] = counts
        return self.stored[network.id]


class _Watched:
    """See `Forecast.watched`. The networks of a backbone come one after the other, each over all images, as the progress tells."""

    def __init__(self, forecast: Forecast, prepared: Prepared, images: int, progress: Progress, until: float) -> None:
        self._forecast, self._prepared, self._images, self._progress, self._until = forecast, prepared, images, progress, until
        self._network, self._first, self._began = -1, 0, 0.0

    def __call__(self, done: int, total: int) -> None:
        self._progress(done, total)
        number, here, now = *divmod(done, self._images), time.perf_counter()
        if not here and number:  # the end of a network, or the beginning of the next one
            return
        if number != self._network:  # so far features were only looked up
            self._network, self._first, self._began = number, here, 0.0
        elif not self._began:  # the engine was opened before the first image
            self._first, self._began = here, now
        elif here - self._first >= _KNOWN_AFTER:
            networks = self._prepared.extractor.parts
            speed = 1000 * (now - self._began) / (here - self._first)
            self._forecast.speeds[networks[number].id] = speed
            if now + (self._images - here) * speed / 1000 + self._later(number + 1) > self._until:
                raise TooSlowError

    def _later(self, number: int) -> float:
        """Seconds for the networks that come after."""
        later = self._prepared.extractor.parts[number:]
        return sum(self._forecast.extraction_of(self._prepared, network, "train", self._images) for network in later)
