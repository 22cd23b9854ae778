"""What the service tells Prometheus; one registry per application, so that two applications in one process do not mix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# Keys with lines of their own.
MAX_KEYS, OTHER_KEYS = 200, "others"



class LoadedRow(NamedTuple):
    """A loaded model.

    Attributes:
        name: Registered name.
        version: Number.
        verdict: Of its gradient.
        loaded_at: Seconds since the epoch.
        data_until: Seconds since the epoch of the last row trained on; None for integer time.
    """

    name: str
    version: int
    verdict: str
    loaded_at: float
    data_until: float | None


class ShadowRow(NamedTuple):
    """A champion beside its challenger.

    Attributes:
        name: Registered name.
        num_steps: Steps whose truth has arrived.
        champion_mae: Mean absolute error on them; None before the first.
        challenger_mae: The same.
    """

    name: str
    num_steps: int
    champion_mae: float | None
    challenger_mae: float | None


# Name, shift of the mean by channel in standard deviations of the training data, share of missing targets.
DriftRow = tuple[str, Mapping[str, float], float]


class ServiceMetrics:
    """Counters, gauges and histograms of one application.

    Attributes:
        registry: What `/metrics` prints.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._request_children: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}
        self._key_ids: set[str] = set()
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

        self.key_requests = Counter(
            "gradcast_key_requests",
            "Requests by id of the key, answered or refused; unknown keys are in gradcast_errors_total alone.",
            ["key", "outcome"],
            registry=registry,
        )
        self.shadow_windows = Counter(
            "gradcast_shadow_windows",
            "Windows offered to the challenger: forecast, dropped under load, or failed.",
            ["model", "outcome"],
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

    def observe_key(self, key_id: str, is_refused: bool) -> None:
        """Count one request of a key; beyond `MAX_KEYS` keys the others share one line."""
        if key_id not in self._key_ids:
            if len(self._key_ids) >= MAX_KEYS:
                key_id = OTHER_KEYS
            self._key_ids.add(key_id)
        self.key_requests.labels(key_id, "refused" if is_refused else "answered").inc()

    def watch_models(self, read_loaded: Callable[[], Iterable[LoadedRow]]) -> None:
        """Print version, verdict and age of what `read_loaded` returns at every scrape."""
        self.registry.register(_ModelCollector(read_loaded))

    def watch_shadow(self, read_rows: Callable[[], Iterable[ShadowRow]]) -> None:
        """Print at every scrape how the challenger compares."""
        self.registry.register(_ShadowCollector(read_rows))

    def watch_drift(self, read_rows: Callable[[], Iterable[DriftRow]]) -> None:
        """Print at every scrape how far inputs are from the training data."""
        self.registry.register(_DriftCollector(read_rows))


class _ShadowCollector(Collector):
    def __init__(self, read_rows: Callable[[], Iterable[ShadowRow]]) -> None:
        self._read_rows = read_rows

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        error, steps = self._families()
        for row in self._read_rows():
            steps.add_metric([row.name], float(row.num_steps))
            for role, mae in (("champion", row.champion_mae), ("challenger", row.challenger_mae)):
                if mae is not None:
                    error.add_metric([row.name, role], mae)
        return (error, steps)

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                "gradcast_shadow_error",
                "Mean absolute error of champion and challenger on the same steps, in the unit of y.",
                labels=["model", "role"],
            ),
            GaugeMetricFamily("gradcast_shadow_steps", "Steps whose truth has arrived.", labels=["model"]),
        )


class _ModelCollector(Collector):
    def __init__(self, read_loaded: Callable[[], Iterable[LoadedRow]]) -> None:
        self._read_loaded = read_loaded

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        info, version, age, data_age = self._families()
        for row in self._read_loaded():
            info.add_metric([row.name, str(row.version), row.verdict], 1.0)
            version.add_metric([row.name], float(row.version))
            age.add_metric([row.name], max(0.0, time.time() - row.loaded_at))
            if row.data_until is not None:
                data_age.add_metric([row.name], time.time() - row.data_until)
        return (info, version, age, data_age)

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("gradcast_model_info", "Loaded models.", labels=["model", "version", "verdict"]),
            GaugeMetricFamily("gradcast_model_version", "Version that the name alone stands for.", labels=["model"]),
            GaugeMetricFamily("gradcast_model_age_seconds", "Time since that version was loaded.", labels=["model"]),
            GaugeMetricFamily("gradcast_model_data_age_seconds", "Time since the last row it was trained on.", labels=["model"]),
        )


class _DriftCollector(Collector):
    def __init__(self, read_rows: Callable[[], Iterable[DriftRow]]) -> None:
        self._read_rows = read_rows

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        shift, missing = self._families()
        for name, shifts, missing_ratio in self._read_rows():
            missing.add_metric([name], missing_ratio)
            for channel, value in shifts.items():
                shift.add_metric([name, channel], value)
        return (shift, missing)

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                "gradcast_input_shift",
                "Recent windows' mean minus that of the training data, in its standard deviations.",
                labels=["model", "channel"],
            ),
            GaugeMetricFamily(
                "gradcast_input_missing_ratio", "Share of missing targets in recent windows.", labels=["model"]
            ),
        )
