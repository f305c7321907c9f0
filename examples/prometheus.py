"""The counters of an Embedder as metrics of Prometheus.

pip install ggembed prometheus_client
MODEL=path/to/model.gguf python examples/prometheus.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields

from ggembed import Embedder, EngineStats
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

NOW = {"n_calls_queued", "n_calls_running", "n_texts_queued", "n_tokens_queued"}


class EmbedderCollector(Collector):
    """Reads the counters whenever Prometheus asks, and at no other time."""

    def __init__(self, embedder: Embedder, name: str) -> None:
        self._embedder = embedder
        self._name = name

    def collect(self) -> Iterator[Metric]:
        stats = self._embedder.stats()
        for field in fields(EngineStats):
            kind = GaugeMetricFamily if field.name in NOW else CounterMetricFamily
            name = f"ggembed_{field.name.removeprefix('n_')}"
            metric = kind(name, f"EngineStats.{field.name}", labels=["model"])
            metric.add_metric([self._name], getattr(stats, field.name))
            yield metric


if __name__ == "__main__":
    with Embedder(os.environ.get("MODEL")) as embedder:
        REGISTRY.register(EmbedderCollector(embedder, embedder.info().name))
        _, thread = start_http_server(9464)
        thread.join()
