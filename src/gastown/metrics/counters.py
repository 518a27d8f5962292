"""Counters and histograms as plain objects, owned by the code that counts and read at a scrape.

They need no library: an event costs one addition, and the boot nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import trio

from gastown.metrics.table import METRICS, Metric, MetricType

__all__ = ["Attempt", "Attempts", "Counter", "Distribution", "Histogram", "Labels"]

_FEW = 4
Labels = tuple[str, ...]
"""The values of a metric's labels, in the order of the table."""


class Counter:
    """The counter of that name in the table; every combination of its labels is there from the beginning.

    A combination that appeared with its first event would be invisible to `increase()`, which needs two values.
    """

    def __init__(self, name: str) -> None:
        self.metric = _metric(name, MetricType.COUNTER)
        self.values: dict[Labels, float] = dict.fromkeys(product(*self.metric.labels.values()), 0)

    def add(self, *labels: str, by: float = 1) -> None:
        """Count. Raises `ValueError` for labels that the table does not have."""
        self.values[self.metric.key(labels)] += by


class Distribution:
    """The observations for one combination of labels: `counts` per bucket, the last one above all bounds."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class Histogram:
    """The histogram of that name in the table.

    Its combinations are there from the beginning where they are few, for the reason that a counter's are; each of
    many appears with its first value, for it takes as many lines of a scrape as it has buckets.
    """

    def __init__(self, name: str) -> None:
        self.metric = _metric(name, MetricType.HISTOGRAM)
        combinations = list(product(*self.metric.labels.values()))
        first = combinations if len(combinations) <= _FEW else []
        self.values: dict[Labels, Distribution] = {key: Distribution(len(self.metric.buckets)) for key in first}

    def observe(self, value: float, *labels: str) -> None:
        """Record a value. Raises `ValueError` for labels that the table does not have."""
        key = self.metric.key(labels)
        found = self.values.get(key)
        if found is None:
            found = self.values[key] = Distribution(len(self.metric.buckets))
        found.counts[bisect_left(self.metric.buckets, value)] += 1
        found.total += value


@dataclass
class Attempt:
    """`outcome` is counted at its end; an attempt that is cancelled counts as `cut`."""

    outcome: str = "cut"


class Attempts:
    """Operations that may fail: a counter whose last label is the outcome, and a histogram with the rest."""

    def __init__(self, counter: str, histogram: str) -> None:
        self.over = Counter(counter)
        self.seconds = Histogram(histogram)

    @contextmanager
    def attempt(self, *labels: str) -> Iterator[Attempt]:
        """One of them, for the length of the block."""
        attempt, began = Attempt(), trio.current_time()
        try:
            yield attempt
        finally:
            self.over.add(*labels, attempt.outcome)
            self.seconds.observe(trio.current_time() - began, *labels)


def _metric(name: str, kind: MetricType) -> Metric:
    metric = METRICS[name]
    if metric.type is not kind:
        raise ValueError(f"{name} is a {metric.type}, not a {kind}")
    return metric
