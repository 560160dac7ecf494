"""Predicts the images of a request, and puts into words what the model says of each."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from headstart.engine import Outputs
from headstart.errors import ImageError
from headstart.run import Collected
from headstart.serve.gather import Pixels
from headstart.serve.limits import Limits
from headstart.serve.models import Model
from headstart.serve.pictures import Lanes
from headstart.serve.refusals import Refusal
from headstart.tasks import Judgement

_SHARP = 384  # pixels of a heat map's picture, whatever the network takes


@dataclass(frozen=True, eq=False)
class Given:
    """One image of a request: what the client calls it, and its bytes; or its pixels, uint8 (H, W, 3); or why it is none."""

    name: str
    data: bytes | Pixels | ImageError


@dataclass(frozen=True, eq=False)
class Predicted:
    """What came of the images of a request.

    Attributes:
        predictions: as `headstart.run.Run.predict` gives them.
        outputs: of the network for each row: probabilities (k,), logits (k,), features (D,).
    """

    predictions: Any
    outputs: tuple[Outputs, ...]


class Waiting:
    """Counts the images that are being predicted or wait for it, and refuses more than the limits."""

    def __init__(self, limits: Limits, *, on_change: Callable[[int], None] = lambda images: None) -> None:
        self._limits, self._on_change = limits, on_change
        self._of: Counter[str] = Counter()
        self.images = 0

    @contextmanager
    def places(self, client: str, count: int) -> Iterator[None]:
        """Take places for the images of a request, and give them back at its end.

        Raises:
            Refusal: 429 where this client has too many images waiting, 503 where all clients together have.
        """
        if self._of[client] + count > self._limits.waiting_per_client:
            raise Refusal(429, "too_many_requests", "You have too many images waiting here. Wait for answers, then go on.", retry_after=1)
        if self.images + count > self._limits.waiting:
            raise Refusal(503, "busy", "Too many images are waiting. Try again.", retry_after=1)
        self.images += count
        self._of[client] += count
        self._on_change(self.images)
        try:
            yield
        finally:
            self.images -= count
            self._of[client] -= count
            if not self._of[client]:
                del self._of[client]
            self._on_change(self.images)


async def predict(model: Model, given: Sequence[Given], *, lanes: Lanes, neighbours: int = 1) -> Predicted:
    """Predict images; those that cannot be read are listed in the result.

    Args:
        model: in use for as long as this takes.
        given: the images.
        lanes: the threads that decode and judge.
        neighbours: how many of the nearest training images to name for each.
    """
    results = await asyncio.gather(*(_outputs(model, one, lanes) for one in given))

    def collected() -> Any:
        found = Collected(model.run, neighbours=max(1, neighbours))
        for place, result in enumerate(results):
            found.add(place, result)
        return found.predictions()

    outputs = tuple(result for result in results if not isinstance(result, ImageError))
    return Predicted(await lanes.judge(collected), outputs)


async def _outputs(model: Model, given: Given, lanes: Lanes) -> Outputs | ImageError:
    data = given.data
    if isinstance(data, ImageError):
        return data
    preprocessing = model.run.preprocessing
    try:
        pixels = await lanes.decode(data, lambda: preprocessing(data, name=given.name))
    except ImageError as error:
        return error
    return await asyncio.wrap_future(model.gather.submit(pixels))


def entries_of(model: Model, given: Sequence[Given], predicted: Predicted, *, top: int, nearest: int) -> list[dict[str, Any]]:
    """One JSON object for each image, in order: see `headstart.serve.answers.Prediction`."""
    predictions, judged = predicted.predictions, predicted.predictions.judgement
    entries: list[dict[str, Any]] = [{"name": one.name} for one in given]
    for place, error in zip(predictions.refused_at, predictions.refused, strict=True):
        entries[place]["error"] = error.reason
    for row, place in enumerate(predictions.kept.tolist()):
        label, probability = predictions.answer(row)
        unlike, unlikeness = predictions.unlikeness(row)
        entries[place] |= {
            "label": label if isinstance(label, str) else list(label),
            "probability": probability,
            "top": [{"label": name, "probability": chance} for name, chance in predictions.top(row, top)],
            "set": predictions.candidates(row),
            "unlike": unlike,
            "unlikeness": unlikeness,
            "nearest": _nearest(model, judged, row, nearest),
        }
    return entries


def _nearest(model: Model, judged: Judgement | None, row: int, count: int) -> list[dict[str, str]]:
    """Names and labels of training images; only the last part of a name, as the folders of the server are nobody's business."""
    if judged is None or judged.nearest is None:
        return []
    names, labels = model.nearest_names, model.nearest_labels
    return [
        {"name": names[index] if index < len(names) else "", "label": labels[index] if index < len(labels) else ""}
        for index in judged.nearest[row, :count].tolist()
    ]


async def add_heat(model: Model, given: Sequence[Given], entries: list[dict[str, Any]], predicted: Predicted, *, lanes: Lanes) -> None:
    """Add to each entry ``heat``: a PNG as a data URI, the square that the model sees with its heat map for the most probable class."""
    preprocessing = model.run.preprocessing
    sharp = dataclasses.replace(preprocessing, size=max(_SHARP, preprocessing.size))
    for row, place in enumerate(predicted.predictions.kept.tolist()):
        target = int(predicted.predictions.probabilities[row].argmax())
        data, name = given[place].data, given[place].name
        assert not isinstance(data, ImageError)
        small = await lanes.decode(data, partial(preprocessing, data, name=name))
        large = await lanes.decode(data, partial(sharp, data, name=name))
        entries[place]["heat"] = await lanes.explain(partial(_heat, model, small, large, target))


def _heat(model: Model, pixels: Pixels, sharp: Pixels, target: int) -> str:
    from headstart.explanation import overlay

    heat = model.heat_maps(pixels[None], [target])[0]
    file = io.BytesIO()
    overlay(sharp, heat).save(file, format="PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
