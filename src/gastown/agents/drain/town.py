"""The drain: every agent leaves with its work and its conversation saved, all of it inside one budget.

The budget has three parts: most of it lets turns end, then what still works is ended and saved, and the last
bit is for what is on its way to the worker. Agents leave side by side, each as soon as it can.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
import trio

from gastown.agents.drain.agent import AgentDrain, AgentDrainParts
from gastown.concurrency.phases import PhaseLog
from gastown.concurrency.shutdown import PRESSED_SECONDS, Shutdown
from gastown.contract.drain import DrainPhase, DrainState
from gastown.contract.errors import Draining
from gastown.worker.client import WorkerClient, WorkerError

__all__ = ["Drain", "DrainParts", "run_drain"]

log = structlog.get_logger()

_NOTICE_SECONDS = 10.0
_SAVING_SECONDS, _SAVING_SHARE = 90.0, 0.4
_FLUSH_SECONDS, _FLUSH_SHARE = 10.0, 0.2
_FLUSH_MOST_SECONDS = 30.0
"""A worker that takes nothing for so long will not do so in the rest of the budget either."""


class Drain:
    """Whether the container drains, and how far it is. Once it does, it takes no new agents any more."""

    def __init__(self, shutdown: Shutdown) -> None:
        self.shutdown = shutdown
        self.phases = PhaseLog()
        self.notice: str | None = None
        self.agent_drains: list[AgentDrain] = []
        self.flushed: dict[str, bool] = {}

    @property
    def phase(self) -> DrainPhase:
        return DrainPhase(self.phases.current) if self.phases.spans else DrainPhase.NONE

    @property
    def is_set(self) -> bool:
        return self.shutdown.requested.is_set()

    def ask(self, why: str, seconds: float | None = None) -> None:
        """Let the container drain, as by a signal. See `Shutdown.ask`."""
        self.shutdown.ask(why, seconds)

    def check(self) -> None:
        """Raise `Draining` when a drain is on."""
        if self.is_set:
            raise Draining

    def to_wire(self) -> DrainState:
        left = self.shutdown.seconds_left
        return DrainState(
            draining=self.is_set,
            phase=self.phase,
            why=self.shutdown.why,
            budget_seconds=None if left is None else self.shutdown.seconds,
            seconds_left=None if left is None else round(left, 3),
            notice=self.notice,
            agents=tuple(agent_drain.to_wire() for agent_drain in self.agent_drains),
            flushed=dict(self.flushed),
        )


@dataclass(frozen=True)
class DrainParts:
    """`flushes` are what must have reached the worker in the end, by name; each waits until it has."""

    agent_drain: AgentDrainParts
    flushes: Mapping[str, Callable[[], Awaitable[None]]]


@dataclass
class _Clock:
    """Divides the budget, and again whenever it shrinks.

    `time_up` is set when turns have to end; `saves` is the scope in which agents leave.
    """

    shutdown: Shutdown
    time_up: trio.Event = field(default_factory=trio.Event)
    saves: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> None:
        while True:
            moved, seen, left = self.shutdown.moved, self.shutdown.moved.count, self.shutdown.seconds_left or 0.0
            end = self.shutdown.budget.deadline
            self.saves.deadline = end - min(_FLUSH_SECONDS, left * _FLUSH_SHARE)
            saving = left if left <= PRESSED_SECONDS else min(_SAVING_SECONDS, left * _SAVING_SHARE)
            with trio.move_on_at(end - saving) as working:
                await moved.wait(after=seen)
            if working.cancelled_caught:
                self.time_up.set()
                await moved.wait(after=seen)


async def run_drain(drain: Drain, parts: DrainParts) -> None:
    """Drain, once `drain.shutdown` is requested. Ends within the budget; the receipts are complete in any case."""
    drain.phases.enter(DrainPhase.WORKING)
    parts.agent_drain.services.pool.discard_parked()  # no start takes them any more: they end beside the others
    clock = _Clock(drain.shutdown)
    with drain.shutdown.budget as budget:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_notice, drain, parts.agent_drain.worker, name="eviction notice")
            async with trio.open_nursery() as clocks:
                clocks.start_soon(clock.run, name="drain clock")
                with clock.saves:
                    await _drain_agents(drain, parts, clock.time_up)
                clocks.cancel_scope.cancel(reason="all agents have left")
            drain.phases.enter(DrainPhase.FLUSHING)
            for name, flush in parts.flushes.items():
                nursery.start_soon(_flush, drain, name, flush, name=f"flush {name}")
    drain.phases.enter(DrainPhase.DONE)
    for agent_drain in drain.agent_drains:
        log.info("drain.receipt", **agent_drain.to_wire().model_dump(mode="json"))
    log.info("container.drained", in_time=not budget.cancelled_caught, notice=drain.notice, flushed=drain.flushed)


async def _drain_agents(drain: Drain, parts: DrainParts, time_up: trio.Event) -> None:
    async with trio.open_nursery() as nursery:
        for agent in parts.agent_drain.roster.active():
            agent_drain = AgentDrain(agent)
            drain.agent_drains.append(agent_drain)
            nursery.start_soon(agent_drain.run, parts.agent_drain, time_up, name=f"drain {agent.id}")
        for agent_drain in drain.agent_drains:
            await agent_drain.worked.wait()
        drain.phases.enter(DrainPhase.SAVING)


async def _give_notice(drain: Drain, worker: WorkerClient) -> None:
    """Tell the worker that the container goes; nothing waits for that but the end."""
    if not worker.is_configured:
        return
    drain.notice = "on its way"
    try:
        with trio.fail_after(_NOTICE_SECONDS):
            await worker.report("container-eviction", {}, None)
        drain.notice = "arrived"
    except (WorkerError, trio.TooSlowError) as error:
        drain.notice = f"not delivered: {str(error) or f'no answer in {_NOTICE_SECONDS:g} s'}"
        log.warning("drain.notice_failed", reason=drain.notice)


async def _flush(drain: Drain, name: str, flush: Callable[[], Awaitable[None]]) -> None:
    drain.flushed[name] = False
    with trio.move_on_after(_FLUSH_MOST_SECONDS) as patience:
        await flush()
        drain.flushed[name] = True
    if patience.cancelled_caught:
        log.warning("drain.not_flushed", what=name)
