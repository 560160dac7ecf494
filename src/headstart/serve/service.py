"""What all routes of a service share: its models, its threads, its counters, and how the inputs of a request are predicted."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import io
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, Request

from headstart.engine import Outputs
from headstart.errors import UnreadableError
from headstart.metrics.link import joined
from headstart.run import Collected
from headstart.serve.models import Model, Models
from headstart.serve.monitoring import Metrics
from headstart.serve.refusals import Refusal
from headstart.serve.requests import Input
from headstart.serve.threads import Pixels, WorkerThreads
from headstart.settings.serving import Limits
from headstart.tasks import Predictions

if TYPE_CHECKING:
    from headstart.explanation import HeatMaps

Box = tuple[float, float, float, float]

_log = logging.getLogger(__name__)
_OVERLAY_SIDE = 384  # pixels of a heat map's picture, whatever the network takes


class AdmissionControl:
    """Counts the images that are being predicted or queued, and refuses more than the limits; other inputs by their weight in images."""

    def __init__(self, limits: Limits, *, on_change: Callable[[int], None] = lambda images: None) -> None:
        self._limits, self._on_change = limits, on_change
        self._per_client: Counter[str] = Counter()
        self.images = 0

    @contextmanager
    def admit(self, client: str, count: int) -> Iterator[None]:
        """Admit images until the block ends; 429 where this client has too many queued, 503 where all clients together have."""
        if self._per_client[client] + count > self._limits.waiting_per_client:
            raise Refusal(429, "too_many_requests", "You have too much queued here. Wait for responses first.", retry_after=1)
        if self.images + count > self._limits.waiting:
            raise Refusal(503, "busy", "Too much is queued. Try again.", retry_after=1)
        self._change(client, count)
        try:
            yield
        finally:
            self._change(client, -count)

    def _change(self, client: str, count: int) -> None:
        self.images += count
        self._per_client[client] += count
        if not self._per_client[client]:
            del self._per_client[client]
        self._on_change(self.images)


class Service:
    """The models of a service and what is needed to use them; it looks every `watch_seconds` whether a run has changed, 0 for never."""

    def __init__(self, models: Models, *, limits: Limits, metrics: Metrics, watch_seconds: float) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics
        self.admission = AdmissionControl(limits, on_change=metrics.waiting.set)
        self.threads = WorkerThreads()
        self._watch_seconds = watch_seconds

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """From the start of the service to its end."""
        self._begin_counting(self.models.names)
        with self.threads:
            watching = asyncio.create_task(self._watch())
            try:
                yield
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
        self.models.close()

    def _begin_counting(self, names: Sequence[str]) -> None:
        for name in names:
            with self.models.use(name) as model:
                if model.watch is not None:
                    self.metrics.watch(model.intake.modality, name, model.watch)

    async def _warm_up(self) -> None:
        """Load what heat maps need, so that the first request for one does not wait for it."""
        for name in self.models.names:
            with self.models.use(name) as model:
                if not (model.has_heat_maps and model.run.class_outputs):
                    continue
                try:
                    await self.threads.run("explain", model.heat_maps)
                except Exception:
                    _log.warning("heat maps are not available", extra={"model": name}, exc_info=True)

    async def _watch(self) -> None:
        await self._warm_up()
        while self._watch_seconds > 0:
            await asyncio.sleep(self._watch_seconds)
            try:
                changed = await asyncio.to_thread(self.models.reload_changed)
            except Exception:
                _log.exception("checking runs for changes failed")
                continue
            self.metrics.reloads.inc(len(changed))
            self._begin_counting(changed)
            if changed:
                await self._warm_up()

    async def predict(self, request: Request, model: Model, inputs: Sequence[Input], *, neighbours: int = 1) -> Predictions:
        """Predict the inputs of a request; those that cannot be read are listed in the result. Beyond the limits: 413, 429 or 503."""
        if len(inputs) > model.intake.most(self.limits):
            raise model.intake.too_many(self.limits)
        async with self._admitted(request, model.intake.weight(inputs, self.limits)):
            await model.intake.check(inputs, self.limits, self.threads)
            results = await asyncio.gather(*(self._run_network(model, one) for one in inputs))
            predictions = await self.threads.run("compute", partial(_collect, model, results, max(1, neighbours)))
        counted = self.metrics.of(model.intake.modality)
        for outcome, count in (("predicted", len(predictions)), ("refused", len(predictions.refused))):
            counted.predicted.labels(model.name, outcome).inc(count)
        if model.watch is not None and predictions.judgement is not None and predictions.judgement.unlike is not None:
            self.metrics.judge(model.intake.modality, model.name, model.watch, predictions.judgement.unlike)
        request.state.inputs = {f"{model.intake.modality.noun}s": len(inputs)}
        return predictions

    async def _run_network(self, model: Model, one: Input) -> tuple[Outputs | UnreadableError, tuple[int, int]]:
        """The outputs of one input, or why it was refused; and its height and width, where the task needs them."""
        if isinstance(one.data, UnreadableError):
            return one.data, (0, 0)
        try:
            prepared, size = await model.intake.prepare(model.run, one, self.limits, self.threads)
        except UnreadableError as error:
            return error, (0, 0)
        return await asyncio.wrap_future(model.queue.submit(prepared)), size

    async def explain(
        self, request: Request, model: Model, inputs: Sequence[Input], predictions: Predictions, *, column: str | None = None,
        box: int | None = None,
    ) -> dict[int, str]:  # fmt: skip
        """The heat maps of a request by the positions of its images. Beyond the limits: 429 or 503.

        Each is a PNG as a data URI: the square that the model sees, with the heat map for the most probable class, of a `column` of labels
        where there are several, by default of the first; of masks for the region of the largest class, of boxes for the surest one, or for
        that with the number `box`; refused with 422 where there is no such.
        """
        preprocessing = model.run.preprocessing
        sharp = dataclasses.replace(preprocessing, size=max(_OVERLAY_SIDE, preprocessing.size))
        outputs = model.run.explained(column, "Heat maps are for")
        scores = joined([predictions.outputs[name] for name in outputs.ranked])
        found = {}
        async with self._admitted(request, len(inputs)):
            for row, place in enumerate(predictions.kept.tolist()):
                target, where = int(outputs.strongest(outputs.shares(scores[row : row + 1]))[0]), None
                if box is not None:
                    target, where = _located(model, predictions, row, box)
                data, name = inputs[place].data, inputs[place].name
                assert not isinstance(data, UnreadableError)
                small = await self.threads.decode(data, partial(preprocessing, data, name=name))
                large = await self.threads.decode(data, partial(sharp, data, name=name))
                found[place] = await self.threads.run(
                    "explain", partial(_heat_map, model.heat_maps, small, large, target, outputs.column, where)
                )
        return found

    @asynccontextmanager
    async def _admitted(self, request: Request, count: int) -> AsyncIterator[None]:
        with self.admission.admit(request.client.host if request.client else "", count):
            try:
                async with asyncio.timeout(self.limits.answer_seconds):
                    yield
            except TimeoutError:
                seconds = f"{self.limits.answer_seconds:g}"
                raise Refusal(503, "too_slow", f"The prediction took more than {seconds} seconds. Try again.", retry_after=2) from None


def _collect(model: Model, results: Sequence[tuple[Outputs | UnreadableError, tuple[int, int]]], neighbours: int) -> Predictions:
    collected = Collected(model.run, neighbours=neighbours)
    for place, (result, size) in enumerate(results):
        collected.add(place, result, size=size)
    return collected.predictions()


def _located(model: Model, predictions: Predictions, row: int, number: int) -> tuple[int, Box]:
    """The class of a box, and where it is."""
    found = model.run.task.located(predictions, row, number)
    if found is None:
        raise Refusal(422, "bad_parameter", f"box: The model finds no box with the number {number} in this image.")
    return found


def _heat_map(maps: Callable[[str], HeatMaps], pixels: Pixels, sharp: Pixels, target: int, column: str, place: Box | None) -> str:
    from headstart.explanation import overlay

    own = maps(column) if place is None else maps(column).at(place)
    heat = own(pixels[None], [target])[0]
    file = io.BytesIO()
    overlay(sharp, heat).save(file, format="PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _model_of(name: str, service: Served) -> AsyncIterator[Model]:
    with service.models.use(name) as model:
        yield model


Served = Annotated[Service, Depends(_service_of)]
"""What a route is passed as the service."""

NamedModel = Annotated[Model, Depends(_model_of)]
"""What a route with ``{name}`` in its path is passed as the model, which stays open until the response is sent."""
