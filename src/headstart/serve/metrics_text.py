"""What a service counts, in the text format of Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that tells several processes of a service where to count together."""

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BURST = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service, or of one of its processes."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "headstart_requests", "Requests answered, by route and status.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "headstart_request_seconds",
            "From the headers of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter("headstart_images", "Images predicted, by model and outcome.", ("model", "outcome"), registry=registry)
        self._bursts = Histogram(
            "headstart_burst_images", "Images that went through the engine in one go.", ("model",), buckets=_BURST, registry=registry
        )
        self.waiting = Gauge(
            "headstart_waiting_images", "Images that are being predicted or wait for it.", registry=registry, multiprocess_mode="livesum"
        )
        self.reloads = Counter("headstart_reloads", "Runs that were opened again because their files had changed.", registry=registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is the pattern of a route and not a path, so that clients cannot make up new ones."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def images(self, model: str, *, predicted: int, refused: int) -> None:
        """Count the images of a request."""
        self._images.labels(model, "predicted").inc(predicted)
        self._images.labels(model, "refused").inc(refused)

    def burst(self, model: str, count: int) -> None:
        """Count a burst of the engine."""
        self._bursts.labels(model).observe(count)

    def text(self) -> bytes:
        """Everything counted, of all processes of the service."""
        if SHARED_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry)
