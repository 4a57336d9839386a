"""What /metrics reports, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from spikeformers.serving.service import Service

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "spikeformers_requests_total",
            "Requests by path and status.",
            ["path", "status"],
            registry=self.registry,
        )
        self.first_token = Histogram(
            "spikeformers_time_to_first_token_seconds",
            "From the request to its first token, waiting included.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "spikeformers_request_seconds",
            "From the request to its last token.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_EngineCollector(service))

    def render(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Reads the scheduler's and the engine's own counts when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        ready = self._service.ready
        yield GaugeMetricFamily("spikeformers_ready", "Whether the model is loaded.", value=ready)
        if not ready:
            return
        scheduler = self._service.scheduler
        totals, cache = scheduler.totals, scheduler.cache
        counted = self._service.model.engine.counters()
        for name, about, value in (
            ("slots", "Texts that can be written at once.", scheduler.slots),
            ("texts_active", "Texts in slots.", scheduler.active),
            ("texts_waiting", "Texts that wait for a slot.", scheduler.waiting),
            ("prefix_cache_bytes", "Size of the prefix cache.", cache.bytes),
            ("prefix_cache_bound_bytes", "Largest size of the prefix cache.", cache.bound),
        ):
            yield GaugeMetricFamily(f"spikeformers_{name}", about, value=value)
        for name, about, value in (
            ("steps", "Steps in which each text got a token.", totals.steps),
            ("prompt_tokens", "Tokens of prompts that were read.", totals.prompt_tokens),
            ("cached_tokens", "Tokens of prompts from the prefix cache.", totals.cached_tokens),
            ("generated_tokens", "Tokens that were drawn.", totals.new_tokens),
            ("texts_cancelled", "Texts whose client left.", totals.cancelled),
            ("texts_failed", "Texts that failed or took too long.", totals.failed),
            ("neurons", "Neurons that were computed.", counted["neurons"]),
            ("events", "Neurons that fired.", counted["events"]),
            ("weight_bytes_read", "Bytes of weights that were read.", counted["weight_bytes"]),
        ):
            yield CounterMetricFamily(f"spikeformers_{name}", about, value=value)
