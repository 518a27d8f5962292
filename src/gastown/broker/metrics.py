"""What passes the broker, counted by where it goes and what becomes of it."""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from gastown.contract.events import ModelCall
from gastown.metrics.counters import Counter, Histogram

__all__ = ["BrokerMetrics", "ModelMetrics", "Passage"]


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


class ModelMetrics:
    """The answers of models that have come through, and what they came to."""

    def __init__(self) -> None:
        self.calls = Counter("gastown_model_calls_total")
        self.tokens = Counter("gastown_model_tokens_total")
        self.cost = Counter("gastown_model_cost_usd_total")
        self.unpriced = Counter("gastown_model_calls_unpriced_total")

    def counting(self, used: Callable[[ModelCall], None]) -> Callable[[ModelCall], None]:
        """`used`, that is told of a call once it is counted here."""

        def tell(call: ModelCall) -> None:
            self.calls.add(call.outcome)
            for kind in ("input", "output", "cached", "reasoning"):
                self.tokens.add(kind, by=getattr(call, kind))
            self.cost.add(by=call.cost or 0)
            self.unpriced.add(by=call.cost is None)
            used(call)

        return tell


class BrokerMetrics:
    """All requests of agents. `in_progress` is by destination."""

    def __init__(self) -> None:
        self.over = Counter("gastown_broker_requests_total")
        self.first_bytes = Histogram("gastown_broker_first_byte_seconds")
        self.in_progress: Multiset[str] = Multiset()
        self.models = ModelMetrics()

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
