"""The table of faults: what each one does to a town, and how it ends.

`@fault(sentence, heal, seconds)` puts a further one into `FAULTS`, by the name of its function.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import trio

from gastown.concurrency.processes import Exit
from gastown.testing.faults.lab import MAYOR, VICTIM, Lab
from gastown.testing.launchers import BROKEN_DATABASE, Fate
from gastown.testing.town import TOWN, start_request
from gastown.testing.worker import ROUTES
from gastown.worker.snapshots import database

__all__ = ["FAULTS", "Act", "Fault", "fault"]

HOUR = 3600.0
FLOOD = 100_000

Act = Callable[[Lab], Awaitable[None]]
"""What strikes, and what heals."""


async def nothing(_: Lab) -> None:
    """For what needs no healing."""


@dataclass(frozen=True)
class Fault:
    """`seconds` is how long it lasts before it heals. `sentence` says what happens to the town."""

    sentence: str
    strike: Act
    heal: Act = nothing
    seconds: float = 120.0


FAULTS: dict[str, Fault] = {}


def fault(sentence: str, heal: Act = nothing, seconds: float = 120.0) -> Callable[[Act], Act]:
    """Put a function that strikes into `FAULTS`, under its own name; see `Fault`."""

    def keep(act: Act) -> Act:
        FAULTS[act.__name__] = Fault(sentence, act, heal, seconds)
        return act

    return keep


async def usual(lab: Lab) -> None:
    """Let the servers behave as they do when all is well."""
    lab.fates.clear()
    lab.town.kilo.stop_seconds = 0.3
    if (kilo := lab.victim) is not None:
        kilo.silent = False
    lab.script()


async def start_again(lab: Lab) -> None:
    """A start of the victim, which may fail."""
    answer = await lab.town.start(VICTIM)
    assert answer.status_code in (201, 500, 504), answer.text


@fault("the server hangs at its start", usual)
async def hanging_start(lab: Lab) -> None:
    lab.script(hangs=frozenset({"GET /experimental/tool/ids"}))
    await start_again(lab)


@fault("the server never listens", usual)
async def never_listens(lab: Lab) -> None:
    lab.fates[VICTIM] = Fate(math.inf)
    await start_again(lab)


@fault("the server ends while it starts", usual)
async def crash_at_start(lab: Lab) -> None:
    lab.fates[VICTIM] = Fate(1.0, Exit(1), ("Error: it cannot go on",))
    await start_again(lab)


@fault("kilo cannot open its database", usual)
async def broken_database(lab: Lab) -> None:
    lab.fates[VICTIM] = Fate(1.0, Exit(1), BROKEN_DATABASE)
    await start_again(lab)


@fault("the server dies in the middle of a turn")
async def death_in_a_turn(lab: Lab) -> None:
    await lab.town.client.post(f"/agents/{VICTIM}/message", json={"prompt": "Go on"})
    await trio.sleep(0.7)
    _kill(lab, VICTIM)


@fault("the mayor's server dies in the middle of a turn")
async def death_of_the_mayors_server(lab: Lab) -> None:
    await lab.town.client.post(f"/agents/{MAYOR}/message", json={"prompt": "Go on"})
    await trio.sleep(0.7)
    _kill(lab, MAYOR)


@fault("the mayor's server dies each minute for an hour", usual, HOUR)
async def mayor_dies_for_an_hour(lab: Lab) -> None:
    lab.fates[MAYOR] = Fate(dies_after=60)
    _kill(lab, MAYOR)


@fault("the event stream ends cleanly, again and again")
async def stream_ends(lab: Lab) -> None:
    for _ in range(20):
        if (kilo := lab.victim) is not None:
            kilo.end_streams()
        await trio.sleep(7)


@fault("the event stream is silent on an open connection", usual, 600)
async def silent_stream(lab: Lab) -> None:
    if (kilo := lab.victim) is not None:
        kilo.silent = True


@fault("the server floods 100,000 events")
async def flood(lab: Lab) -> None:
    if (kilo := lab.victim) is None:
        return
    session = next(iter(kilo.home.sessions.values()))
    for number in range(FLOOD):
        kilo.emit("message.part.delta", session, partID="prt_flood", field="text", delta=f"{number} ")
        if number % 500 == 0:
            await trio.sleep(0.01)


def _gateway(status: int) -> None:
    async def act(lab: Lab) -> None:
        lab.script(status=status)

    FAULTS[f"gateway_{status}"] = Fault(f"the gateway answers {status} for ten minutes", act, usual, 600)


for _status in (401, 402, 429, 500):
    _gateway(_status)


@fault("the gateway cannot be reached for an hour", usual, HOUR)
async def gateway_away(lab: Lab) -> None:
    lab.script(offline=True)


@fault("the server does not answer, and does not end", usual, 300)
async def wedged(lab: Lab) -> None:
    if (kilo := lab.victim) is not None:
        kilo.script = type(kilo.script)(hangs=frozenset({"GET /session/status"}))


@fault("the server ignores TERM", usual)
async def ignores_term(lab: Lab) -> None:
    lab.town.kilo.stop_seconds = 5.0
    await start_again(lab)


async def worker_well(lab: Lab) -> None:
    """Let the worker be up and well."""
    worker = lab.town.worker
    worker.delays.clear()
    worker.statuses.clear()
    worker.garbage.clear()
    worker.expired.clear()
    worker.up()


@fault("the worker is down for ten minutes", worker_well, 600)
async def worker_down(lab: Lab) -> None:
    lab.town.worker.down()
    await start_again(lab)


@fault("the worker needs 20 seconds for everything", worker_well, 600)
async def worker_slow(lab: Lab) -> None:
    lab.town.worker.delays = dict.fromkeys(ROUTES, 20.0)
    await start_again(lab)


@fault("the worker never answers", worker_well, 600)
async def worker_half_open(lab: Lab) -> None:
    lab.town.worker.delays = dict.fromkeys(ROUTES, math.inf)
    await start_again(lab)


@fault("the worker answers with garbage", worker_well, 600)
async def worker_garbage(lab: Lab) -> None:
    lab.town.worker.garbage = set(ROUTES)
    await start_again(lab)


@fault("the worker answers 500 for an hour", worker_well, HOUR)
async def worker_broken(lab: Lab) -> None:
    lab.town.worker.statuses = dict.fromkeys(ROUTES, 500)


@fault("the worker answers 401 for an hour, the refresh included", worker_well, HOUR)
async def worker_refuses(lab: Lab) -> None:
    lab.town.worker.statuses = dict.fromkeys(ROUTES, 401)


async def room_again(lab: Lab) -> None:
    """Let there be room on the disk."""
    lab.patches.undo()


@fault("the disk is full when a stored conversation arrives, and when one is to be saved", room_again, 300)
async def disk_full(lab: Lab) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lab.patches.setattr(database, "unpack", full)
    lab.patches.setattr(database, "copy", full)
    lab.town.worker.snapshots["rig-1", VICTIM] = b"whatever"
    lab.town.worker.snapshots[f"mayor-{TOWN}", MAYOR] = b"whatever"
    await start_again(lab)
    await lab.town.client.post(f"/agents/{MAYOR}/message", json={"prompt": "Go on"})


@fault("the wall clock jumps a day ahead, then a month back")
async def clock_jumps(lab: Lab) -> None:
    lab.town.clock.ahead = timedelta(days=1)
    await start_again(lab)
    await trio.sleep(100)
    lab.town.clock.ahead = timedelta(days=-30)
    await start_again(lab)


@fault("two orchestrators start and stop the same agent at the same time")
async def two_orchestrators(lab: Lab) -> None:
    async def orchestrate(number: int) -> None:
        for _ in range(5):
            await start_again(lab)
            await trio.sleep(number)
            await lab.town.client.post(f"/agents/{VICTIM}/stop")

    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(orchestrate, number)


@fault("the model is changed again and again")
async def model_storm(lab: Lab) -> None:
    for number in range(3):
        await lab.town.client.patch(f"/agents/{VICTIM}/model", json={"model": f"test/m{number}"})
        await trio.sleep(3)


@fault("a caller sends starts that make no sense")
async def nonsense(lab: Lab) -> None:
    for body in ({}, {"agentId": "../x"}, start_request(VICTIM, role=7)):
        answer = await lab.town.client.post("/agents/start", json=body)
        assert answer.status_code == 400, answer.text


def _kill(lab: Lab, agent_id: str) -> None:
    for server in [s for s in lab.town.kilo.live if s.spawn.agent_id == agent_id]:
        lab.town.kilo.kill(server)
