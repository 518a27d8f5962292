"""What boot hydration did, for `/health`: its state, its counts, its timeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import trio

from gastown.agents.agent import Agent
from gastown.concurrency.gate import HydrationGate
from gastown.contract.agents import AgentState
from gastown.contract.town import Hydration, HydrationState, Phase

__all__ = ["BootReport"]

_SHOWN = 100
"""Of how many agents the timeline tells; the mayor is the first. Every `/health` makes it again."""


@dataclass
class _Bar:
    name: str
    start: float
    agent_id: str | None = None
    end: float | None = None
    outcome: str | None = None


class BootReport:
    """Written by hydration, read by `/health`. `process_start` is the process's start on Trio's clock."""

    def __init__(self, process_start: float) -> None:
        self.process_start = process_start
        self.state: HydrationState = "idle"
        self.error: str | None = None
        self.prewarm: str | None = None
        self.gate_opened_by: str | None = None
        self.mayor_ready_at: datetime | None = None
        self.skipped = 0
        self._resumes: list[Agent] = []
        self._bars: list[_Bar] = []

    @contextmanager
    def bar(self, name: str, agent_id: str | None = None) -> Iterator[_Bar]:
        """A bar of the waterfall for the length of the block; an exception is its outcome."""
        bar = _Bar(name, trio.current_time(), agent_id)
        self._bars.append(bar)
        try:
            yield bar
        except BaseException as error:
            bar.outcome = type(error).__name__
            raise
        finally:
            bar.end = trio.current_time()

    def resuming(self, agent: Agent) -> None:
        self._resumes.append(agent)

    def to_wire(self, gate: HydrationGate) -> Hydration:
        return Hydration(
            state=self.state,
            gate="open" if gate.is_open else "closed",
            gate_opened_by=self.gate_opened_by,
            claimed=len(self._resumes),
            resumed=sum(agent.state is AgentState.RUNNING for agent in self._resumes),
            failed=sum(agent.failure is not None for agent in self._resumes),
            skipped=self.skipped,
            prewarm=self.prewarm,
            error=self.error,
            timeline=self._timeline(),
        )

    def _timeline(self) -> tuple[Phase, ...]:
        bars = list(self._bars)
        for agent in self._resumes[:_SHOWN]:
            bars.extend(_Bar(span.name, span.start, agent.id, span.end) for span in agent.phases.spans)
        return tuple(
            Phase(
                name=bar.name,
                agent_id=bar.agent_id,
                start_ms=self._ms(bar.start),
                duration_ms=None if bar.end is None else self._ms(bar.end) - self._ms(bar.start),
                outcome=bar.outcome,
            )
            for bar in sorted(bars, key=lambda bar: bar.start)
        )

    def _ms(self, moment: float) -> int:
        return round((moment - self.process_start) * 1000)
