"""What passes the broker, counted by where it goes and what becomes of it."""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gastown.metrics.counters import Counter, Histogram

__all__ = ["BrokerMetrics", "Passage"]


class Passage:
    """One request. `outcome` is what is counted at its end; as long as nothing else is known, it was cut."""

    def __init__(self, destination: str, first_bytes: Histogram) -> None:
        self.outcome = "cut"
        self._destination = destination
        self._first_bytes = first_bytes
        self._began = trio.current_time()
        self._begun = False

    def answering(self) -> None:
        """A piece of the upstream's answer is there; only the first one counts."""
        if not self._begun:
            self._begun = True
            self._first_bytes.observe(trio.current_time() - self._began, self._destination)

    def ends_with(self, status: int) -> None:
        """The upstream's answer, or the broker's own, has gone through to its end."""
        self.outcome = f"{min(max(status // 100, 1), 5)}xx"  # there are upstreams with a 999


class BrokerMetrics:
    """All requests of agents. `in_progress` is by destination."""

    def __init__(self) -> None:
        self.over = Counter("gastown_broker_requests_total")
        self.first_bytes = Histogram("gastown_broker_first_byte_seconds")
        self.in_progress: Multiset[str] = Multiset()

    @contextmanager
    def passage(self, destination: str) -> Iterator[Passage]:
        """A request on its way to a destination, for the length of the block."""
        passage = Passage(destination, self.first_bytes)
        self.in_progress[destination] += 1
        try:
            yield passage
        finally:
            self.in_progress[destination] -= 1
            self.over.add(destination, passage.outcome)
