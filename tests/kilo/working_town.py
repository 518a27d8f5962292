"""A town on real parts: hall, dispatcher, container, kilos, git over HTTP. Only the model is a script."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from gastown.contract.secret import Secret
from gastown.hall.control_client import ControlCallFailed, ControlClient, open_control_client
from gastown.hall.dispatch.dispatcher import Dispatcher
from gastown.hall.domain.bead import BeadState
from gastown.hall.domain.policy import Policy, RigPolicy
from gastown.hall.domain.town import RigRecord
from gastown.hall.drivers.process import (
    Container,
    ContainerDied,
    ContainerLeft,
    ContainerOptions,
    base_environment,
    choose_port,
    container_environment,
    run_container,
)
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import TownState, Work
from gastown.hall.store import beads, board, policies, town_state
from gastown.hall.store.transaction import Transaction
from gastown.testing.script import When, bash, call, say, script, when, write
from tests.git.server import GitServer
from tests.kilo.town import KILO

AGAIN = r"[\s\S]*Your task, bead (?P<bead>\S+):[\s\S]*Your branch: (?P<branch>\S+)\.\)"
"""What ends every message to an author after its first."""

_UNFINISHED = r"(had not called gt_done|You were interrupted)"
_LOST = facts.ContainerLost(reason="killed by the test")

__all__ = [
    "AGAIN",
    "WorkingTown",
    "closed",
    "keep_up",
    "landed",
    "open_container",
    "open_working_hall",
    "sling",
    "takes_up",
    "until",
    "working_town",
]

PATIENCE = 240
"""Seconds that the slowest of these towns may take on two cores; a hang becomes a failure."""


@dataclass
class WorkingTown:
    """A hall, and the container that it has now."""

    hall: Hall
    data: Path
    control: ControlClient
    container: Container

    async def take(self, *given: facts.Fact) -> None:
        await self.hall.store.transaction("town", lambda at: town_state.take(at, *given))

    async def sling(self, title: str, body: str = "", *, after: tuple[str, ...] = ()) -> str:
        return await sling(self.hall, title, body, after=after)

    async def work(self, bead_id: str) -> Work:
        return (await self.hall.store.state("town")).work[bead_id]

    async def until(self, holds: Any, seconds: float = PATIENCE) -> TownState:
        return await until(self.hall, holds, seconds)

    async def closed(self, *bead_ids: str) -> None:
        """Wait until all of them are closed by a merge."""
        await closed(self.hall, *bead_ids)

    async def attempts(self, bead_id: str) -> list[tuple[str | None, str | None]]:
        """Outcome and cause of each attempt, oldest first."""
        rows = await self.hall.store.transaction("town", lambda at: town_state.attempts_of(at, bead_id))
        return [(row["outcome"], row["cause"]) for row in rows]


async def sling(hall: Hall, title: str, body: str = "", *, after: tuple[str, ...] = ()) -> str:
    """A bead, without a turn of the mayor."""

    def work(at: Transaction) -> str:
        made = beads.make_bead(at, "r", "issue", title, body=body)
        beads.set_blockers(at, made.id, after)
        board.add_work(at, [beads.bead(at, made.id)])
        return made.id

    return await hall.store.transaction("town", work)


async def until(hall: Hall, holds: Any, seconds: float = PATIENCE) -> TownState:
    """Wait until the state of the town is so."""
    state = await hall.store.state("town")
    with trio.move_on_after(seconds):
        while True:
            count = hall.store.stepped.count
            state = await hall.store.state("town")
            if holds(state):
                return state
            await hall.store.stepped.wait(after=count)
    raise AssertionError(f"it did not come to that in {seconds} s: {dict(state.work)}")


async def closed(hall: Hall, *bead_ids: str) -> None:
    state = await until(
        hall, lambda at: all(at.work[one].is_finished or at.work[one].question for one in bead_ids)
    )
    ends = {one: (state.work[one].state, state.work[one].question) for one in bead_ids}
    assert ends == dict.fromkeys(bead_ids, (BeadState.CLOSED, None))


def landed(server: GitServer, branch: str = "main") -> list[str]:
    """The beads whose merges are on the branch, by its first parents, oldest first."""
    said = server.git("r", "log", "--reverse", "--first-parent", "--format=%b", branch)
    return [line.removeprefix("Bead: ") for line in said.splitlines() if line.startswith("Bead: ")]


def takes_up(command: str) -> When:
    """An author that is told to finish what it was cut off from, wherever in it that was: what is there stays."""
    commit = "git add -A && (git diff --cached --quiet || git commit -qm 'the rest')"
    return (
        when(_UNFINISHED + AGAIN, role="polecat")
        .then(say("I take it up."), bash(f"{command} && {commit} && git push -q origin HEAD"))
        .then(call("gt_done", branch="{{branch}}", summary="done"))
        .then(say("It is handed in."))
    )


@asynccontextmanager
async def open_working_hall(
    data: Path, server: GitServer, *turns: When, rig: RigPolicy | None = None, slots: int = 3
) -> AsyncIterator[Hall]:
    """A hall whose model plays `turns`, with the rig `r` of the git server."""
    await trio.Path(data).mkdir(exist_ok=True)
    played = write(script("a test", *turns), data / "script.json")
    record = RigRecord(rig_id="r", git_url=server.url("r"), default_branch="main")
    async with open_hall(HallOptions(data_dir=data, script=played, rigs=[record])) as hall:

        def settle(at: Transaction) -> None:
            policies.change_policy(at, Policy(slots=slots))
            policies.change_rig_policy(at, "r", rig or RigPolicy(merge="auto"))
            town_state.take_rules(at)

        await hall.store.transaction("town", settle)
        yield hall


@asynccontextmanager
async def open_container(hall: Hall, data: Path, **environment: str) -> AsyncIterator[WorkingTown]:
    """A container of the hall for the length of the block, driven by a dispatcher. ContainerDied when it dies."""
    port, token = choose_port("127.0.0.1", 0), secrets.token_urlsafe(32)
    own = {"GASTOWN_KILO_BIN": str(KILO), "GASTOWN_CONTROL_TOKEN": token, **environment}
    child = container_environment(
        base_environment(os.environ) | own,
        await hall.town(),
        await hall.container_token(),
        api_url=hall.url,
        stand_in=True,
        data_dir=data,
        port=port,
    )
    options = ContainerOptions(environment=child, log=data / "serve.log", homes=data / "homes", drain_seconds=30)
    async with (
        open_control_client(f"http://127.0.0.1:{port}", Secret(token)) as control,
        run_container(options) as container,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(Dispatcher(hall, control).run)
        await until(hall, lambda at: at.container.ready)
        yield WorkingTown(hall, data, control, container)
        nursery.cancel_scope.cancel(reason="the test is over")


async def keep_up(hall: Hall, data: Path, current: list[Container]) -> None:
    """One container after the other, however they end; `current` holds the newest."""
    while True:
        with suppress(ContainerDied, ContainerLeft, ControlCallFailed):
            async with open_container(hall, data) as town:
                current[:] = [town.container]
                await trio.sleep_forever()
        await hall.store.transaction("town", lambda at: town_state.take(at, _LOST))


@asynccontextmanager
async def working_town(
    data: Path, server: GitServer, *turns: When, rig: RigPolicy | None = None, slots: int = 3
) -> AsyncIterator[WorkingTown]:
    """Hall and container together."""
    async with (
        open_working_hall(data, server, *turns, rig=rig, slots=slots) as hall,
        open_container(hall, data) as town,
    ):
        yield town
