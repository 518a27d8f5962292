"""All agents of the container: starts, stops, claims, messages. At most one life per id at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.attempts import Attempts, joins, same_start
from gastown.agents.launch.desired import Desired, effective
from gastown.agents.launch.repositories import register_rig
from gastown.agents.lifecycle.run import LifeOptions, live
from gastown.agents.lifecycle.start_metrics import CountedStart, Starts
from gastown.agents.lifecycle.states import Leaving
from gastown.agents.services import AgentServices
from gastown.agents.session.prompts import send_prompt
from gastown.agents.work import to_wire
from gastown.concurrency.slots import Priority
from gastown.contract.agents import AgentList, AgentStatus, StartAgentRequest, StopAnswer
from gastown.contract.errors import AgentNotFound
from gastown.contract.secret import Secret
from gastown.contract.worker import RegistryEntry
from gastown.git.workspace import WorkspacePaths
from gastown.logs import SecretBook

__all__ = ["Roster", "open_roster", "workdir_of"]

log = structlog.get_logger()

_KEPT_ENDED = 200
"""Ended agents whose status can still be asked for; the oldest are forgotten first."""
EVENTS_KEPT_SECONDS = 300.0
"""How long the events of an ended agent can still be read."""


def workdir_of(request: StartAgentRequest, paths: WorkspacePaths) -> str:
    """Where an agent works (contract section 3)."""
    if request.is_mayor:
        return paths.mayor(request.town_id)
    if not request.works_in_repository:
        return paths.triage(request.rig_id)
    return paths.worktree(request.rig_id, request.branch)


class Roster:
    """Made by `open_roster`. Lives run in its nursery; callers only ever wait for them."""

    def __init__(self, nursery: trio.Nursery, services: AgentServices, on_change: Callable[[], None]) -> None:
        self.services = services
        self._nursery = nursery
        self._on_change = on_change
        self._agents: dict[str, Agent] = {}
        self._ended: dict[str, Agent] = {}
        self.known_secrets = SecretBook()
        self.starts = Starts()
        self.attempts = Attempts()

    def find(self, agent_id: str) -> Agent | None:
        return self._agents.get(agent_id)

    def get(self, agent_id: str) -> Agent:
        """The newest attempt of that id; raises `AgentNotFound`."""
        agent = self._agents.get(agent_id)
        if agent is None:
            raise AgentNotFound(agent_id)
        return agent

    def known(self) -> list[Agent]:
        """The newest attempt of each id, also those that have ended and are not forgotten yet."""
        return list(self._agents.values())

    def active(self) -> list[Agent]:
        """Agents that are starting or running, the mayor first."""
        return sorted((a for a in self._agents.values() if a.is_active), key=lambda a: not a.request.is_mayor)

    def count_active(self) -> int:
        """How many agents are starting or running."""
        return sum(agent.is_active for agent in self._agents.values())

    def begin(
        self,
        request: StartAgentRequest,
        *,
        deadline: float,
        seconds: float,
        given: int,
        attempt: str | None = None,
    ) -> Agent:
        """Begin a fresh start, or join the same one, and return at once; await `agent.settled` for its result.

        Another attempt of the same id that is still there is cancelled, and the new one begins when nothing of it
        is left. `deadline` is on Trio's clock; `seconds` is what an error says about it. `given` is the
        generation of the request; `attempt` is the id that the caller gave the attempt, if it did.
        """
        before = self._agents.get(request.agent_id)
        if before is not None and joins(before, request, attempt):
            if same_start(before.asked, request):
                self._renew_credentials(before, request, given)
            return before
        options = LifeOptions(Priority.INTERACTIVE, deadline=deadline, seconds=seconds)
        return self._begin(Desired(request, given), workdir_of(request, self.services.paths), options, attempt)

    def claim(self, entry: RegistryEntry, release: trio.Event) -> Agent | None:
        """Take over an agent of the last container: `starting` from now on, its life waits for `release`.

        None when it cannot be: a fresh start of the same id came first, even if it has ended since, or the
        directory is not ours.
        """
        if not self.services.paths.contains(entry.workdir):
            log.warning("registry.entry_skipped", agent_id=entry.agent_id, problems="workdir outside of the root")
            return None
        if entry.agent_id in self._agents:
            return None
        priority = Priority.PREWARM if entry.request.is_mayor else Priority.RESUME
        desired = Desired.stored(entry.request, entry.env)
        options = LifeOptions(priority, release=release)
        return self._begin(desired, entry.workdir, options, entry.attempt_id)

    async def stop(self, agent_id: str) -> StopAnswer:
        """End an agent in whatever state it is, and wait until nothing of it is left and its work is saved."""
        agent = self.get(agent_id)
        agent.lifecycle.leave(Leaving.STOPPED)
        await agent.ended.wait()
        work = agent.work if agent.work is not None and agent.work.has_news else None
        return StopAnswer(leftovers=agent.leftovers, **({} if work is None else dict(to_wire(work))))

    def status(self, agent_id: str) -> AgentStatus:
        """Of the newest attempt of that id; raises `AgentNotFound`."""
        return self.get(agent_id).status(self.services.deadlines.stalled)

    def listed(self) -> AgentList:
        """Every agent that is known, the mayor first."""
        known = sorted(self._agents.values(), key=lambda agent: not agent.request.is_mayor)
        stalled = self.services.deadlines.stalled
        return AgentList(agents=tuple(agent.listed(stalled) for agent in known))

    async def message(self, agent_id: str, prompt: str) -> None:
        """Give a running agent another prompt. It waits for the end of the turn that is open."""
        await send_prompt(self.get(agent_id), prompt)

    def evict(self, agent: Agent) -> None:
        """Begin to end an agent because the container stops; the registry keeps it for the next container."""
        if agent.is_active:
            agent.lifecycle.leave(Leaving.EVICTED)

    def secrets(self) -> Iterator[Secret]:
        """What came with the starts of all agents that are still known, for the log's redaction."""
        return self.known_secrets.secrets()

    def registry(self) -> Iterator[RegistryEntry]:
        """The agents that the next container must bring back: those of now, each as it is when it is read."""
        known = list(self._agents.values())
        kept = (agent for agent in known if agent.is_active or agent.lifecycle.leaving is Leaving.EVICTED)
        return (self._entry(agent) for agent in kept)

    def _entry(self, agent: Agent) -> RegistryEntry:
        """The next container takes the request's variables before `env`, so a newer token goes into both."""
        services = self.services
        counts = effective(agent.desired, services.credentials.current, services.defaults.counts)
        asked = agent.request.env_vars
        newest = {name: token for name, token in counts.tokens.items() if name in asked}
        request = agent.request.model_copy(update={"env_vars": {**asked, **newest}})
        return RegistryEntry(
            agent_id=agent.id,
            request=request,
            workdir=agent.workdir,
            env=dict(counts.tokens),
            attempt_id=agent.attempt,
        )

    def _renew_credentials(self, agent: Agent, equal: StartAgentRequest, given: int) -> None:
        """The credentials of a start that joins are newer than those of the start that it joins."""
        agent.renew_credentials(given, equal)
        self.known_secrets.hold(agent.id, agent.secrets)
        if equal.works_in_repository:
            register_rig(
                self.services,
                equal.rig_id,
                equal.git_url,
                equal.default_branch,
                variables=equal.env_vars,
                since=given,
            )

    def _begin(
        self,
        desired: Desired,
        workdir: str,
        options: LifeOptions,
        attempt: str | None,
    ) -> Agent:
        request = desired.request
        before = self._agents.get(request.agent_id)
        if before is not None and not before.ended.is_set():
            options.predecessor = before
            before.left_behind = before.workdir != workdir
            before.lifecycle.leave(Leaving.REPLACED)
        agent = Agent(
            desired,
            workdir=workdir,
            now=self.services.now,
            events=self.services.events,
            on_change=self._on_change,
            outbox=self.services.outbox,
            attempt=attempt,
        )
        if options.predecessor is not None:
            options.predecessor.replaced_by = agent.attempt
        origin: Literal["registry", "request"] = "registry" if agent.is_resumed else "request"
        agent.counted = CountedStart(self.starts, request.role, origin, agent.phases, options.arrival)
        self._agents.pop(request.agent_id, None)
        self._agents[request.agent_id] = agent
        self._ended.pop(request.agent_id, None)
        self.known_secrets.hold(agent.id, agent.secrets)
        self._forget_oldest()
        self._nursery.start_soon(live, agent, self.services, options, name=f"agent {agent.id}")
        self._nursery.start_soon(self.attempts.record, agent, name=f"answer of {agent.id}")
        self._nursery.start_soon(self._forget_events, agent, name=f"events of {agent.id}")
        self._on_change()
        return agent

    async def _forget_events(self, agent: Agent) -> None:
        """Let go of an ended agent's events after a while, unless a later attempt of it goes on with them."""
        await agent.ended.wait()
        if self._agents.get(agent.id) is agent:
            self._ended[agent.id] = agent
        await trio.sleep(EVENTS_KEPT_SECONDS)
        if self._agents.get(agent.id) in (agent, None):
            self.services.events.forget(agent.id)

    def _forget_oldest(self) -> None:
        while len(self._ended) > _KEPT_ENDED:
            name = next(iter(self._ended))
            del self._ended[name], self._agents[name]
            self.known_secrets.forget(name)
            self.services.events.forget(name)


@asynccontextmanager
async def open_roster(services: AgentServices, on_change: Callable[[], None]) -> AsyncIterator[Roster]:
    """A roster for the length of the block; leaving it ends every agent."""
    async with trio.open_nursery() as nursery:
        yield Roster(nursery, services, on_change)
        nursery.cancel_scope.cancel(reason="the roster closes")
