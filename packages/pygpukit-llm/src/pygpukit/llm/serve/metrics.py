"""What Prometheus reads: requests, latencies, and the state of the scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pygpukit.llm.engine import Engine

__all__ = ["Metrics", "Timer"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The metrics of one server.

    Args:
        engine: Whose scheduler's state is shown.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_SchedulerCollector(engine))
        self.responses = Counter(
            "pygpukit_responses", "Responses.", ["path", "status"], registry=self._registry
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.output_tokens = self._counter("output_tokens", "Tokens generated.")
        self.cancelled = self._counter("cancelled", "Requests whose client went away.")
        self.first_token = self._histogram("time_to_first_token", "From request to first token.")
        self.between_tokens = self._histogram("time_between_tokens", "From token to token.")
        self.whole = self._histogram("request_duration", "From request to last token.")

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"pygpukit_{name}", what, registry=self._registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        name = f"pygpukit_{name}_seconds"
        return Histogram(name, what, buckets=_SECONDS, registry=self._registry)


class Timer:
    """Times one request."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._start = time.perf_counter()
        self._newest: float | None = None

    def tokens(self, count: int) -> None:
        """`count` tokens have come."""
        now = time.perf_counter()
        if self._newest is None:
            self._metrics.first_token.observe(now - self._start)
        else:
            self._metrics.between_tokens.observe((now - self._newest) / count)
        self._newest = now
        self._metrics.output_tokens.inc(count)

    def end(self) -> None:
        """All tokens have come."""
        self._metrics.whole.observe(time.perf_counter() - self._start)


class _SchedulerCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        # Another one whenever a step has failed.
        scheduler = self._engine.scheduler
        stats = scheduler.stats()
        gauges = {
            "waiting": (stats.waiting, "Requests that wait."),
            "running": (stats.running, "Requests that run."),
            "pages": (scheduler.config.pages, "Pages of the cache."),
            "pages_in_use": (stats.pages_in_use, "Pages that requests use."),
            "pages_cached": (stats.pages_cached, "Pages kept for requests that begin alike."),
        }
        for name, (value, what) in gauges.items():
            yield GaugeMetricFamily(f"pygpukit_{name}", what, value=value)
        counters = {
            "preemptions": (stats.preemptions, "Times that a request gave up its pages."),
            "computed_tokens": (stats.computed_tokens, "Tokens computed."),
            "cached_tokens": (stats.cached_tokens, "Tokens found in the cache."),
        }
        for name, (count, what) in counters.items():
            yield CounterMetricFamily(f"pygpukit_{name}", what, value=count)
