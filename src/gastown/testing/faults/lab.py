"""A town in which things go wrong on purpose, and what must hold all the same.

A mayor, a victim and a bystander work for some virtual hours; a fault strikes, lasts and heals. What is checked
is in `Lab.check`: it does not depend on the fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from gastown.testing.kilo import FakeKilo, Script
from gastown.testing.launchers import FakeLauncher, Fate, Spawn
from gastown.testing.town import FakeTown

__all__ = ["BYSTANDER", "MAYOR", "VICTIM", "Lab", "open_lab"]

MAYOR, VICTIM, BYSTANDER = "mayor-1", "pole-1", "pole-2"
WORK_EVERY_SECONDS = 60.0
RECOVERY_SECONDS = 10 * 60.0
KEPT_EVENTS = 2000
TERMINAL = ("exited", "failed")


class Lab:
    """A running town. `sent` counts the prompts that each agent accepted; `patches` end with the lab.

    `fates` are the fates of the next servers, by agent.
    """

    def __init__(self, town: FakeTown) -> None:
        self.town = town
        self.sent: Counter[str] = Counter()
        self.fates: dict[str, Fate] = {}
        self.patches = pytest.MonkeyPatch()
        self.bystander_port: int | None = None

    @property
    def victim(self) -> FakeKilo | None:
        """The victim's server, while it has one."""
        live = [s for s in self.town.kilo.live if s.spawn.agent_id == VICTIM]
        return live[-1].kilo if live else None

    def script(self, **how: Any) -> None:
        """How the victim's servers behave from now on, those that live included."""
        script = Script(**how)
        self.town.kilo.scripts[VICTIM] = script
        if (kilo := self.victim) is not None:
            kilo.script = script

    async def settle(self) -> None:
        """Start all three agents."""
        for agent_id in (MAYOR, VICTIM, BYSTANDER):
            answer = await self.town.start(agent_id)
            assert answer.status_code == 201, answer.text
        self.bystander_port = (await self.town.status(BYSTANDER))["serverPort"]

    async def work(self) -> None:
        """Give each agent something to do, every minute, until cancelled."""
        while True:
            for agent_id in (MAYOR, VICTIM, BYSTANDER):
                sent = await self.town.client.post(f"/agents/{agent_id}/message", json={"prompt": "Go on"})
                assert sent.status_code in (200, 404, 409, 500), sent.text
                self.sent[agent_id] += sent.status_code == 200
            await trio.sleep(WORK_EVERY_SECONDS)

    async def recover(self) -> None:
        """Let ten minutes pass, and start those that did not survive a second time, as an orchestrator would."""
        await trio.sleep(RECOVERY_SECONDS)
        for agent_id in (MAYOR, VICTIM):
            if (await self.town.status(agent_id))["status"] in TERMINAL:
                answer = await self.town.start(agent_id)
                assert answer.status_code == 201, answer.text
        await trio.sleep(3 * WORK_EVERY_SECONDS)

    async def check(self) -> None:
        """What holds after every fault, once it is over."""
        await self._every_agent_works()
        await self._the_bystander_was_undisturbed()
        self._nothing_was_lost_on_its_way_to_the_worker()
        assert max([len(await self.town.events(a)) for a in (MAYOR, VICTIM, BYSTANDER)]) <= KEPT_EVENTS
        crashes = [line for line in self.town.logged() if line["event"].endswith(".crashed")]
        assert crashes == []

    def check_ends(self) -> None:
        """For afterwards: every attempt has come to exactly one end, and no server is left."""
        ends: Counter[str] = Counter()
        for line in self.town.logged("agent.state"):
            ends[line["attempt"]] += line["after"] in TERMINAL
        assert set(ends.values()) == {1}
        assert self.town.kilo.live == []

    async def _every_agent_works(self) -> None:
        before = [await self._turns(agent_id) for agent_id in (MAYOR, VICTIM, BYSTANDER)]
        await trio.sleep(2 * WORK_EVERY_SECONDS)
        after = [await self._turns(agent_id) for agent_id in (MAYOR, VICTIM, BYSTANDER)]
        assert all(later > sooner for later, sooner in zip(after, before, strict=True)), (before, after)

    async def _the_bystander_was_undisturbed(self) -> None:
        status = await self.town.status(BYSTANDER)
        assert (status["status"], status["serverPort"]) == ("running", self.bystander_port)
        states = [line for line in self.town.logged("agent.state") if line["agent_id"] == BYSTANDER]
        assert [line["after"] for line in states] == ["running"]

    def _nothing_was_lost_on_its_way_to_the_worker(self) -> None:
        services = self.town.opened.town.services
        figures = services.outbox.figures()
        assert (figures.lost, services.reports.lost, services.reports.pending) == (0, 0, 0)
        assert figures.age_seconds < WORK_EVERY_SECONDS

    async def _turns(self, agent_id: str) -> int:
        """The id of the newest end of a turn."""
        ends = [e["id"] for e in await self.town.events(agent_id) if e["event"] == "session.turn.close"]
        return ends[-1] if ends else 0


@asynccontextmanager
async def open_lab(
    open_town: Callable[..., AbstractAsyncContextManager[FakeTown]], **settings: Any
) -> AsyncIterator[Lab]:
    """A town at work for the length of the block. No agent ends for being idle.

    `open_town` is `open_fake_town` with its folder, as the fixture of that name is; `settings` are those of
    `Settings`.
    Raises `AssertionError` at the end, unless every attempt has come to exactly one end.
    """
    labs: list[Lab] = []

    def fate(spawn: Spawn) -> Fate:
        return labs[0].fates.get(spawn.agent_id, Fate())

    launcher = partial(FakeLauncher, fate=fate)
    async with open_town(kilo=launcher, agent_idle_timeout_ms=10**9, gastown_spawn_slots=4, **settings) as town:
        town.worker.batches = True
        lab = Lab(town)
        labs.append(lab)
        await lab.settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.work, name="work")
            try:
                yield lab
            finally:
                lab.patches.undo()
            nursery.cancel_scope.cancel(reason="the lab closes")
    lab.check_ends()
