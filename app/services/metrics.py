"""What the service tells Prometheus; one registry per application, so that two applications in one process do not mix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# name, version, verdict, seconds since the epoch at which it was loaded
LoadedRow = tuple[str, int, str, float]


class ServiceMetrics:
    """Counters, gauges and histograms of one application.

    Attributes:
        registry: What `/metrics` prints.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._request_children: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}
        ProcessCollector(registry=registry)
        self.request_seconds = Histogram(
            "gradcast_request_seconds",
            "Time to answer a request.",
            ["route", "method"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.requests = Counter(
            "gradcast_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.errors = Counter("gradcast_errors", "Problem documents by code.", ["code"], registry=registry)
        self.series_errors = Counter("gradcast_series_errors", "Series refused by code.", ["code"], registry=registry)
        self.queue_windows = Gauge(
            "gradcast_queue_windows", "Windows admitted and not yet answered.", registry=registry
        )
        self.batch_windows = Histogram(
            "gradcast_batch_windows", "Windows in one forward pass.", buckets=SIZE_BUCKETS, registry=registry
        )
        self.batch_seconds = Histogram(
            "gradcast_batch_seconds", "Time of one forward pass.", buckets=LATENCY_BUCKETS, registry=registry
        )
        self.windows = Counter("gradcast_windows", "Windows forecast.", ["model"], registry=registry)
        self.expired_windows = Counter(
            "gradcast_expired_windows",
            "Windows dropped before they ran: deadline passed or client gone.",
            registry=registry,
        )
        self.reloads = Counter("gradcast_model_loads", "Versions loaded.", ["model", "outcome"], registry=registry)
        self.source_up = Gauge("gradcast_source_up", "1 if the last look at the registry succeeded.", registry=registry)
        self.model_failing = Gauge(
            "gradcast_model_failing",
            "1 while a newer version of the model cannot be loaded.",
            ["model"],
            registry=registry,
        )

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count and time one request."""
        key = (route, method, status)
        children = self._request_children.get(key)
        if children is None:  # looking a child up by its labels costs more than counting
            children = self.request_seconds.labels(route, method), self.requests.labels(route, method, str(status))
            self._request_children[key] = children
        children[0].observe(seconds)
        children[1].inc()

    def watch_models(self, read_loaded: Callable[[], Iterable[LoadedRow]]) -> None:
        """Print version, verdict and age of what `read_loaded` returns at every scrape."""
        self.registry.register(_ModelCollector(read_loaded))


class _ModelCollector(Collector):
    def __init__(self, read_loaded: Callable[[], Iterable[LoadedRow]]) -> None:
        self._read_loaded = read_loaded

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        info, version, age = self._families()
        for name, number, verdict, loaded_at in self._read_loaded():
            info.add_metric([name, str(number), verdict], 1.0)
            version.add_metric([name], float(number))
            age.add_metric([name], max(0.0, time.time() - loaded_at))
        return (info, version, age)

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("gradcast_model_info", "Loaded models.", labels=["model", "version", "verdict"]),
            GaugeMetricFamily("gradcast_model_version", "Version that the name alone stands for.", labels=["model"]),
            GaugeMetricFamily("gradcast_model_age_seconds", "Time since that version was loaded.", labels=["model"]),
        )
