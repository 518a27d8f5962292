"""How one agent leaves a container that drains, and the receipt for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.services import AgentServices
from gastown.agents.session.snapshots import save_at_the_end
from gastown.agents.work import EVICTION_MESSAGE, name_files, save_work, to_wire
from gastown.contract.agents import AgentState, Role, WorkReceipt
from gastown.contract.drain import DrainReceipt, EvictionContext, FarewellStep, TurnEnd
from gastown.git.rig import RigGit
from gastown.git.salvage.receipt import Receipt
from gastown.kilo.errors import KiloError
from gastown.worker.client import WorkerClient, WorkerError

__all__ = ["EVICTION_MESSAGE", "AgentDrain", "AgentDrainParts"]

log = structlog.get_logger()

_ABORT_SECONDS = 2.0
_END_SECONDS = 8.0
_CONTEXT_SECONDS = 5.0
_SAVE_SECONDS = 30.0


class DrainingRoster(Protocol):
    """What an agent's drain needs of the roster."""

    def active(self) -> list[Agent]: ...
    def evict(self, agent: Agent) -> None: ...


@dataclass(frozen=True)
class AgentDrainParts:
    """`git_of` gives the git of an agent's worktree."""

    roster: DrainingRoster
    services: AgentServices
    worker: WorkerClient
    git_of: Callable[[Agent], RigGit]


@dataclass(eq=False)
class AgentDrain:
    """One agent's. `run` runs it; what it could not do is in `lost` and in `work`, and never raised.

    `worked` is set when its turn is over, one way or the other.
    """

    agent: Agent
    step: FarewellStep = FarewellStep.WORKING
    turn: TurnEnd | None = None
    saved: bool | None = None
    work: Receipt | None = None
    reported: bool | None = None
    lost: list[str] = field(default_factory=list)
    worked: trio.Event = field(default_factory=trio.Event)

    def to_wire(self) -> DrainReceipt:
        request = self.agent.request
        work = WorkReceipt() if self.work is None else to_wire(self.work)
        return DrainReceipt(
            agent_id=request.agent_id,
            role=request.role,
            step=self.step,
            turn=self.turn,
            branch=request.branch if request.works_in_repository else None,
            commit=work.commit,
            saved=self.saved,
            pushed=work.pushed,
            reported=self.reported,
            rescued=work.rescued,
            unsaved=work.unsaved,
            lost=(*self.lost, *work.lost),
        )

    async def run(self, parts: AgentDrainParts, time_up: trio.Event) -> None:
        """Let the agent's turn end until `time_up`, end the agent, then save what it leaves. Cancelling gives up
        what is not done yet, and the receipt says so.
        """
        agent = self.agent
        try:
            await self._contained("all that was not saved before", partial(self._leave, parts, time_up))
            if self.turn is not TurnEnd.GONE:
                self.step = FarewellStep.SAVING
                async with trio.open_nursery() as nursery:
                    if agent.session_id is not None:
                        save = partial(self._save_conversation, parts)
                        nursery.start_soon(self._contained, "the conversation", save)
                    if not agent.request.works_in_repository:
                        nursery.start_soon(self._contained, "the workspace", partial(self._name_files, parts))
                    else:
                        nursery.start_soon(self._contained, "the work", partial(self._save_work, parts))
            else:
                self.work = agent.work  # it has saved it itself
            self.step = FarewellStep.DONE
        finally:
            parts.roster.evict(agent)  # or the worker would hear that it has completed

    async def _leave(self, parts: AgentDrainParts, time_up: trio.Event) -> None:
        try:
            self.turn = await self._turn_ends(time_up)
        finally:
            self.worked.set()
        if self.turn is not TurnEnd.GONE:
            self.step = FarewellStep.ENDING
            await self._end(parts)

    async def _turn_ends(self, time_up: trio.Event) -> TurnEnd:
        agent = self.agent
        if agent.state is AgentState.STARTING:
            return TurnEnd.STARTING
        if agent.is_active and not self._works():
            return TurnEnd.IDLE
        async with trio.open_nursery() as nursery:

            async def until(wait: Callable[[], Awaitable[None]]) -> None:
                await wait()
                nursery.cancel_scope.cancel(reason="no more waiting")

            for wait in (self._work_done, agent.ended.wait, time_up.wait):
                nursery.start_soon(until, wait)
        if not agent.is_active:
            await agent.ended.wait()
            return TurnEnd.GONE
        return TurnEnd.INTERRUPTED if self._works() else TurnEnd.FINISHED

    def _works(self) -> bool:
        return not self.agent.turns.is_done

    async def _work_done(self) -> None:
        turns = self.agent.turns
        while self._works():
            opens_by = float("inf") if turns.is_open else turns.awaited_until
            with trio.move_on_at(opens_by):
                await turns.moved.wait()

    async def _end(self, parts: AgentDrainParts) -> None:
        """End the turn, the event stream, and every process of the agent."""
        agent = self.agent
        if self.turn is TurnEnd.INTERRUPTED and (runtime := agent.runtime) is not None:
            with trio.move_on_after(_ABORT_SECONDS):
                try:
                    await runtime.server.rest.abort(runtime.session_id)
                except KiloError as error:
                    log.info("drain.not_aborted", agent_id=agent.id, reason=str(error))
        parts.roster.evict(agent)
        with trio.move_on_after(_END_SECONDS):
            await agent.ended.wait()
        if not agent.ended.is_set():
            self.lost.append(f"its server did not end within {_END_SECONDS:g} s")

    async def _save_conversation(self, parts: AgentDrainParts) -> None:
        self.saved = False
        with trio.move_on_after(_SAVE_SECONDS):
            self.saved = await save_at_the_end(self.agent, parts.services)
        status = self.agent.saving.status
        if self.saved is False:
            reason = status.reason if status is not None else None
            self.lost.append(f"the conversation: {reason or f'not saved within {_SAVE_SECONDS:g} s'}")

    async def _name_files(self, parts: AgentDrainParts) -> None:
        self.work = Receipt(self.agent.request.branch)
        await name_files(self.agent, parts.services, self.work)

    async def _save_work(self, parts: AgentDrainParts) -> None:
        agent, services = self.agent, parts.services
        self.work = work = Receipt(agent.request.branch)
        async with services.repositories.worktrees.of(agent.workdir):
            alone = all(other.workdir != agent.workdir for other in parts.roster.active())
            on_branch = alone and agent.ended.is_set()
            await save_work(agent, services, parts.git_of(agent), work, on_branch=on_branch)
        if agent.request.role == Role.POLECAT and parts.worker.is_configured and (work.sent or not work.lost()):
            await self._write_context(parts, work.branch)

    async def _write_context(self, parts: AgentDrainParts, branch: str) -> None:
        """Tell the worker on which branch a polecat's work is, for the agent that goes on with it."""
        request = self.agent.request
        context = EvictionContext(
            branch=branch, agent_name=request.name, saved_at=parts.services.now()
        ).model_dump(mode="json")
        self.reported = False
        try:
            with trio.fail_after(_CONTEXT_SECONDS):
                await parts.worker.report("eviction-context", context, (request.rig_id, request.agent_id))
            self.reported = True
        except (WorkerError, trio.TooSlowError) as error:
            self.lost.append(f"the eviction context: {str(error) or f'no answer in {_CONTEXT_SECONDS:g} s'}")

    async def _contained(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do one thing; that it failed, or that the time was up before it was done, is noted in the receipt."""
        try:
            await work()
        except Exception as error:  # a boundary: what is left of the drain has its turn
            self.lost.append(f"{what}: {type(error).__name__}")
            log.exception("drain.crashed", agent_id=self.agent.id, what=what)
        except BaseException:
            self.lost.append(f"{what}: the time was up")
            raise
