"""What /metrics shows, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

# A tiny bundle's pictures take hundredths of a second, the public model's minutes on a CPU.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800)
_PICTURES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """Counters of one server; each has its own registry, so that two of them do not add up."""

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "wuerstchen_requests", "Requests that were answered", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "wuerstchen_request_seconds", "From a request to the end of its answer", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._pictures = Counter(
            "wuerstchen_pictures", "Pictures that were made", ["model"], registry=registry
        )
        self._batches = Histogram(
            "wuerstchen_batch_pictures", "Pictures of a batch", ["model"],
            buckets=_PICTURES, registry=registry,
        )  # fmt: skip
        self._batch_seconds = Histogram(
            "wuerstchen_batch_seconds", "Time that a batch took", ["model"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._failures = Counter(
            "wuerstchen_failures", "Requests that failed while they were made", registry=registry
        )
        waiting = Gauge("wuerstchen_waiting_pictures", "Pictures that wait", registry=registry)
        running = Gauge(
            "wuerstchen_running_pictures", "Pictures that are being made", registry=registry
        )
        waiting.set_function(lambda: load()[0])
        running.set_function(lambda: load()[1])
        ProcessCollector(registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is one of ours or 'other', not what a client wrote."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str, pictures: int, seconds: float) -> None:
        """A batch was made."""
        self._pictures.labels(model).inc(pictures)
        self._batches.labels(model).observe(pictures)
        self._batch_seconds.labels(model).observe(seconds)

    def failure(self) -> None:
        """A batch failed."""
        self._failures.inc()

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
