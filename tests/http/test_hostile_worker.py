"""A worker whose answers are no answers: nothing of it ends the container, and one bad entry costs itself."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.testing.asgi import Answer, Frames, answer
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher
from gastown.testing.network import open_network
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = pytest.mark.virtual_time

REFRESH, REGISTRY, MAYOR = "POST /refresh-container-token", "GET /container-registry", "GET /mayor-id"
NUDGES, GIT, BEAT = "GET /pending-nudges", "POST /refresh-git-token", "POST /heartbeat"
SNAPSHOT = "GET /db-snapshot"
AGENT = ("rig-1", "pole-1")
DEEP = Answer(200, b"[" * 100_000)
busy = partial(FakeLauncher, script=Script(turn_seconds=10_000))


def token(text: Any) -> Answer:
    return answer({"success": True, "data": {"token": text}})


async def endless() -> AsyncGenerator[str]:
    while True:
        yield "x" * 1_000_000


ODD: dict[str, Callable[[], Answer | Frames]] = {
    "brackets in brackets": lambda: DEEP,
    "300 objects in each other": lambda: Answer(200, b'{"data":' * 300 + b"1" + b"}" * 300),
    "not a number": lambda: Answer(200, b'{"data": NaN}'),
    "an infinity": lambda: Answer(200, b'{"data": 1e999}'),
    "compressed": lambda: Answer(200, gzip.compress(b" " * 3_000_000), headers={"content-encoding": "gzip"}),
    "a page": lambda: Answer(200, b"<html>"),
    "without an end": lambda: Frames(endless()),
}
CALLS: dict[str, Callable[[WorkerClient], Any]] = {
    REFRESH: lambda worker: worker.refresh_token(),
    REGISTRY: lambda worker: worker.registry(),
    MAYOR: lambda worker: worker.mayor_context(),
    NUDGES: lambda worker: worker.pending_nudges(*AGENT),
    GIT: lambda worker: worker.git_token("rig-1"),
    "POST /completed": lambda worker: worker.report("completed", {}, AGENT),
    SNAPSHOT: lambda worker: worker.snapshot(*AGENT, most_bytes=1_000_000),
}
BOUNDED = ("compressed", "without an end")
PAIRS = [
    *((route, odd) for route in CALLS if route != SNAPSHOT for odd in ODD if odd != "without an end"),
    *((SNAPSHOT, odd) for odd in BOUNDED),  # it is no JSON
    *((route, "without an end") for route in (REGISTRY, REFRESH)),  # 32 MiB each
]


@pytest.mark.parametrize(("route", "odd"), PAIRS)
async def test_an_odd_answer_is_a_failure_of_its_call(route: str, odd: str) -> None:
    """Every call has a typed failure for what cannot be read, and reads no more of it than it has to."""
    async with open_network() as network:
        worker = FakeWorker(network)
        worker.odd[route] = ODD[odd]()
        live = LiveCredentials(Credentials(container_token=Secret("t")))
        client = WorkerClient(network.client(), worker.url, "oak", live)
        with pytest.raises(WorkerError) as caught:
            await CALLS[route](client)
        assert (caught.value.transient, live.current.container_token) == (False, Secret("t"))


@pytest.mark.parametrize("text", ["x" * 20_001, "with space", "", "\ud800", 5, None])
@pytest.mark.parametrize("route", [REFRESH, GIT])
async def test_a_token_that_fits_into_no_header_is_none(route: str, text: Any) -> None:
    """A token is checked as at `POST /refresh-token`, and the present one stays."""
    async with open_network() as network:
        worker = FakeWorker(network)
        worker.odd[route] = token(text)
        live = LiveCredentials(Credentials(container_token=Secret("t")))
        client = WorkerClient(network.client(), worker.url, "oak", live)
        with pytest.raises(WorkerError, match="token"):
            await CALLS[route](client)
        assert live.current.container_token == Secret("t")


async def test_a_container_lives_through_a_refresh_that_answers_brackets(town_on_fakes) -> None:
    """Its token has ended and cannot be renewed: that fails calls, not the container."""
    async with town_on_fakes(kilo=busy, gastown_container_token="opaque") as town:
        town.worker.expired = {"opaque"}
        town.worker.odd[REFRESH] = DEEP
        town.hydrate()
        await trio.sleep(60)
        assert (await town.start("pole-1")).status_code == 201
        await trio.sleep(100)
        town.worker.odd.clear()
        await trio.sleep(60)
        assert [call.bearer for call in town.worker.answered if call.route == BEAT][-1] == "fresh-1"


@pytest.mark.parametrize("odd", ["brackets in brackets", "300 objects in each other", "a page"])
async def test_a_container_lives_through_odd_answers_everywhere(town_on_fakes, odd: str) -> None:
    """Registry, mayor context, nudges and heartbeats that cannot be read leave the town at work."""
    async with town_on_fakes(kilo=busy) as town:
        town.worker.odd = {route: ODD[odd]() for route in (REGISTRY, MAYOR, NUDGES, BEAT)}
        await town.hydrated()
        assert (await town.start("pole-1")).status_code == 201
        await trio.sleep(100)
        assert (await town.status("pole-1"))["status"] == "running"


@pytest.mark.parametrize(
    "change",
    [{"workdir": "/x\0y"}, {"agentId": "other"}, {"env": 5}, {"request": None}, {"workdir": "\ud800"}],
    ids=str,
)
async def test_one_bad_entry_of_the_registry_costs_itself(town_on_fakes, change: dict[str, Any]) -> None:
    """The entries beside an unusable one are brought back."""
    async with town_on_fakes(kilo=busy) as town:
        town.worker.registry = [town.entry("pole-1") | change, town.entry("pole-2")]
        await town.hydrated()
        report = (await town.health())["hydration"]
        assert (report["state"], report["resumed"], report["skipped"]) == ("complete", 1, 1)


async def test_one_bad_nudge_costs_itself(town_on_fakes) -> None:
    """A nudge whose id is too long stays pending; the good one beside it is delivered."""
    async with town_on_fakes() as town:
        bad = {"nudge_id": "n" * 201, "message": "bad"}
        town.worker.nudges["pole-1"] = [bad, {"nudge_id": "n-1", "message": "good"}]
        await town.start("pole-1")
        await trio.sleep(60)
        assert town.worker.nudges["pole-1"] == [bad]
        assert json.dumps("bad") not in json.dumps(town.kilo.server("pole-1").kilo.prompts)
