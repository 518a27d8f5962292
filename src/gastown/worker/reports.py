"""What the worker is told once: an agent has ended or waits, a nudge was delivered, the container is ready.

A report outlives the task that made it, and is sent until the worker has taken it. Those of one agent arrive in
the order in which they were made, and those of different agents do not wait for each other.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.concurrency.signal import Signal
from gastown.contract.git import ReviewResult
from gastown.contract.wire import Wire
from gastown.contract.worker import AgentCompleted, AgentWaiting, ContainerReady, NudgeDelivered
from gastown.worker.client import WorkerClient, WorkerError

__all__ = ["Reports", "open_reports"]

log = structlog.get_logger()

_ATTEMPT_SECONDS = 10.0
_FIRST_PAUSE, _MOST_PAUSE = 0.2, 15.0
_MOST_WAITING = 2000
_NONCES_REMEMBERED = 100
_NONCES_WAITING = 20


@dataclass(frozen=True, eq=False)
class _Report:
    """`sender` is the agent (rig and id), or None for the container. `url` is a callback in place of the path."""

    sender: tuple[str, str] | None
    path: str
    body: Wire
    url: str | None = field(default=None, repr=False)
    lane: tuple[str, str] | None = None
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def queue(self) -> tuple[str, str] | None:
        """Reports of one queue are sent in their order, those of different ones do not wait for each other."""
        return self.lane or self.sender


class Reports:
    """Made by `open_reports`. Without a worker everything is forgotten at once.

    `lost` counts reports that the worker refused, or that were one too many while it was away.
    """

    def __init__(self, worker: WorkerClient, nursery: trio.Nursery) -> None:
        self._worker = worker
        self._nursery = nursery
        self._waiting: dict[tuple[str, str] | None, deque[_Report]] = {}
        self._nonces: OrderedDict[str, None] = OrderedDict()
        self._moved = Signal()
        self.lost = 0

    @property
    def pending(self) -> int:
        """How many have not arrived yet."""
        return sum(len(queue) for queue in self._waiting.values())

    def completed(
        self,
        rig_id: str,
        agent_id: str,
        status: Literal["completed", "failed"],
        reason: str | None,
        callback_url: str | None = None,
        attempt_id: str | None = None,
    ) -> None:
        """An attempt at an agent has ended. A callback that its start asked for replaces the worker's route."""
        body = AgentCompleted(agent_id=agent_id, status=status, reason=reason, attempt_id=attempt_id)
        self._make(_Report((rig_id, agent_id), "completed", body, callback_url))

    def waiting(self, rig_id: str, agent_id: str, fired_at: datetime, attempt_id: str | None = None) -> None:
        """The mayor's turn has ended: it waits for its people."""
        body = AgentWaiting(agent_id=agent_id, fired_at=fired_at, attempt_id=attempt_id)
        self._make(_Report((rig_id, agent_id), "waiting", body))

    def nudge_delivered(self, rig_id: str, agent_id: str, nudge_id: str) -> None:
        """An agent was given a nudge as a prompt."""
        self._make(_Report((rig_id, agent_id), "nudge-delivered", NudgeDelivered(nudge_id=nudge_id)))

    def review_completed(
        self, rig_id: str, entry_id: str, result: ReviewResult, callback_url: str | None = None
    ) -> trio.Event:
        """A merge has ended. A callback that the request named replaces the worker's route.

        The event is set when the worker has taken the report, or has refused it.
        """
        path = f"rigs/{rig_id}/review-queue/{entry_id}/complete"
        report = _Report(None, path, result, callback_url, lane=("review", entry_id))
        self._make(report)
        return report.over

    @property
    def has_worker(self) -> bool:
        return self._worker.is_configured

    def container_ready(self, nonce: str) -> None:
        """Answer a nonce with the container's readiness, once however often it is given.

        Anyone may give one, so only a few are kept while the worker is away.
        """
        if nonce in self._nonces or len(self._waiting.get(None, ())) >= _NONCES_WAITING:
            return
        self._nonces[nonce] = None
        if len(self._nonces) > _NONCES_REMEMBERED:
            self._nonces.popitem(last=False)
        self._make(_Report(None, "container-ready", ContainerReady(nonce=nonce)))

    async def room(self) -> None:
        """Return when one more report may wait: the next one is not lost. Unbounded: the worker may be away."""
        await self._moved.wait_until(lambda: self.pending < _MOST_WAITING)

    async def flushed(self) -> None:
        """Return once every report made so far has arrived or was refused. Put it under a deadline."""
        made = {report for queue in self._waiting.values() for report in queue}
        await self._moved.wait_until(
            lambda: made.isdisjoint(one for queue in self._waiting.values() for one in queue)
        )

    def _make(self, report: _Report) -> None:
        if not self.has_worker:
            return
        if self.pending >= _MOST_WAITING:
            self.lost += 1
            log.warning("report.lost", report=report.path, reason="too many wait already")
            return
        queue = self._waiting.get(report.queue)
        if queue is not None:
            queue.append(report)
            return
        queue = self._waiting[report.queue] = deque([report])
        self._nursery.start_soon(self._send_all, report.queue, queue, name=f"reports {report.queue}")

    async def _send_all(self, name: tuple[str, str] | None, queue: deque[_Report]) -> None:
        while queue:
            await self._send(queue[0])
            queue.popleft().over.set()
            self._moved.send()
        del self._waiting[name]

    async def _send(self, report: _Report) -> None:
        """Send until it has arrived, or was refused."""
        body = report.body.model_dump(mode="json", by_alias=True, exclude_none=True)
        pauses = delays(_FIRST_PAUSE, _MOST_PAUSE)
        while True:
            try:
                with trio.fail_after(_ATTEMPT_SECONDS):
                    if report.url is not None:
                        await self._worker.call_back(report.url, body)
                    else:
                        await self._worker.report(report.path, body, report.sender)
                return
            except (WorkerError, trio.TooSlowError) as error:
                reason = str(error) or "no answer in time"
                if isinstance(error, WorkerError) and error.is_refusal:
                    self.lost += 1
                    log.warning("report.refused", report=report.path, sender=report.sender, reason=reason)
                    return
                log.warning("report.held_up", report=report.path, sender=report.sender, reason=reason)
            await trio.sleep(next(pauses))


@asynccontextmanager
async def open_reports(worker: WorkerClient) -> AsyncIterator[Reports]:
    """Reports are sent for the length of the block. Await `flushed()` before leaving it."""
    async with trio.open_nursery() as nursery:
        reports = Reports(worker, nursery)
        yield reports
        if reports.pending:
            log.warning("reports.left_behind", reports=reports.pending)
        nursery.cancel_scope.cancel(reason="the reports close")
