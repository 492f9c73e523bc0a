"""What Prometheus reads: requests, latencies, and the state of the scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pygpukit.llm.engine import Engine

__all__ = ["Metrics", "ModelMetrics", "Timer"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The metrics of one server.

    Args:
        engines: The models by their names; the states of their schedulers are shown.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        registry = self._registry = CollectorRegistry()
        registry.register(_SchedulerCollector(engines))
        self.responses = Counter(
            "pygpukit_responses", "Responses.", ["path", "status"], registry=registry
        )
        counts = {
            "prompt_tokens": "Tokens of prompts.",
            "output_tokens": "Tokens generated.",
            "cancelled": "Requests whose client went away.",
        }
        times = {
            "time_to_first_token": "From request to first token.",
            "time_between_tokens": "From token to token.",
            "request_duration": "From request to last token.",
        }
        prompts, outputs, cancelled = (
            Counter(f"pygpukit_{name}", what, ["model"], registry=registry)
            for name, what in counts.items()
        )
        first, between, whole = (
            Histogram(
                f"pygpukit_{name}_seconds", what, ["model"], buckets=_SECONDS, registry=registry
            )
            for name, what in times.items()
        )
        self._models = {
            model: ModelMetrics(
                prompt_tokens=prompts.labels(model),
                output_tokens=outputs.labels(model),
                cancelled=cancelled.labels(model),
                time_to_first_token=first.labels(model),
                time_between_tokens=between.labels(model),
                request_duration=whole.labels(model),
            )
            for model in engines
        }

    def of(self, model: str) -> ModelMetrics:
        """Those of one model."""
        return self._models[model]

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)


class ModelMetrics(NamedTuple):
    """What is counted for a model: see `Metrics`."""

    prompt_tokens: Counter
    output_tokens: Counter
    cancelled: Counter
    time_to_first_token: Histogram
    time_between_tokens: Histogram
    request_duration: Histogram


class Timer:
    """Times one request."""

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self._start = time.perf_counter()
        self._newest: float | None = None

    def tokens(self, count: int) -> None:
        """`count` tokens have come."""
        now = time.perf_counter()
        if self._newest is None:
            self._metrics.time_to_first_token.observe(now - self._start)
        else:
            self._metrics.time_between_tokens.observe((now - self._newest) / count)
        self._newest = now
        self._metrics.output_tokens.inc(count)

    def end(self) -> None:
        """All tokens have come."""
        self._metrics.request_duration.observe(time.perf_counter() - self._start)


_GAUGES = {
    "waiting": "Requests that wait.",
    "running": "Requests that run.",
    "pages": "Pages of the cache.",
    "pages_in_use": "Pages that requests use.",
    "pages_cached": "Pages kept for requests that begin alike.",
}
_COUNTERS = {
    "preemptions": "Times that a request gave up its pages.",
    "computed_tokens": "Tokens computed.",
    "cached_tokens": "Tokens found in the cache.",
}


class _SchedulerCollector(Collector):
    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"pygpukit_{name}", what, labels=["model"])
            for name, what in _GAUGES.items()
        }
        counters = {
            name: CounterMetricFamily(f"pygpukit_{name}", what, labels=["model"])
            for name, what in _COUNTERS.items()
        }
        for model, engine in self._engines.items():
            stats = engine.scheduler.stats()
            for name, family in (gauges | counters).items():
                pages = engine.scheduler.config.pages
                family.add_metric([model], pages if name == "pages" else getattr(stats, name))
        yield from gauges.values()
        yield from counters.values()
