"""One container of a town, and the task that gives it what is to be done."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field

import trio

from gastown.contract.agents import AgentState, ListedAgent
from gastown.hall.control_client import ControlCallFailed, ControlClient
from gastown.hall.dispatch.look import see_head
from gastown.hall.dispatch.requests import Task, merge_request, message_for, start_request
from gastown.hall.domain.errors import BoardError
from gastown.hall.domain.town import town_config
from gastown.hall.hall import Hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Action, Look, Merge, Start
from gastown.hall.reconcile.state import Leaving, TownState, Work
from gastown.hall.reconcile.step import outstanding, unseen
from gastown.hall.reconcile.waiting import next_look
from gastown.hall.store import beads, rig_agents
from gastown.hall.store.lane import StoreBusy
from gastown.hall.store.town_state import work_of
from gastown.hall.store.transaction import Transaction

__all__ = ["Dispatcher"]

_LOOK_SECONDS = 0.2
"""How often a container that boots is asked: its boot has better to do than answer."""
_IDLE_SECONDS = 2.0
"""A container that has not begun its hydration by then has none to do."""
_AGAIN_SECONDS = 2.0
_LOST = facts.ContainerLost(reason="it does not answer, or drains")
_ALIVE = (AgentState.STARTING, AgentState.RUNNING)

_LOGGER = "gastown.hall.dispatch"


@dataclass
class Dispatcher:
    """Gives one container what its town has to do.

    A new container gets a new dispatcher, which asks it what it goes on with, and does again whatever was begun
    and has no result.
    """

    hall: Hall
    control: ControlClient
    _under_way: set[Hashable] = field(default_factory=set[Hashable])
    _merging: set[Hashable] = field(default_factory=set[Hashable])
    _looks: set[Look] = field(default_factory=set[Look])

    async def run(self) -> None:
        """Wait until the container takes starts, and carry out what is to be done; so each time that it was away.
        Never returns.
        """
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    await self._serve(nursery)
                except StoreBusy as error:  # it says so, and nothing was changed
                    logging.getLogger(_LOGGER).warning("The town stands still: %s", error)
                    await trio.sleep(_AGAIN_SECONDS)

    async def _serve(self, nursery: trio.Nursery) -> None:
        """Meet the container once it takes starts, and carry out what is to be done until it is gone."""
        alive = await self._attempts_once_hydrated()
        self._merging.clear()
        await self._tell(facts.ContainerReady(attempts=alive))
        while await self._once(nursery):
            pass

    async def _once(self, nursery: trio.Nursery) -> bool:
        """Begin what is outstanding, and wait until something has changed or is due; False without a container."""
        stepped = self.hall.store.stepped
        before = stepped.count
        state = await self.hall.store.state(self.hall.town_id)
        if not state.container.ready:
            return False
        to_do = {_key(action): action for action in outstanding(state)}
        self._merging &= to_do.keys()
        for key, action in to_do.items():
            if key not in self._under_way | self._merging:
                self._under_way.add(key)
                nursery.start_soon(self._contained, key, action, name=f"dispatch {key}")
        looks = set(unseen(state))
        for look in looks - self._looks:
            nursery.start_soon(see_head, self.hall, self.control, look, name=f"look {look.hand_in_id}")
        self._looks = looks
        with trio.move_on_after(self._seconds_to_look(state)) as scope:
            await stepped.wait(after=before)
        if scope.cancelled_caught:
            await self._tell()
        return True

    def _seconds_to_look(self, state: TownState) -> float:
        look = next_look(state)
        return float("inf") if look is None else max(0.0, (look - self.hall.now()).total_seconds())

    async def _contained(self, key: Hashable, action: Action) -> None:
        """Carry one action out. Whatever goes wrong concerns this one alone."""
        try:
            await self._carry_out(action)
        except (ControlCallFailed, BoardError, StoreBusy, LookupError) as error:
            logging.getLogger(_LOGGER).warning("%s was not carried out: %s", key, error)
            await trio.sleep(_AGAIN_SECONDS)
        except Exception:  # a boundary: a bug in one action ends no other one, and not the town
            logging.getLogger(_LOGGER).exception("%s was not carried out", key)
            await trio.sleep(_AGAIN_SECONDS)
        self._under_way.discard(key)
        self.hall.store.stepped.send()

    async def _carry_out(self, action: Action) -> None:
        if isinstance(action, Start):
            await self._start(action)
        elif isinstance(action, Merge):
            await self._merge(action)
        elif isinstance(action, Leaving):
            await self.control.stop(action.agent_id, final=action.final)
            await self._tell(facts.AgentStopped(agent_id=action.agent_id))

    async def _start(self, action: Start) -> None:
        task = await self._task(action)
        config = town_config(task.town, self.hall.url)
        try:
            running = await self._running(action.agent_id)
            if running is not None:
                await self.control.message(action.agent_id, message_for(task), config)
                started = facts.Started(
                    attempt_id=action.attempt_id, session_id=running.session_id, known_as=running.attempt_id
                )
            else:
                agent = await self.control.start(start_request(task), config, attempt_id=action.attempt_id)
                started = facts.Started(attempt_id=action.attempt_id, session_id=agent.session_id)
        except (ControlCallFailed, ValueError) as error:
            lost = [_LOST] if await self._is_gone(error) else []
            await self._tell(*lost, facts.StartFailed(attempt_id=action.attempt_id, reason=str(error)))
            return
        await self._tell(started)

    async def _merge(self, action: Merge) -> None:
        """Ask for the merge. Its result is reported by the container, and comes in as a fact by itself."""
        town, state = await self.hall.town(), await self.hall.store.state(self.hall.town_id)
        rig = town.rig(_work(state, action.bead_id).rig_id)
        self._merging.add(action.merge_id)
        try:
            request = merge_request(town, rig, action, state.rules.rigs[rig.rig_id])
            await self.control.merge(request, town_config(town, self.hall.url))
        except (ControlCallFailed, ValueError) as error:
            failed = facts.MergeFailed(merge_id=action.merge_id, reason=str(error))
            await self._tell(_LOST if await self._is_gone(error) else failed)

    async def _running(self, agent_id: str) -> ListedAgent | None:
        """The agent, where its server is up: it gets a message in place of a start."""
        known = (await self.control.agents()).agents
        return next((one for one in known if one.agent_id == agent_id and one.status is AgentState.RUNNING), None)

    async def _is_gone(self, error: Exception) -> bool:
        """Whether a call failed because the container is no more, or soon will not be."""
        if not isinstance(error, ControlCallFailed):
            return False
        if error.status is not None and error.status != 503:
            return False
        try:
            return bool((await self.control.health()).draining)
        except ControlCallFailed:
            return True

    async def _task(self, action: Start) -> Task:
        town = await self.hall.town()

        def read(board: Transaction) -> Task:
            work = work_of(board, action.bead_id)
            if work is None:
                raise LookupError(f"bead {action.bead_id} is gone")
            return Task(
                town=town,
                rig=town.rig(work.rig_id),
                work=work,
                bead=beads.bead(board, action.bead_id),
                agent=rig_agents.agent(board, work.rig_id, action.agent_id),
                start=action,
            )

        return await self.hall.store.transaction(self.hall.town_id, read)

    async def _tell(self, *given: facts.Fact) -> None:
        await self.hall.store.tell(self.hall.town_id, *given)

    async def _attempts_once_hydrated(self) -> frozenset[str]:
        """Wait until the container takes starts; the attempts that it goes on with."""
        began = trio.current_time()
        while True:
            try:
                if await self._takes_starts(trio.current_time() - began):
                    agents = (await self.control.agents()).agents
                    return frozenset(one.attempt_id for one in agents if one.status in _ALIVE)
            except ControlCallFailed:
                pass  # it does not answer yet; what ends a container that never does is its supervisor's
            await trio.sleep(_LOOK_SECONDS)

    async def _takes_starts(self, waited: float) -> bool:
        health = await self.control.health()
        has_begun = health.hydration.state != "idle" or waited > _IDLE_SECONDS
        is_open = health.hydration.gate == "open" and health.hydration.state != "running"
        return has_begun and is_open and not health.draining


def _key(action: Action) -> Hashable:
    if isinstance(action, Start):
        return action.attempt_id
    if isinstance(action, Merge):
        return action.merge_id
    return action


def _work(state: TownState, bead_id: str) -> Work:
    work = state.work.get(bead_id)
    if work is None:
        raise LookupError(f"bead {bead_id} is gone")
    return work
