"""Agents' events on their way to the worker: in order per agent, kept while it is away, within bounds.

Few calls at a time, each on a connection that is kept; agents go side by side, and of one agent nothing is sent
before what came earlier has arrived. A call that was cut may have arrived: the worker sees an event twice rather
than never.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import Enum, auto

import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.concurrency.signal import Signal
from gastown.contract.events import AgentEvent
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.outbox.backlog import GAVE_UP, Backlog, Gap, Lane

__all__ = ["Outbox", "OutboxMetrics", "open_outbox"]

log = structlog.get_logger()

_CALLS = 4
_ATTEMPT_SECONDS = 15.0
_SLOWEST_BYTES_PER_SECOND = 200_000
_SAY_AGAIN_SECONDS = 30.0
_FIRST_PAUSE, _MOST_PAUSE = 0.2, 10.0
_BATCH_EVENTS, _BATCH_BYTES = 500, 1024 * 1024


@dataclass(frozen=True)
class OutboxMetrics:
    """For metrics. `depth` and `bytes` wait now, the oldest for `age_seconds`; the others only grow.

    `dropped` were given up because the outbox was full, `refused` because the worker does not take them;
    `merged` are contained in others that were sent.
    """

    depth: int
    bytes: int
    age_seconds: float
    sent: int
    retried: int
    merged: int
    dropped: int
    refused: int

    @property
    def lost(self) -> int:
        return self.dropped + self.refused


class Outbox:
    """Made by `open_outbox`. Without a worker it takes events and forgets them."""

    def __init__(self, worker: WorkerClient, nursery: trio.Nursery, backlog: Backlog) -> None:
        self._worker = worker
        self._nursery = nursery
        self._backlog = backlog
        self._calls = trio.Semaphore(_CALLS)
        self._batches = False
        self._newest = 0
        self._sending: set[Lane] = set()
        self._moved = Signal()
        self._quiet_until: dict[str, float] = {}
        self._sent = self._retried = self._refused = 0

    def put(self, rig_id: str, agent_id: str, record: AgentEvent) -> None:
        """Queue an event; never waits, never raises."""
        if not self._worker.is_configured:
            return
        lane = self._backlog.add(rig_id, agent_id, record)
        self._newest = record.id
        if lane not in self._sending:
            self._sending.add(lane)
            self._nursery.start_soon(self._empty, lane, name=f"outbox {agent_id}")

    async def flushed(self) -> None:
        """Return once everything put so far has left. Unbounded: put it under a deadline."""
        newest = self._newest
        lanes = self._backlog.lanes
        await self._moved.wait_until(lambda: not any(lane.holds(newest) for lane in lanes.values()))

    def figures(self) -> OutboxMetrics:
        backlog = self._backlog
        now = trio.current_time()
        return OutboxMetrics(
            depth=backlog.depth,
            bytes=backlog.size,
            age_seconds=max((now - entry.at for entry in backlog.oldest()), default=0.0),
            sent=self._sent,
            retried=self._retried,
            merged=backlog.merged,
            dropped=backlog.dropped,
            refused=self._refused,
        )

    async def _empty(self, lane: Lane) -> None:
        """Send what waits of one agent until nothing is left."""
        pauses = delays(_FIRST_PAUSE, _MOST_PAUSE)
        while not lane.is_empty:
            # A pause is made with the call in hand: a worker that is away is not asked by every agent.
            async with self._calls:
                if await self._send(lane):
                    pauses = delays(_FIRST_PAUSE, _MOST_PAUSE)
                else:
                    await trio.sleep(next(pauses))
        self._sending.discard(lane)
        self._backlog.close(lane)
        self._moved.send()

    async def _send(self, lane: Lane) -> bool:
        """Send the next of an agent's events; False when the worker is to be left alone for a while."""
        if lane.gap is not None:
            return await self._tell_of_gap(lane, lane.gap)
        entries = self._backlog.take(lane, _BATCH_EVENTS if self._batches else 1, _BATCH_BYTES)
        bodies = [_wire(lane.agent_id, entry.kind, entry.body, entry.attempt_id) for entry in entries]
        fate = await self._post(lane, bodies)
        if fate is _Fate.AWAY or (fate is _Fate.REFUSED and len(entries) > 1):
            self._backlog.put_back(lane)
            if fate is _Fate.REFUSED:
                lane.one_by_one = len(bodies)  # one of them is at fault, and only that one is to be lost
            return fate is _Fate.REFUSED
        self._backlog.done(lane)
        self._moved.send()
        return True

    async def _tell_of_gap(self, lane: Lane, gap: Gap) -> bool:
        lane.telling, lane.gap = gap, None
        data = {
            "dropped": gap.dropped, "firstId": gap.first, "lastId": gap.last, "lifecycle": gap.lifecycle,
            "reason": "the outbox was full",
        }  # fmt: skip
        fate = await self._post(lane, [_wire(lane.agent_id, GAVE_UP, json.dumps(data))])
        lane.telling = None
        if fate is _Fate.AWAY:
            lane.gap = gap.and_then(lane.gap)
        self._moved.send()
        return fate is not _Fate.AWAY

    async def _post(self, lane: Lane, bodies: list[str]) -> _Fate:
        """One call with one or several events, and what became of it."""
        batch = len(bodies) > 1
        content = (f"[{','.join(bodies)}]" if batch else bodies[0]).encode("ascii")
        try:
            with trio.fail_after(_ATTEMPT_SECONDS + len(content) / _SLOWEST_BYTES_PER_SECOND):
                self._batches = await self._worker.agent_events(lane.rig_id, lane.agent_id, content, batch=batch)
        except (WorkerError, trio.TooSlowError) as error:
            if isinstance(error, WorkerError) and error.is_refusal:
                self._refused += not batch
                self._complain("outbox.refused", lane, error)
                return _Fate.REFUSED
            self._retried += 1
            self._complain("outbox.held_up", lane, error)
            return _Fate.AWAY
        self._sent += len(bodies)
        return _Fate.SENT

    def _complain(self, what: str, lane: Lane, error: Exception) -> None:
        """Log a failure, but not each of thousands: the figures say how many there were."""
        now = trio.current_time()
        if now < self._quiet_until.get(what, now):
            return
        self._quiet_until[what] = now + _SAY_AGAIN_SECONDS
        reason = str(error) or "no answer in time"
        log.warning(what, agent_id=lane.agent_id, reason=reason, **asdict(self.figures()))


class _Fate(Enum):
    """`AWAY`: the same call may succeed later. `REFUSED`: it never will."""

    SENT = auto()
    AWAY = auto()
    REFUSED = auto()


def _wire(agent_id: str, kind: str, data: str, attempt_id: str | None = None) -> str:
    attempt = "" if attempt_id is None else f',"attemptId":{json.dumps(attempt_id)}'
    return f'{{"agent_id":{json.dumps(agent_id)},"event_type":{json.dumps(kind)}{attempt},"data":{data}}}'


@asynccontextmanager
async def open_outbox(worker: WorkerClient, *, most: int, most_bytes: int) -> AsyncIterator[Outbox]:
    """An outbox for the length of the block. Await `flushed()` before leaving it: what waits then is lost."""
    backlog = Backlog(most=most, most_bytes=most_bytes)
    async with trio.open_nursery() as nursery:
        outbox = Outbox(worker, nursery, backlog)
        yield outbox
        if left := outbox.figures().depth:
            log.warning("outbox.left_behind", events=left)
        nursery.cancel_scope.cancel(reason="the outbox closes")
