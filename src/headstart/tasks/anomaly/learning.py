"""Learning from good images: PatchCore or PaDiM, by what they make of good images that were held out, and a threshold from the same.

Real defects take no part in it, not even those of the training part: what is chosen on the defects at hand is chosen for them alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.backbones.composed import Specification
from headstart.backbones.stage_maps import MapLayer
from headstart.data import GOOD, Defects
from headstart.data.split import folds
from headstart.errors import DataError, ParameterError, RunError, damage_named
from headstart.features.stage_maps import ChooseMaps, MapRequest, StageMaps
from headstart.features.table import FeatureTable, taken
from headstart.heads.coreset import sampled
from headstart.heads.patch_memory import PatchMemory
from headstart.heads.patches import Maps, PatchGrid
from headstart.heads.position_gaussians import PositionGaussians, drawn_channels, moments
from headstart.metrics import auc_difference
from headstart.progress import Seconds
from headstart.reliability.false_alarms import FalseAlarms
from headstart.selection import Choice
from headstart.settings import FitSettings
from headstart.tasks.anomaly.synthetic import cut_paste, mirrored, views
from headstart.tasks.map_settings import on_square
from headstart.tasks.task import Learned, LearningContext
from headstart.text import number, plural

Detector: TypeAlias = PatchMemory | PositionGaussians
DETECTORS: dict[str, type[PatchMemory] | type[PositionGaussians]] = {one.name: one for one in (PatchMemory, PositionGaussians)}

SIZE = 256
"""Pixels of the square that the network takes, where nothing is said of it."""
STRIDES = (8, 16)
"""Pixels between neighbours in the maps that patches are made of: those of the published PatchCore and PaDiM."""
FOLDS = 10
SCORED = 1000
"""Good images that are scored out of sample, at most: the threshold is then known to less than a percentage point."""
COMPARED = 64
"""Good images that defects are made of to compare detectors, at most; `FEWEST` are the least that there is a comparison of."""
FEWEST = 8


@dataclass(frozen=True, eq=False)
class AnomalyModel:
    """A detector with its threshold, what the data call good images, and why it is this detector; what a run stores."""

    detector: Detector
    alarms: FalseAlarms
    good: tuple[str, ...]
    comparison: Comparison

    @property
    def threshold(self) -> float:
        """The score above which an image is anomalous."""
        return self.alarms.threshold

    def scores(self, maps: StageMaps) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Maps of anomaly scores float32 (n, h, w), and the score of each image (n,)."""
        grid = self.detector.grid
        found = np.empty((len(maps), grid.height, grid.width), np.float32)
        for index, one in enumerate(_Images(maps, np.arange(len(maps)))):
            found[index] = self.detector.map(one)
        return found, found.max(axis=(1, 2), initial=-np.inf)

    def described(self) -> dict[str, Any]:
        """What the manifest keeps of it, JSON values."""
        return {
            "threshold": self.threshold, "map": [self.detector.grid.height, self.detector.grid.width], "good": list(self.good),
            "false_alarms": self.alarms.state(), "comparison": self.comparison.state(),
        }  # fmt: skip

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """What `from_state` takes: JSON values and arrays."""
        settings, arrays = self.detector.state()
        return {**settings, **self.described()}, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> AnomalyModel:
        """The inverse of `state`; RunError for an unknown detector, or where an entry is missing."""
        name = settings.get("detector")
        if name not in DETECTORS:
            raise RunError(
                f"The saved detector is {name!r}; this version reads {', '.join(DETECTORS)}. Update with: pip install -U headstart"
            )
        with damage_named("The saved detector is"):
            return cls(
                DETECTORS[name].from_state(settings, arrays), FalseAlarms.from_state(settings["false_alarms"]), tuple(settings["good"]),
                Comparison(**settings["comparison"]),
            )  # fmt: skip


class _Images:
    """The maps of some inputs, which can be passed over any number of times."""

    def __init__(self, maps: StageMaps, rows: npt.NDArray[np.int64]) -> None:
        self._maps, self._rows = maps, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Maps]:
        return (self._maps.image(row) for row in self._rows.tolist())


def choose_maps(settings: FitSettings) -> ChooseMaps:
    """The last map of each of the `STRIDES`, or of those next to them where the network has no such."""
    side = Specification.parse(settings.backbone).size or SIZE

    def choose(layers: tuple[MapLayer, ...]) -> MapRequest:
        last = {layer.height: layer.name for layer in layers}  # of each resolution
        nearest = {min(last, key=lambda height: abs(np.log(height * stride / side))) for stride in STRIDES}
        return MapRequest(tuple(last[height] for height in sorted(nearest, reverse=True)))

    return choose


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Choose a detector and a threshold on the good images of the training part, and fit the detector on all of them."""
    targets, maps, listener, seconds = table.dataset.targets, table.maps, context.listener, Seconds()
    assert isinstance(targets, Defects)
    assert maps is not None
    good = table.train[~targets.anomalous[table.train]]
    if not len(good):
        raise DataError(f"{table.dataset.source}: no good image to learn from that can be read.")
    if left := len(table.train) - len(good):
        listener.warn(f"{plural(left, 'image')} of the training part with a defect: left out, since good images alone are learned from.")
    fitting = _Fitting(table, maps, good, context)
    with seconds.lap("detector"):
        comparison, scores, source = fitting.chosen_out_of_sample()
        listener.stage("Fitting the detector on all good images")
        detector = fitting.whole(comparison.chosen)
    alarms = FalseAlarms.of(
        scores[np.isfinite(scores)], context.settings.false_alarm_rate, source=source, guaranteed=len(good) > 1
    )  # fmt: skip
    (listener.say if alarms.enough else listener.warn)(alarms.sentence())
    out_of_sample = np.full((len(table.train), 1), np.nan)
    if len(good) > 1:
        out_of_sample[np.isin(table.train, good), 0] = scores
    words = tuple(sorted({targets.kind(row) for row in good.tolist()} | {GOOD}))
    layers = ", ".join(name for name, *_ in detector.grid.shapes)
    choice = Choice(
        estimator=AnomalyModel(detector, alarms, words, comparison), evidence=(), out_of_sample=out_of_sample, reason=comparison.reason,
        description=f"{detector.title} on {layers}, {detector.grid.height} x {detector.grid.width} patches",
    )  # fmt: skip
    return Learned(choice=choice, table=table, prepared=context.prepared, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which detector was chosen, and why: the area under the ROC curve of each, of held-out good images against the same with defects made.

    `error` is the standard error of their difference; `images` how many good ones there were.
    """

    chosen: str
    areas: dict[str, float]
    error: float = 0.0
    images: int = 0

    @property
    def reason(self) -> str:
        """In a sentence."""
        if not self.areas:
            return f"{DETECTORS[self.chosen].title}: there are fewer than {FEWEST} good images, too few to compare detectors."
        named = " and ".join(f"{name} {number(area)}" for name, area in self.areas.items())
        return (
            f"ROC AUC on {plural(self.images, 'good image')} that were held out, against the same with defects made by CutPaste: {named}. "
            "Real defects took no part in the choice."
        )

    def state(self) -> dict[str, Any]:
        """JSON values."""
        return {"chosen": self.chosen, "areas": self.areas, "error": self.error, "images": self.images}


class _Fitting:
    """The detectors on all good images, and on all but those of a fold."""

    def __init__(self, table: FeatureTable, maps: StageMaps, good: npt.NDArray[np.int64], context: LearningContext) -> None:
        self._table, self._maps, self._good, self._context = table, maps, good, context
        self._seed, self._listener = context.settings.seed, context.listener
        self._images = _Images(maps, good)
        self._grid = PatchGrid.of(maps.image(int(good[0])))
        self._channels = drawn_channels(self._grid, seed=self._seed)
        self._listener.stage(f"Sampling patches of {plural(len(good), 'good image')}")
        self._candidates = sampled(self._grid, self._images, seed=self._seed, listener=self._listener)

    def chosen_out_of_sample(self) -> tuple[Comparison, npt.NDArray[np.float64], str]:
        """The detector to take; the score of each good image by one that was fitted without it, nan where it was not scored; and how."""
        if len(self._good) == 1:
            scores = self._of_views()
            return Comparison(chosen=PatchMemory.name, areas={}), scores, f"of {len(scores)} views of the only good image"
        parts = self._folds()
        several = len(self._good) >= FEWEST
        made = self._with_defects() if several else None
        whole = moments(self._grid, self._channels, self._images) if several else None
        names = [PatchMemory.name, *([PositionGaussians.name] if several else [])]
        found = {name: np.full(len(self._good), np.nan) for name in names}
        spoilt = {name: np.full(len(self._good), np.nan) for name in names}
        self._listener.stage("Scoring good images out of sample")
        for done, part in enumerate(parts):
            self._listener.progress(done, len(parts))
            fitted: list[Detector] = [PatchMemory.of_patches(self._grid, self._candidates.without(part), seed=self._seed)]
            if whole is not None:
                own = _Images(self._maps, self._good[part])
                rest = whole - moments(self._grid, self._channels, own, origin=whole.origin)
                fitted.append(PositionGaussians.of_moments(self._grid, self._channels, rest))
            for detector in fitted:
                for place in part.tolist():
                    found[detector.name][place] = detector.map(self._maps.image(int(self._good[place]))).max()
                    if made is not None and place in made[0]:
                        spoilt[detector.name][place] = detector.map(made[1].image(made[0].index(place))).max()
        self._listener.progress(len(parts), len(parts))
        comparison = _compared(found, spoilt) if several else Comparison(chosen=PatchMemory.name, areas={})
        return comparison, found[comparison.chosen], f"in {plural(len(parts), 'fold')}"

    def whole(self, name: str) -> Detector:
        """The detector on all good images."""
        if name == PositionGaussians.name:
            found = moments(self._grid, self._channels, self._images, listener=self._listener)
            return PositionGaussians.of_moments(self._grid, self._channels, found)
        patches = self._candidates.patches
        if len(self._good) == 1:
            patches = np.concatenate([patches, *(self._grid(maps) for some in self._view_maps[0].values() for maps in some)])
        return PatchMemory.of_patches(self._grid, patches, seed=self._seed, listener=self._listener)

    def _folds(self) -> Sequence[npt.NDArray[np.int64]]:
        """Positions among the good images, in folds that part no group; of very many images, some."""
        count = len(self._good)
        rows = np.arange(count)
        if count > SCORED:
            rows = np.sort(np.random.default_rng(self._seed).choice(count, SCORED, replace=False))
        groups = self._table.groups[self._good[rows]]
        different = len(np.unique(groups))
        if different < 2:
            raise DataError(
                "All good images belong to one group, or are copies of one image, so that none can be held out. Add other good images."
            )
        parts = folds(np.zeros(len(rows), np.int64), count=min(FOLDS, different), groups=groups, seed=self._seed)
        return [rows[part] for part in parts]

    def _pixels(self, places: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        extractor = self._context.prepared.extractor
        images = taken(self._table.dataset.inputs, self._good[list(places)])
        return ((place, extractor.preprocessing(image)) for place, image in zip(places, images, strict=True))

    def _maps_of(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> StageMaps:
        found = self._context.prepared.extractor.with_maps(np.stack(pixels), choose_maps(self._context.settings)).maps
        assert found is not None
        return found

    def _with_defects(self) -> tuple[list[int], StageMaps]:
        """Some of the good images with defects that are made: their positions, and their maps."""
        self._listener.stage("Making defects in good images")
        generator = np.random.default_rng(self._seed)
        scored = np.concatenate(self._folds())
        places = np.sort(generator.permutation(scored)[:COMPARED]).tolist()
        return places, self._maps_of([cut_paste(pixels, generator) for _, pixels in self._pixels(places)])

    @cached_property
    def _view_maps(self) -> tuple[dict[str, list[Maps]], list[Maps]]:
        """Of the only image: the maps of its views by kind, and of its mirror images."""
        pixels = next(self._pixels([0]))[1]
        kinds, others = views(pixels), mirrored(pixels)
        found = iter(_Images(maps := self._maps_of([*(one for some in kinds.values() for one in some), *others]), np.arange(len(maps))))
        return {kind: [next(found) for _ in some] for kind, some in kinds.items()}, list(found)

    def _of_views(self) -> npt.NDArray[np.float64]:
        """The score of each view of the only image by the patches of views of other kinds, and of its mirror images by all of them."""
        kinds, others = self._view_maps
        patches = {kind: [self._grid(maps) for maps in some] for kind, some in kinds.items()}
        scores = []
        for left, scored in (*kinds.items(), ("", others)):
            rest = [one for kind, some in patches.items() if kind != left for one in some]
            detector = PatchMemory.of_patches(self._grid, np.concatenate([self._candidates.patches, *rest]), seed=self._seed)
            scores += [float(detector.map(maps).max()) for maps in scored]
        return np.asarray(scores)


def _compared(found: dict[str, npt.NDArray[np.float64]], spoilt: dict[str, npt.NDArray[np.float64]]) -> Comparison:
    """PatchCore, unless PaDiM tells good images from those with defects better by more than a standard error."""
    first, second = PatchMemory.name, PositionGaussians.name
    rows = np.flatnonzero(np.isfinite(spoilt[first]))
    positive = np.repeat([False, True], len(rows))
    scores = {name: np.concatenate([found[name][rows], spoilt[name][rows]]) for name in (first, second)}
    difference = auc_difference(positive, scores[second], scores[first])
    low, high = difference.interval
    error = 0.0 if np.isnan(low) else (high - low) / 2 / 1.96
    chosen = second if difference.value > error else first
    return Comparison(
        chosen=chosen, areas={first: difference.second, second: difference.first}, error=float(error), images=len(rows)
    )  # fmt: skip


def suited(given: FitSettings) -> FitSettings:
    """The settings with the whole image squashed to a square of `SIZE`; ParameterError for those that mean nothing here."""
    for flag, value, instead in (
        ("--budget", given.budget, "name the backbone with --backbone"),
        ("--adapt-to", given.adapt_to, "add good images of that world to the training images"),
        ("--strategy", given.fine_tuning, "use --strategy probe: detectors need a frozen backbone"),
        (
            "--folds",
            given.folds or None,
            "leave it out: there are only good images in the folds, and these are scored out of sample anyway",
        ),
        ("--class-weight", given.class_weight, "leave it out"),
        ("--head", None if given.head == "auto" else given.head, "leave it out: the detector is chosen on good images"),
        ("--map", None if given.map == "none" else given.map, "leave it out"),
        ("--architecture", given.architecture, "leave it out"),
        ("--windows", None if given.windows == 1 else given.windows, "show more of small defects with --backbone NAME@SIZE"),
        ("--fit-image", "crop" if given.fit_image == "crop" else None, "leave it out: a defect may lie at the edge of an image"),
    ):
        if value is not None:
            raise ParameterError(f"{flag} does not go with the task anomaly: {instead}.")
    return on_square(given, "anomaly", size=SIZE)
