"""The evaluation of anomaly scores: how well they tell images with defects from good ones, and, where there are masks, their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.data import ANOMALOUS, GOOD, Defects
from headstart.metrics import accuracy_interval, auc_difference, average_precision, paired_difference, roc_auc
from headstart.metrics.anomaly import PixelStatistics, best_f1, bin_edges, pixel_intervals, roc_auc_interval
from headstart.metrics.differences import Difference, Differences
from headstart.pixels.interpolation import resized
from headstart.tasks.comparable import Comparable
from headstart.text import number, percent, plural

PIXELS = 256
"""Side of the square at which maps and masks are compared."""
RIGHT = "right decisions"
"""The share of images that are called rightly at the threshold."""
_SAMPLED = 2_000_000  # pixels by which bins are chosen

Interval = tuple[float, float]
Scores = npt.NDArray[np.float32]
NOTHING: Interval = (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    """How well the maps show where defects are: areas with their 95 % intervals, by a bootstrap over images; nan where undefined.

    `images` were compared, good ones included; on them were so many `defects`, connected regions.
    """

    roc_auc: float
    roc_auc_interval: Interval
    aupro: float
    aupro_interval: Interval
    images: int
    defects: int

    @classmethod
    def of(cls, maps: npt.NDArray[Any], targets: Defects) -> PixelScores | None:
        """Compare maps (n, h, w) with the masks of the images that have such; None where no image with a defect has one."""
        rows = [row for row in range(len(targets)) if targets.has_mask(row)]
        if not any(targets.array[row] for row in rows) or not targets.masks:
            return None
        step = max(1, len(rows) * PIXELS * PIXELS // _SAMPLED)
        defective, good = list[npt.NDArray[np.float32]](), list[npt.NDArray[np.float32]]()
        for scores, mask in _compared(maps, targets, rows):
            known = ~np.isnan(scores)
            defective.append(scores[mask & known])
            good.append(scores[~mask & known][::step])
        found = PixelStatistics.of(_compared(maps, targets, rows), edges=bin_edges(np.concatenate(good), np.concatenate(defective)))
        intervals = pixel_intervals(found)
        return cls(
            roc_auc=float(found.roc_auc()[0]), roc_auc_interval=intervals.get("pixel_roc_auc", NOTHING),
            aupro=float(found.region_overlap()[0]), aupro_interval=intervals.get("aupro", NOTHING), images=len(found),
            defects=int(found.defects.sum()),
        )  # fmt: skip

    def array(self) -> npt.NDArray[np.float64]:
        """As numbers that a run stores."""
        return np.array([self.roc_auc, *self.roc_auc_interval, self.aupro, *self.aupro_interval, self.images, self.defects])

    @classmethod
    def from_array(cls, values: npt.NDArray[Any]) -> PixelScores:
        """The inverse of `array`."""
        area, low, high, overlap, least, most, images, defects = (float(value) for value in values)
        return cls(
            roc_auc=area, roc_auc_interval=(low, high), aupro=overlap, aupro_interval=(least, most), images=int(images),
            defects=int(defects),
        )  # fmt: skip


def _compared(maps: npt.NDArray[Any], targets: Defects, rows: list[int]) -> Iterator[tuple[Scores, npt.NDArray[np.bool_]]]:
    """The scores and defects of each image's pixels, (h, w) each; the scores of void pixels are nan."""
    for row in rows:
        scores, mask = resized(maps[row], (PIXELS, PIXELS)), np.zeros((PIXELS, PIXELS), np.bool_)
        if targets.array[row]:
            mask, void = (_nearest(one) for one in targets.defective(row))
            scores = np.where(void, np.float32(np.nan), scores)
        yield scores, mask


def _nearest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A mask at the size of the comparison, by its nearest pixels."""
    rows, columns = (((np.arange(PIXELS) + 0.5) * side / PIXELS).astype(np.int64) for side in mask.shape)
    return np.asarray(mask[rows[:, None], columns])


@dataclass(frozen=True, eq=False)
class AnomalyEvaluation(Comparable):
    """All scores of one set of images.

    Attributes:
        score: float64 (n,), that of each image; `anomalous`: bool (n,), which have a defect.
        threshold: above which an image is called anomalous.
        kinds: what the data call each image; empty where that is not known.
        pixels: what the maps are worth; None where there are no masks.
    """

    score: npt.NDArray[np.float64]
    anomalous: npt.NDArray[np.bool_]
    threshold: float
    kinds: tuple[str, ...] = ()
    pixels: PixelScores | None = None

    @property
    def images(self) -> int:
        """How many images were tested."""
        return len(self.score)

    @property
    def called(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): which are called anomalous."""
        return self.score > self.threshold

    @property
    def correct_rows(self) -> None:
        """Nothing is selected by how many images are called rightly: that depends on the rate of false alarms asked for."""
        return

    @property
    def good(self) -> int:
        """How many have no defect."""
        return int((~self.anomalous).sum())

    @property
    def defects(self) -> int:
        """How many have one."""
        return int(self.anomalous.sum())

    @property
    def false_alarms(self) -> int:
        """How many good images are called anomalous."""
        return int((self.called & ~self.anomalous).sum())

    @property
    def found(self) -> int:
        """How many images with a defect are called anomalous."""
        return int((self.called & self.anomalous).sum())

    @cached_property
    def roc_auc(self) -> float:
        """The area under the ROC curve of the images; nan where all are good, or none."""
        return float(roc_auc(self.anomalous, self.score)[0]) if self.good and self.defects else math.nan

    @cached_property
    def interval(self) -> Interval:
        """Its 95 % interval, see `headstart.metrics.anomaly.roc_auc_interval`."""
        return roc_auc_interval(self.roc_auc, self.defects, self.good)

    @property
    def headline(self) -> tuple[str, float, Interval]:
        """The area under the ROC curve; where it is undefined, the rate of false alarms, or of defects that are found."""
        if not math.isnan(self.roc_auc) or not self.images:
            return "roc_auc", self.roc_auc, self.interval
        if self.good:
            return "false_alarm_rate", self.false_alarms / self.good, accuracy_interval(self.false_alarms, self.good)
        return "recall", self.found / self.defects, accuracy_interval(self.found, self.defects)

    @cached_property
    def scores(self) -> dict[str, float]:
        """All scores, by name; nan where one is undefined."""
        called = int(self.called.sum())
        precision = self.found / called if called else math.nan
        f1 = 2 * self.found / (called + self.defects) if self.defects else math.nan
        best, at = best_f1(self.anomalous, self.score) if self.images else (math.nan, math.nan)
        pixels = self.pixels
        return {
            "roc_auc": self.roc_auc,
            "average_precision": float(average_precision(self.anomalous, self.score)[0]) if self.good and self.defects else math.nan,
            "pixel_roc_auc": math.nan if pixels is None else pixels.roc_auc,
            "aupro": math.nan if pixels is None else pixels.aupro,
            "false_alarm_rate": self.false_alarms / self.good if self.good else math.nan,
            "recall": self.found / self.defects if self.defects else math.nan,
            "precision": precision,
            "f1": f1,
            "best_f1": best,
            "best_f1_threshold": at,
        }  # fmt: skip

    def by_kind(self) -> dict[str, tuple[int, int, float]]:
        """By the kind of defect: images, how many of them are found, and their area under the ROC curve against the good ones."""
        found = {}
        for kind in sorted({kind for kind, bad in zip(self.kinds, self.anomalous, strict=True) if bad}) if self.kinds else ():
            own = np.array([one == kind for one in self.kinds]) & self.anomalous
            rows = own | ~self.anomalous
            area = float(roc_auc(own[rows], self.score[rows])[0]) if self.good else math.nan
            found[kind] = (int(own.sum()), int((own & self.called).sum()), area)
        return found

    def summary(self, part: str = "test") -> str:
        """The result in one line."""
        if not self.images:
            return f"no {part} defects"
        name, value, (low, high) = self.headline
        figures = f"{value:.4f} [{low:.4f}, {high:.4f}]"
        if name == "roc_auc":
            return f"{part} AUROC {figures} on {plural(self.images, 'image')}"
        if name == "false_alarm_rate":
            return f"no {part} defects; {plural(self.false_alarms, 'false alarm')} on {plural(self.good, f'good {part} image')}"
        return f"{part} recall {figures} on {plural(self.defects, 'image')} with defects; no good {part} images"

    def lines(self, title: str = "test") -> list[str]:
        """The evaluation as lines of plain text."""
        found = [f"{title}: {plural(self.images, 'image')}, {self.good} good and {self.defects} with defects"]
        if not math.isnan(self.roc_auc):
            found.append(f"  AUROC of images           {self.roc_auc:.4f}  95 % interval [{self.interval[0]:.4f}, {self.interval[1]:.4f}]")
            found.append(
                f"  best F1                   {self.scores['best_f1']:.4f}  at a threshold of {self.scores['best_f1_threshold']:.4g}"
            )
        if (pixels := self.pixels) is not None:
            for name, value, (low, high) in (
                ("AUROC of pixels", pixels.roc_auc, pixels.roc_auc_interval), ("AUPRO (to 30 % FPR)", pixels.aupro, pixels.aupro_interval)
            ):  # fmt: skip
                found.append(f"  {name:<24}  {value:.4f}  95 % interval [{low:.4f}, {high:.4f}]")
            found.append(
                f"                            on {plural(pixels.images, 'image')} with {plural(pixels.defects, 'defect')} in masks"
            )
        if self.images:
            found.append(f"  threshold                 {self.threshold:.4g}")
        if self.good:
            found.append(f"  false alarms              {_share(self.false_alarms, self.good)}")
        if self.defects:
            found.append(f"  defects found             {_share(self.found, self.defects)}")
        kinds = self.by_kind()
        found += [f"    {kind}: {hits} of {count}, AUROC {number(area)}" for kind, (count, hits, area) in kinds.items() if len(kinds) > 1]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single images as data for JSON; what is undefined is None."""
        pixels = self.pixels
        kinds = {kind: {"images": count, "found": hits, "roc_auc": area} for kind, (count, hits, area) in self.by_kind().items()}
        intervals: dict[str, Any] = {"roc_auc_interval": list(self.interval)}
        if pixels is not None:
            intervals |= {"pixel_roc_auc_interval": list(pixels.roc_auc_interval), "aupro_interval": list(pixels.aupro_interval)}
            intervals |= {"images_with_masks": pixels.images, "defects_in_masks": pixels.defects}
        return {
            "images": self.images, GOOD: self.good, ANOMALOUS: self.defects, "threshold": self.threshold, "false_alarms": self.false_alarms,
            "found": self.found, **self.scores, **intervals, "by_kind": kinds,
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(self.lines())

    # compared with others

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): which images are called rightly at the threshold."""
        return np.asarray(self.called == self.anomalous)

    @property
    def leading(self) -> tuple[str, float, Interval]:
        """The area under the ROC curve; where it is undefined, the share of right decisions."""
        if not math.isnan(self.roc_auc):
            return "AUROC", self.roc_auc, self.interval
        return RIGHT, float(self.right.mean()), accuracy_interval(int(self.right.sum()), self.images)

    @property
    def beside(self) -> Mapping[str, float]:
        """What is decided at the threshold, and what the maps are worth where they were compared on the same images."""
        names = {"false alarms": "false_alarm_rate", "defects found": "recall", "pixel AUROC": "pixel_roc_auc", "AUPRO": "aupro"}
        return {title: self.scores[name] for title, name in names.items()}

    @property
    def rank(self) -> tuple[float, ...]:
        """The leading score, then the share of right decisions."""
        return self.leading[1], float(self.right.mean())

    def unlike(self, other: Self, *, mine: str, theirs: str) -> str | None:
        """Any two can be compared."""
        return None

    def part(self, rows: npt.NDArray[np.int64], *, like: Self) -> Self:
        """The evaluation of some images; scores of pixels remain where it is all of them, as they are stored for all together."""
        kinds = tuple(self.kinds[row] for row in rows.tolist()) if self.kinds else ()
        pixels = self.pixels if len(rows) == self.images else None
        return replace(self, score=self.score[rows], anomalous=self.anomalous[rows], kinds=kinds, pixels=pixels)

    def same_truth(self, other: Self) -> npt.NDArray[np.bool_]:
        """Which images are good in both, or have a defect in both."""
        return np.asarray(self.anomalous == other.anomalous)

    def differences(self, other: Self) -> Differences:
        """Of the area under the ROC curve, by DeLong's test, and of right decisions, each at its own threshold, by McNemar's."""
        right = Difference.of_accuracy(paired_difference(self.right, other.right), score="right_decisions", word=RIGHT)
        right = replace(right, phrases=("decides more images rightly", "decides fewer images rightly"))
        if math.isnan(self.roc_auc):
            return Differences((right,))
        return Differences((Difference.of_auc(auc_difference(self.anomalous, self.score, other.score), word="AUROC"), right))


def _share(count: int, total: int) -> str:
    low, high = accuracy_interval(count, total)
    return f"{count} of {total} ({percent(count / total)}, 95 % interval {percent(low)} to {percent(high)})"


def evaluate(outputs: Mapping[str, npt.NDArray[Any]], targets: Defects) -> AnomalyEvaluation:
    """Score the outputs ``map``, ``score`` and ``threshold`` (n,), which is the same for all."""
    threshold = outputs.get("threshold", np.full(len(targets), math.nan))
    return AnomalyEvaluation(
        np.asarray(outputs["score"], np.float64), targets.anomalous, float(threshold[0]) if len(threshold) else math.nan,
        kinds=targets.kinds, pixels=PixelScores.of(outputs["map"], targets) if targets.masks else None,
    )  # fmt: skip
