"""The worker's client: what counts as an answer, and one refresh for all who need it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.testing.asgi import Answer, Asked, app_of
from gastown.testing.network import open_network
from gastown.testing.town import TOWN
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = pytest.mark.virtual_time

REFRESH, COMPLETED = "POST /refresh-container-token", "POST /completed"
AGENT = ("rig-1", "pole-1")
Call = Callable[[WorkerClient], Awaitable[object]]


@asynccontextmanager
async def open_client() -> AsyncIterator[tuple[WorkerClient, FakeWorker]]:
    async with open_network() as network:
        worker = FakeWorker(network)
        live = LiveCredentials(Credentials(container_token=Secret("t")))
        yield WorkerClient(network.client(), worker.url, TOWN, live), worker


CALLS: dict[str, tuple[str, Call]] = {
    "a snapshot": ("GET /db-snapshot", lambda worker: worker.snapshot(*AGENT, most_bytes=1000)),
    "a snapshot to store": ("POST /db-snapshot", lambda worker: worker.save_snapshot(*AGENT, b"db")),
    "a report": (COMPLETED, lambda worker: worker.report("completed", {}, AGENT)),
    "events": ("POST /agent-events", lambda worker: worker.agent_events(*AGENT, b"{}", batch=False)),
    "nudges": ("GET /pending-nudges", lambda worker: worker.pending_nudges(*AGENT)),
    "a question of somebody else's": (
        "GET /pending-nudges",
        lambda worker: worker.forward("GET", "pending-nudges", None, AGENT),
    ),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("status", [301, 302, 307])
async def test_a_worker_that_sends_elsewhere_has_not_answered(what: str, status: int) -> None:
    route, call = CALLS[what]
    async with open_client() as (client, worker):
        worker.statuses[route] = status
        with pytest.raises(WorkerError, match=f"answered {status}") as caught:
            await call(client)
        assert (caught.value.transient, caught.value.status, caught.value.is_refusal) == (False, status, False)
        counted = {labels[-1] for labels, times in client.calls.over.values.items() if times}
        assert counted == {"refused"}


async def test_a_callback_that_sends_elsewhere_will_never_take_it() -> None:
    async def elsewhere(_: Asked) -> Answer:
        return Answer(302, headers={"location": "http://elsewhere/"})

    async with open_network() as network:
        network.serve(app_of(elsewhere), "caller")
        client = WorkerClient(network.client(), "http://worker", TOWN, LiveCredentials(Credentials()))
        with pytest.raises(WorkerError, match="answered 302") as caught:
            await client.call_back("http://caller/done", {})
        assert caught.value.is_refusal


async def failures(client: WorkerClient, calls: int) -> list[WorkerError]:
    """Of so many calls at once that all fail."""
    failed: list[WorkerError] = []

    async def ask() -> None:
        with pytest.raises(WorkerError) as caught:
            await client.report("completed", {}, AGENT)
        failed.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(calls):
            nursery.start_soon(ask)
    return failed


@pytest.mark.parametrize("trouble", ["deaf", "503"])
async def test_calls_that_wait_for_a_refresh_that_fails_fail_with_it(trouble: str) -> None:
    async with open_client() as (client, worker):
        worker.expired = {"t"}
        if trouble == "deaf":
            worker.delays[REFRESH] = float("inf")
        else:
            worker.delays[REFRESH], worker.statuses[REFRESH] = 10, 503
        failed = await failures(client, 5)
        assert [(error.transient, error.status) for error in failed] == [(True, 401)] * 5
        assert (len(worker.asked(REFRESH)), trio.current_time()) == (1, 10)
        worker.delays.clear()
        worker.statuses.clear()
        await client.report("completed", {}, AGENT)
        assert len(worker.asked(REFRESH)) == 2


async def test_a_worker_that_refuses_the_tokens_that_it_gives_is_asked_for_one_ever_more_rarely() -> None:
    """And once it accepts one, the next 401 finds a refresh at once."""
    async with open_client() as (client, worker):
        worker.statuses["POST /completed"] = 401
        for _ in range(600):
            [error] = await failures(client, 1)
            assert error.status == 401
            await trio.sleep(1)
        assert len(worker.asked(REFRESH)) <= 12
        worker.statuses.clear()
        await trio.sleep(300)
        await client.report("completed", {}, AGENT)
        before = len(worker.asked(REFRESH))
        worker.expired = {client._credentials.current.container_token.reveal()}
        await client.report("completed", {}, AGENT)
        assert len(worker.asked(REFRESH)) == before + 1
