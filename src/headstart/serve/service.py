"""What all routes of a service share: its models, its threads, its counters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from headstart.serve.limits import Limits
from headstart.serve.metrics_text import Metrics
from headstart.serve.models import Model, Models
from headstart.serve.pictures import Lanes, large_pixels
from headstart.serve.predicting import Given, Predicted, Waiting, add_heat, predict
from headstart.serve.refusals import Refusal

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

_log = logging.getLogger(__name__)


class Service:
    """The models of a service and what is needed to ask them.

    Args:
        models: opened.
        limits: of the service.
        metrics: where to count.
        watch_seconds: how often to look whether a run has changed; 0 for never.
    """

    def __init__(self, models: Models, *, limits: Limits, metrics: Metrics, watch_seconds: float) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics
        self.waiting = Waiting(limits, on_change=metrics.waiting.set)
        self._watch_seconds = watch_seconds
        self._lanes: Lanes | None = None

    @property
    def lanes(self) -> Lanes:
        """The threads, from the start of the service to its end."""
        assert self._lanes is not None, "the service has not been started"
        return self._lanes

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """From the start of the service to its end."""
        with Lanes() as self._lanes:
            tasks = [asyncio.create_task(self._warm_up())]
            if self._watch_seconds > 0:
                tasks.append(asyncio.create_task(self._watch()))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
        self.models.close()
        self._lanes = None

    async def _warm_up(self) -> None:
        """Open what heat maps need, so that the first person who asks does not wait for it."""
        for name in self.models.names:
            with self.models.use(name) as model:
                try:
                    await self.lanes.explain(lambda model=model: model.heat_maps)  # type: ignore[misc]
                except Exception:
                    _log.warning("heat maps are not available", extra={"model": name}, exc_info=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_seconds)
            try:
                changed = await asyncio.to_thread(self.models.reload_changed)
            except Exception:
                _log.exception("looking for changed runs failed")
                continue
            self.metrics.reloads.inc(len(changed))
            if changed:
                await self._warm_up()

    async def predict(self, request: Request, model: Model, given: Sequence[Given], *, neighbours: int = 1) -> Predicted:
        """Predict the images of a request within the limits.

        Raises:
            Refusal: 413, 429 or 503.
        """
        if len(given) > self.limits.images:
            raise Refusal(413, "too_many_images", f"More than {self.limits.images} images in one request. Send them in several.")
        async with self._place(request, len(given)):
            await self._check_pixels(given)
            predicted = await predict(model, given, lanes=self.lanes, neighbours=neighbours)
        self.metrics.images(model.name, predicted=len(predicted.predictions), refused=len(predicted.predictions.refused))
        request.state.images = len(given)
        return predicted

    async def _check_pixels(self, given: Sequence[Given]) -> None:
        """Refuse, before any is decoded, several images that together would keep the thread for large ones busy for long."""
        files = [one.data for one in given if isinstance(one.data, bytes)]
        if len(files) < 2:  # one is within the limits of `headstart.modalities.image`, or refused
            return
        pixels = await self.lanes.read(lambda: sum(map(large_pixels, files)))
        if pixels > self.limits.large_pixels:
            raise Refusal(
                413, "too_many_pixels",
                f"The large images of this request have {pixels / 1e6:.0f} megapixels together, more than the "
                f"{self.limits.large_pixels / 1e6:.0f} that are taken at once. Send them in several requests.",
            )  # fmt: skip

    async def explain(
        self, request: Request, model: Model, given: Sequence[Given], entries: list[dict[str, Any]], predicted: Predicted
    ) -> None:
        """Add heat maps to the entries of a request, within the limits.

        Raises:
            Refusal: 429 or 503.
        """
        async with self._place(request, len(given)):
            await add_heat(model, given, entries, predicted, lanes=self.lanes)

    @asynccontextmanager
    async def _place(self, request: Request, count: int) -> AsyncIterator[None]:
        with self.waiting.places(request.client.host if request.client else "", count):
            try:
                async with asyncio.timeout(self.limits.answer_seconds):
                    yield
            except TimeoutError:
                seconds = f"{self.limits.answer_seconds:g}"
                raise Refusal(503, "too_slow", f"There was no answer within {seconds} seconds. Try again.", retry_after=2) from None
