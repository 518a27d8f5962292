"""The text of `/metrics`: the readings of the town under the names, types and help texts of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate, product

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from gastown.control.context import Town
from gastown.control.metrics.readings import Reading, readings
from gastown.metrics import table
from gastown.metrics.counters import Counter, Histogram, Labels
from gastown.metrics.table import METRICS, MetricType

__all__ = ["exposition"]


def exposition(town: Town) -> bytes:
    """All metrics of `town` at this moment, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(town))
    return generate_latest(registry)


class _Collector:
    """A town's metrics, in a registry of their own: many towns may live in one process."""

    def __init__(self, town: Town) -> None:
        self._town = town

    def collect(self) -> Iterable[Metric]:
        found = readings(self._town)
        for metric in METRICS.values():
            if metric.name in found:
                yield _family(metric, found[metric.name])
        yield from _process()

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry without it would collect once more to find the names."""
        return ()


def _family(metric: table.Metric, reading: Reading) -> Metric:
    labels = tuple(metric.labels)
    if isinstance(reading, Histogram):
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=labels)
        bounds = [*map(str, metric.buckets), "+Inf"]
        for key, seen in reading.values.items():
            histogram.add_metric(key, list(zip(bounds, accumulate(seen.counts), strict=True)), seen.total)
        return histogram
    kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=labels)
    for key, value in _values(metric, reading).items():
        family.add_metric(key, value)
    return family


def _values(metric: table.Metric, reading: Counter | Mapping[Labels, float]) -> Mapping[Labels, float]:
    """Every combination of labels; one of which nothing is said is 0."""
    if isinstance(reading, Counter):
        return reading.values
    values: dict[Labels, float] = dict.fromkeys(product(*metric.labels.values()), 0)
    for labels, value in reading.items():
        key = metric.key(labels)
        values[key] = values.get(key, 0) + value
    return values


def _process() -> Iterable[Metric]:
    """What prometheus-client knows of this process, with the help texts of the table."""
    for family in ProcessCollector(registry=None).collect():
        for sample in family.samples:
            family.documentation = METRICS[sample.name].help
        yield family
