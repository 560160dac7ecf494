"""The speed of a run and of its exported files on this machine, measured in turn."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import ParameterError
from headstart.export.formats import ExportedModel, engines_for
from headstart.export.sample import some_sample_of
from headstart.progress import Listener
from headstart.run import Run

_IN_MEMORY = 256  # megabytes of decoded images
_SINGLE = 20  # images that are timed one by one, in each round


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One way of predicting, for example ``run, decoded, openvino``.

    `rate` is in images a second, many together, the median of the rounds; the latency of a single image is in seconds: `median` and `slow`,
    the 99th percentile.
    """

    what: str
    rate: float
    median: float
    slow: float


def measure(
    run: Run, exported: Sequence[Path] = (), *, images: int = 100, rounds: int = 3, data: Path | None = None,
    listener: Listener | None = None,
) -> list[Speed]:  # fmt: skip
    """Measure the run, from files and from decoded arrays, in each engine that is installed; and exported files, from the same arrays.

    At most so many of the run's `images` are taken, of very large ones fewer; `data` is their folder, if they have been moved. Each way is
    measured in turn in each round. Raises ParameterError for fewer than one image or round, DataError where none of the run's images are
    left, and BackboneError where an exported file cannot be opened.
    """
    if images < 1 or rounds < 1:
        raise ParameterError("The numbers of images and of rounds must be at least 1.")
    listener = listener or Listener()
    sample = some_sample_of(run, images, data=data)
    arrays: list[npt.NDArray[np.uint8]] = []
    for image in sample:
        arrays.append(image)
        if sum(getattr(one, "nbytes", 0) for one in arrays) > _IN_MEMORY << 20:
            break
    paths = sample.paths[: len(arrays)]
    ways: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {}
    for engine in ("openvino", "onnxruntime"):
        if importlib.util.find_spec(engine) is not None:
            predict = run.with_engine(engine).predict
            ways[f"run, files, {engine}"] = (predict, paths)
            ways[f"run, decoded, {engine}"] = (predict, arrays)
    for file in exported:
        for engine in engines_for(file):
            opened = ExportedModel(file, engine=engine, preprocessing=run.preprocessing)
            ways[f"{file.name}, decoded, {engine}"] = (partial(opened, keep=lambda outputs: {}), arrays)
    return _in_turn(ways, rounds, listener)


def _in_turn(ways: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]], rounds: int, listener: Listener) -> list[Speed]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    singles: dict[str, list[float]] = {name: [] for name in ways}
    listener.stage("Measuring")
    for turn in range(rounds + 1):  # the first warms up: engines prepare for each new image size
        for place, (name, (predict, images)) in enumerate(ways.items()):
            seconds = _timed(predict, images)
            alone = [_timed(predict, [image]) for image in images[:_SINGLE]]
            if turn:
                rates[name].append(len(images) / seconds)
                singles[name] += alone
            listener.progress(turn * len(ways) + place + 1, (rounds + 1) * len(ways))
    return [
        Speed(what=name, rate=float(np.median(rates[name])), median=float(np.median(times)), slow=float(np.quantile(times, 0.99)))
        for name, times in singles.items()
    ]


def _timed(predict: Callable[[Any], Any], images: Any) -> float:
    begun = time.perf_counter()
    predict(images)
    return time.perf_counter() - begun
