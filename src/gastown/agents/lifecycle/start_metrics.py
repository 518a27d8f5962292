"""How starts end and how long they take, for `/metrics`."""

from __future__ import annotations

from typing import Literal

import trio

from gastown.concurrency.phases import PhaseLog
from gastown.metrics.counters import Counter, Histogram

__all__ = ["CountedStart", "Outcome", "Starts"]

Origin = Literal["request", "registry", "comeback"]
Outcome = Literal["running", "failed", "deadline", "ended", "refused"]


class Starts:
    """The starts of all agents."""

    def __init__(self) -> None:
        self.over = Counter("gastown_agent_starts_total")
        self.failures = Counter("gastown_agent_start_failures_total")
        self.seconds = Histogram("gastown_agent_start_duration_seconds")
        self.phase_seconds = Histogram("gastown_agent_start_phase_duration_seconds")

    def at_the_gate(self, role: str, outcome: Outcome) -> None:
        """A request for a start that has ended before there was an agent."""
        self.over.add(role, "request", outcome)
        self.failures.add("gate", outcome)


class CountedStart:
    """One start of an agent, from `began` on Trio's clock until `end`. Counts once."""

    def __init__(self, starts: Starts, role: str, origin: Origin, phases: PhaseLog, began: float) -> None:
        self._starts = starts
        self._role = role
        self._origin: Origin = origin
        self._phases = phases
        self._first = len(phases.spans)
        self._began = began
        self._over = False

    def end(self, outcome: Outcome) -> None:
        """The start is over; what it waited as a claimed agent of the registry is not counted as its time."""
        if self._over:
            return
        self._over = True
        self._starts.over.add(self._role, self._origin, outcome)
        claimed = 0.0
        for span in self._phases.spans[self._first :]:
            self._starts.phase_seconds.observe(span.seconds, span.name)
            claimed += span.seconds if span.name == "claimed" else 0.0
        if outcome == "running":
            self._starts.seconds.observe(trio.current_time() - self._began - claimed, self._origin)
        else:
            self._starts.failures.add(self._phases.current, outcome)

    def again(self) -> CountedStart:
        """The next start of the same agent, which begins now because its server has died."""
        return CountedStart(self._starts, self._role, "comeback", self._phases, trio.current_time())
