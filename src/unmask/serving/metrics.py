"""Counts and times of the server, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.responses import Response

if TYPE_CHECKING:
    from unmask.serving.batcher import Batcher

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server."""

    def __init__(self, batcher: Batcher) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "unmask_requests", "Requests answered.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "unmask_request_seconds",
            "Time from a request to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        for name, text, value in (
            ("unmask_waiting_requests", "Requests that wait.", lambda: batcher.waiting),
            ("unmask_batches", "Batches computed.", lambda: batcher.batches),
            ("unmask_texts", "Texts computed.", lambda: batcher.texts),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def response(self) -> Response:
        """Return all metrics as Prometheus reads them."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
