"""The outbox's bounds against events that it would rather keep."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

import pytest

from gastown.contract.events import AgentEvent
from gastown.worker.outbox.backlog import Backlog, Lane

pytestmark = pytest.mark.virtual_time

NOW = datetime(2030, 5, 1, tzinfo=UTC)


class Full:
    """A backlog of one agent, to which the worker does not listen."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.backlog = Backlog(most=most, most_bytes=most_bytes)
        self.lane = Lane("", "")
        self._ids = count(1)

    def put(self, kind: str, text: str = "") -> None:
        record = AgentEvent(id=next(self._ids), event=kind, data={"text": text}, timestamp=NOW)
        self.lane = self.backlog.add("rig-1", "a", record)


@pytest.mark.parametrize(("most", "most_bytes"), [(300, 1 << 26), (50_000, 15_000)])
async def test_a_flood_of_lifecycle_events_stays_within_the_bounds_and_is_told(most: int, most_bytes: int) -> None:
    """B6: a server opens and closes turns for ever. The first and the last stay, and what we said of the agent."""
    full = Full(most, most_bytes)
    full.put("agent.status")
    for _ in range(3_000):
        full.put("session.turn.open")
        full.put("session.turn.close")
        assert full.backlog.depth <= most
        assert full.backlog.size <= most_bytes
    kept, gap = full.lane.queue, full.lane.gap
    assert [entry.id for entry in kept][:2] == [1, 2]
    assert kept[-1].id == 6_001
    assert gap is not None
    assert gap.dropped == gap.lifecycle == full.backlog.dropped == 6_001 - len(kept)


async def test_what_is_no_lifecycle_event_goes_first() -> None:
    full = Full(160, 1 << 26)
    full.put("session.turn.open")
    for _ in range(160):
        full.put("message.updated")
    full.put("session.turn.close")
    assert full.lane.gap is not None
    assert full.lane.gap.lifecycle == 0
    assert full.lane.queue[0].kind == "session.turn.open"


async def test_one_event_larger_than_the_bound_is_dropped_and_told() -> None:
    full = Full(100, 10_000)
    full.put("agent.status", "x" * 20_000)
    assert (full.backlog.size, full.lane.gap and full.lane.gap.lifecycle) == (0, 1)
