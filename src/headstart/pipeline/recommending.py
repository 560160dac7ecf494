"""Which backbone to take for data, for a place and within limits: measured on a sample of the training images, not looked up."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from headstart.backbones import BackboneRecord, catalogue, find
from headstart.backbones.loading import at_hand, expected_means
from headstart.data import Dataset
from headstart.features.prepared import Prepared
from headstart.features.table import FeatureTable
from headstart.matrix import FeatureMatrix, column_means
from headstart.metrics import accuracy_interval
from headstart.pipeline.fitting import untested
from headstart.pipeline.forecast import Forecast
from headstart.pipeline.searching import FEW, Searching
from headstart.progress import Listener
from headstart.selection import Tried
from headstart.settings import FitSettings
from headstart.settings.wishes import Wishes
from headstart.tasks import LearningContext, Task
from headstart.text import plural

LIMITS: dict[str, tuple[float, float]] = {"phone": (30.0, 2.0), "browser": (50.0, 5.0)}
"""Megabytes and 10^9 operations an image that suit a place; the others have no limits but the user's."""

FORMATS = {"laptop": "onnx", "phone": "litert", "browser": "onnx --snippet javascript", "server": "onnx", "gpu": "onnx"}
"""What to give ``headstart export --format`` for a place."""

_DOWNLOADS = 6  # backbones that need a download, at most
_UNLIKE = 1.0  # a distance from the images of the pre-training: photographs have about 0.5, drawings and X-rays more than 1


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """A backbone with what it is predicted to reach and to cost."""

    backbone: str  # as `headstart fit --backbone` takes it
    outcome: str  # ``recommended``, ``possible``, ``beyond the limits``, ``download`` or ``skipped``
    accuracy: float = math.nan  # predicted, of a fit on all training images
    interval: tuple[float, float] = (math.nan, math.nan)  # 95 %
    fit_seconds: float = math.nan  # predicted, of that fit on this machine
    milliseconds: float = math.nan  # for one image by itself, on this machine
    megabytes: float = math.nan  # of the network's file
    licence: str = "unknown"
    reason: str = ""  # one sentence


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Backbones for data, the recommended one first.

    `distance` is how far the images are from those of the pre-training: the mean absolute difference of the mean features of the last layer
    from what they are there, relative to these. None where the backbone does not tell.
    """

    rows: tuple[Recommended, ...]
    sampled: int  # training images that were looked at
    images: int  # training images in all
    classes: int
    distance: float | None
    deploy: str

    def sentences(self) -> list[str]:
        """What follows from the size of the data and from how far they are from the pre-training."""
        said = [f"{plural(self.images, 'training image')}, of which {self.sampled} were looked at."]
        if self.distance is not None:
            said.append(f"Distance from ImageNet's images: {self.distance:.2f} (photographs: 0.5; drawings and X-rays: over 1).")
        per_class = self.images / max(self.classes, 1)
        if self.distance is not None and self.distance > _UNLIKE and per_class >= 50:
            said.append("The images are unlike those of the pre-training: training the backbone further may bring more than another one.")
            said.append("Try: headstart fit DATA --strategy partial")
        elif self.classes and per_class < 20:
            said.append(f"About {per_class:.0f} images a class: more images would bring more than another backbone.")
        return said

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def recommend(
    data: str | Path | Dataset, *, settings: FitSettings | None = None, wishes: Wishes | None = None, listener: Listener | None = None
) -> Recommendation:
    """Recommend a backbone for data.

    A sample of the training images goes through each backbone that needs no download, and the best head is chosen on its features; speed
    and size are measured on this machine. Images that `fit` with the same settings would test on are not looked at. Errors as of `fit`.
    """
    settings, wishes, listener = settings or FitSettings(), wishes or Wishes(), listener or Listener()
    until = time.perf_counter() + wishes.budget
    task, prepared, table, tested = untested(data, settings, listener)
    trial = _sampled(task, table, LearningContext(settings=settings, prepared=prepared, listener=listener), until)
    trial.run()
    rows = [_row(trial, tried, wishes, images=len(table.train), tested=tested) for tried in trial.rows]
    rows = sorted(_judged(rows), key=lambda row: (row.outcome != "recommended", row.outcome == "skipped", -row.accuracy))
    distance = _distance(prepared, trial.table.values)
    return Recommendation(
        rows=(*rows, *_downloads(wishes, prepared)), sampled=len(trial.train), images=len(table.train), classes=len(table.dataset.classes),
        distance=distance, deploy=wishes.deploy,
    )  # fmt: skip


def _sampled(task: Task, table: FeatureTable, context: LearningContext, until: float) -> Searching:
    """A search on some of the training images, with their features by the first backbone."""
    train, listener, prepared = table.train, context.listener, context.prepared
    if len(train) > FEW:
        train = train[table.hold_out(train, share=FEW / len(train), seed=context.settings.seed)[1]]
    listener.stage(f"Extracting features of {len(train)} images")
    some = table.take(train)
    forecast = Forecast(some)
    watched = forecast.watched(prepared, len(some), listener.progress, until=math.inf)
    values = prepared.extract(some.dataset.inputs, progress=watched, warn=listener.warn).complete("a search")
    trial = Searching(task, some.with_values(values, prepared.extractor.layers), context, until)
    trial.forecast.speeds |= forecast.speeds
    return trial


def _row(trial: Searching, tried: Tried, wishes: Wishes, *, images: int, tested: int) -> Recommended:
    """What a backbone that was considered is predicted to reach and to cost with all training images, and so many test images."""
    record = find(tried.backbone)
    row = Recommended(backbone=tried.backbone, outcome="skipped", licence=record.licence or "unknown", reason=tried.reason)
    scored = trial.scored.get(tried.backbone)
    if scored is None:
        return row
    prepared, sampled = scored.prepared, tried.images
    accuracy = 1 - (1 - tried.accuracy) * (sampled / images) ** trial.exponent(tried.backbone)
    low, high = accuracy_interval(round(tried.accuracy * sampled), sampled)
    gain = accuracy - tried.accuracy
    megabytes = prepared.extractor.backbone.network.stat().st_size / 1e6
    row = replace(
        row, outcome="possible", accuracy=accuracy, interval=(low, min(high + gain, 1.0)), megabytes=megabytes,
        fit_seconds=trial.forecast.fit(prepared, train=images, test=tested), milliseconds=_latency(trial, prepared),
    )  # fmt: skip
    beyond = list(_beyond(row, record, wishes))
    return replace(row, outcome="beyond the limits", reason=f"{'; '.join(beyond)}.") if beyond else row


def _beyond(row: Recommended, record: BackboneRecord, wishes: Wishes) -> Iterator[str]:
    """Which limits are exceeded."""
    megabytes, operations = LIMITS.get(wishes.deploy, (math.inf, math.inf))
    megabytes = wishes.size or megabytes
    if row.megabytes > megabytes:
        yield f"{row.megabytes:.0f} MB, more than {megabytes:g}"
    if wishes.latency is not None and row.milliseconds > wishes.latency:
        yield f"{row.milliseconds:.0f} ms an image, more than {wishes.latency:g}"
    if record.gflops is not None and record.gflops > operations:
        yield f"{record.gflops:.1f} billion operations an image, more than {operations:g} on a {wishes.deploy}"


def _judged(rows: list[Recommended]) -> list[Recommended]:
    """The rows with the best of those within the limits recommended, and a sentence for the others."""
    possible = [row for row in rows if row.outcome == "possible"]
    if not possible:
        return rows
    best = max(possible, key=lambda row: row.accuracy)
    found = []
    for row in rows:
        if row is best:
            row = replace(row, outcome="recommended", reason="The most accurate within the limits, on training images out of sample.")
        elif row.outcome == "possible":
            points, faster = 100 * (best.accuracy - row.accuracy), best.milliseconds / row.milliseconds
            speed = f", {faster:.1f} times as fast" if faster > 1.1 else ""
            within = " (within the error)" if row.accuracy >= best.interval[0] else ""
            row = replace(row, reason=f"{points:.1f} points below {best.backbone}{within}{speed}.")
        found.append(row)
    return found


def _downloads(wishes: Wishes, prepared: Prepared) -> Iterator[Recommended]:
    """Backbones of the catalogue that need a download, within the limits that are known beforehand; the best on ImageNet first."""
    here = {find(name).name for name in at_hand(prepared.cache)}
    best = max((record.top1 or 0.0 for record in catalogue() if record.name in here), default=0.0)
    further = [record for record in catalogue() if record.name not in here and (record.top1 or 0.0) > best]
    given = 0
    for record in sorted(further, key=lambda record: -(record.top1 or 0.0)):
        megabytes = (record.file_size or 0) / 1e6
        row = Recommended(backbone=record.short, outcome="download", megabytes=megabytes, licence=record.licence or "unknown")
        if given == _DOWNLOADS or any(_beyond(row, record, wishes)):
            continue
        given += 1
        yield replace(row, reason=f"ImageNet top-1 {record.top1:.1f} % (best here {best:.1f}); needs: headstart fetch {record.short}")


def _latency(trial: Searching, prepared: Prepared) -> float:
    """Milliseconds for one image by itself, from pixels of the right size to features."""
    size, seconds = prepared.extractor.preprocessing.size, []
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    for part in prepared.extractor.parts:
        timed = []
        for _ in range(6):
            began = time.perf_counter()
            list(part.engine.run([pixels]))
            timed.append(time.perf_counter() - began)
        seconds.append(median(timed[1:]))
    return 1000 * sum(seconds)


def _distance(prepared: Prepared, values: FeatureMatrix) -> float | None:
    """How far images are from those of the pre-training; see `Recommendation`."""
    backbone = prepared.extractor.backbone
    expected = expected_means(backbone)
    if expected is None:
        return None
    means = column_means(values)[backbone.last.start : backbone.last.stop]
    return float(np.abs(means - expected).sum() / expected.sum())
