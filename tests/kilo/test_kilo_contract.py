"""What the town relies on in a kilo server: the fake does it, and so does the real one.

The real one runs once for the whole module, with a gateway on loopback; real time.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx2
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from gastown.agents.launch.environment import BrokerEndpoint, ChildDefaults, derive
from gastown.agents.session.usage import UsageMeter
from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
from gastown.kilo.client import Endpoint, KiloClient, http_client
from gastown.kilo.errors import KiloRefused
from gastown.kilo.server import launch
from gastown.kilo.spec import ServerSpec
from gastown.kilo.terminal import KiloTerminals
from gastown.testing.kilo import Script
from gastown.testing.kilo.gateway import ACTS, MODELS, REFUSES, SLOW, STEADY, TALKS, gateway
from gastown.testing.launchers import FakeLauncher
from gastown.testing.network import open_network
from gastown.testing.town import start_request
from gastown.worker.tokens import Credentials
from tests.kilo.talk import Talk

KILO = Path(__file__).parents[2] / ".tools" / "kilo" / "bin" / "kilo"
LONGEST_SECONDS = 60.0
_numbers = count()

# What the fake does for each of the gateway's models.
SCRIPTS = {
    TALKS: Script(0.01, 0.01, 0.02, 0.03),
    STEADY: Script(0.01, 0.01, 0.02, 0.5),
    SLOW: Script(0.01, 0.01, 0.02, 3600),
    REFUSES: Script(0.01, 0.01, 0.02, status=401),
    "offline": Script(0.01, 0.01, 0.02, offline=True),
}


def spec_for(folder: Path, gateway_url: str) -> ServerSpec:
    """A server that knows all models of the gateway."""
    request = StartAgentRequest.model_validate(start_request("pole-1", model=TALKS, smallModel=TALKS))
    defaults = ChildDefaults(
        kilo_bin=str(KILO),
        home_root=str(folder),
        base_env={"PATH": os.environ["PATH"], "HOME": str(folder), "KILO_API_URL": gateway_url},
        parent_pid=os.getpid(),
    )
    workdir = folder / "work"
    workdir.mkdir()
    spec = derive(
        request,
        str(workdir),
        Credentials(),
        defaults,
        endpoint=BrokerEndpoint(gateway_url, Secret("bearer")),
    )
    config = json.loads(spec.env["KILO_CONFIG_CONTENT"])
    config["provider"]["kilo"]["models"] = {name: {} for name in MODELS}
    content = json.dumps(config)
    return replace(spec, env={**spec.env, "KILO_CONFIG_CONTENT": content, "OPENCODE_CONFIG_CONTENT": content})


@pytest.fixture(scope="module")
def real_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The endpoint of a real kilo. pytest-trio's own fixtures live no longer than a test, so it has a thread."""
    up, leave, address = Event(), trio.Event(), []

    async def host() -> None:
        config = Config()
        config.bind, config.errorlog = ["127.0.0.1:0"], None
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve, gateway(), config, shutdown_trigger=leave.wait))
            async with launch(spec_for(tmp_path_factory.mktemp("kilo"), url)) as server:
                address.extend([server.endpoint, trio.lowlevel.current_trio_token()])
                up.set()
                await leave.wait()

    thread = Thread(target=trio.run, args=(host,), name="kilo")
    thread.start()
    try:
        assert up.wait(LONGEST_SECONDS)
        yield address[0]
    finally:
        if address:
            address[1].run_sync_soon(leave.set)
        thread.join()


@asynccontextmanager
async def talking(
    endpoint: Endpoint, http: httpx2.AsyncClient, directory: str, choose: Any
) -> AsyncIterator[Talk]:
    query = Talk(http, KiloClient(http, endpoint), directory, choose)
    with trio.fail_after(LONGEST_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(query.follow)
            yield query
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_fake(folder: Path) -> AsyncIterator[Talk]:
    async with open_network() as network:
        launcher = FakeLauncher(network, 0.01, script=Script(0.01))
        async with launcher(spec_for(folder, "http://gateway.test")) as server:

            def choose(model: str) -> None:
                server.kilo.script = SCRIPTS.get(model, server.kilo.script)

            async with talking(server.endpoint, network.client(), str(folder), choose) as query:
                yield query


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kilo)])
async def kilo(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Talk]:
    if request.param == "fake":
        async with open_fake(tmp_path) as query:
            yield query
        return
    endpoint = request.getfixturevalue("real_endpoint")
    async with (
        http_client() as client,
        talking(endpoint, client, str(tmp_path), lambda _: None) as query,
    ):
        yield query


async def test_a_server_is_healthy_and_knows_its_tools_and_models(kilo: Talk) -> None:
    assert (await kilo.rest._client.call("GET", "/global/health"))["healthy"]
    assert {"bash", "read", "edit", "write"} <= await kilo.rest.tool_ids(kilo.directory)
    assert [await kilo.rest.knows_model(kilo.directory, name) for name in (TALKS, "test/nope")] == [True, False]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/global/health"),
        ("GET", "/global/event"),
        ("GET", "/experimental/tool/ids"),
        ("GET", "/session"),
        ("POST", "/session"),
        ("GET", "/pty"),
        ("GET", "/pty/pty_1/connect"),
        ("GET", "/nowhere"),
    ],
)
@pytest.mark.parametrize("shown", [None, ("kilo", ""), ("kilo", "gts.wrong"), ("opencode", ...), ("", ...)])
async def test_who_does_not_show_the_servers_password_is_answered_with_an_empty_401(
    kilo: Talk, method: str, path: str, shown: Any
) -> None:
    endpoint = kilo.client.endpoint
    user, password = shown or (None, None)
    auth = None if shown is None else (user, endpoint.password.reveal() if password is ... else password)
    answer = await kilo.http.request(method, endpoint.url + path, auth=auth)
    assert (answer.status_code, answer.content, "www-authenticate" in answer.headers) == (401, b"", True)


async def test_the_password_opens_no_door_as_a_bearer_and_a_websocket_none_without_it(kilo: Talk) -> None:
    endpoint = kilo.client.endpoint
    bearer = {"authorization": f"Bearer {endpoint.password.reveal()}"}
    assert (await kilo.http.get(f"{endpoint.url}/global/health", headers=bearer)).status_code == 401
    stranger = KiloClient(kilo.http, replace(endpoint, password=Secret("gts.wrong")))
    where = {"directory": kilo.directory}
    with pytest.raises(KiloRefused) as refused:
        async with stranger.websocket("/pty/pty_1/connect", where, most_message_bytes=1000):
            pass
    assert refused.value.status == 401
    with pytest.raises(KiloRefused) as unknown:
        async with KiloTerminals(kilo.client, kilo.directory).connect("pty_1", None):
            pass
    assert unknown.value.status == 404


async def test_the_sessions_of_a_directory_are_listed_the_newest_first(kilo: Talk, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first, second = await kilo.session(), await kilo.session()
    await kilo.rest.create_session(str(elsewhere), "not here")
    await kilo.prompt(first, TALKS)
    await kilo.until(first, "session.turn.close")
    listed = await kilo.rest.sessions(kilo.directory)
    assert [(s.id, s.directory) for s in listed] == [(first, kilo.directory), (second, kilo.directory)]


MILESTONES = {
    "session.turn.open",
    "session.status",
    "session.error",
    "session.idle",
    "session.turn.close",
    "message.part.delta",
}


def milestones(said: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The kinds that matter, in their order; what is repeated at once counts once."""
    seen: list[str] = []
    for kind, properties in said:
        name = f"{kind} {properties['status']['type']}" if kind == "session.status" else kind
        name += f" {properties['reason']}" if kind == "session.turn.close" else ""
        if kind in MILESTONES and (not seen or seen[-1] != name):
            seen.append(name)
    return seen


async def last_message(kilo: Talk, session: str) -> dict[str, Any]:
    return (await kilo.rest.messages(session, newest=1))[-1].info.given()


async def test_a_turn_opens_speaks_and_closes_in_this_order(kilo: Talk) -> None:
    session = await kilo.session()
    await kilo.prompt(session, TALKS)
    await kilo.until(session, "session.turn.close")
    assert milestones(kilo.said(session)) == [
        "session.turn.open",
        "session.status busy",
        "message.part.delta",
        "session.status busy",
        "session.status idle",
        "session.idle",
        "session.turn.close completed",
    ]
    assert "completed" in (await last_message(kilo, session))["time"]
    assert (await kilo.rest.status(session, kilo.directory)).is_idle


async def test_a_completed_message_tells_what_it_used(kilo: Talk) -> None:
    session, meter = await kilo.session(), UsageMeter()
    await kilo.prompt(session, TALKS)
    await kilo.until(session, "session.turn.close")
    infos = [properties["info"] for kind, properties in kilo.said(session) if kind == "message.updated"]
    told = [used for info in infos if (used := meter.take(session, info)) is not None]
    assert [(used.input > 0, used.output > 0) for used in told] == [(True, True)]


async def test_the_stream_begins_with_a_greeting_and_repeats_messages_as_sync(kilo: Talk) -> None:
    session = await kilo.session()
    await kilo.prompt(session, TALKS)
    await kilo.until(session, "session.turn.close")
    kinds = [frame["payload"]["type"] for frame in kilo.frames]
    again = [f["payload"]["syncEvent"]["type"] for f in kilo.frames if f["payload"]["type"] == "sync"]
    assert (kinds[0], kinds.count("server.connected")) == ("server.connected", 1)
    assert {"message.updated.1", "message.part.updated.1"} <= set(again)
    mine = [f for f in kilo.frames if f["payload"].get("properties", {}).get("sessionID") == session]
    assert {frame["directory"] for frame in mine} == {kilo.directory}


async def test_what_cannot_be_asked_is_refused_at_once(kilo: Talk) -> None:
    session = await kilo.session()
    with pytest.raises(KiloRefused) as unknown:
        await kilo.prompt("ses_nope", TALKS)
    with pytest.raises(KiloRefused) as bad:
        await kilo.client.call("POST", f"/session/{session}/prompt_async", {"parts": "text"})
    assert (unknown.value.status, unknown.value.name) == (404, "NotFoundError")
    assert (bad.value.status, bad.value.name) == (400, "BadRequest")


async def test_a_gateway_that_refuses_is_an_error_with_its_status_and_closes_the_turn(kilo: Talk) -> None:
    session = await kilo.session()
    await kilo.prompt(session, REFUSES)
    error = (await kilo.until(session, "session.error"))["error"]
    assert (error["name"], error["data"]["statusCode"]) == ("APIError", 401)
    assert (await kilo.until(session, "session.turn.close"))["reason"] == "error"


async def test_an_unknown_model_is_accepted_and_then_an_error(kilo: Talk) -> None:
    session = await kilo.session()
    await kilo.prompt(session, "test/nope")
    error = (await kilo.until(session, "session.error"))["error"]
    assert (error["name"], "Model not found: kilo/test/nope" in error["data"]["message"]) == ("UnknownError", True)
    assert (await kilo.until(session, "session.turn.close"))["reason"] == "error"


async def test_an_aborted_turn_closes_as_interrupted_and_can_be_resumed(kilo: Talk) -> None:
    session = await kilo.session()
    await kilo.prompt(session, SLOW)
    await kilo.until(session, "message.part.delta")
    assert (await kilo.rest.status(session, kilo.directory)).type == "busy"
    running = await last_message(kilo, session)
    await kilo.rest.abort(session)
    assert (await kilo.until(session, "session.turn.close"))["reason"] == "interrupted"
    aborted = await last_message(kilo, session)
    assert ("completed" in running["time"], aborted["id"]) == (False, running["id"])
    assert aborted["error"]["name"] == "MessageAbortedError"
    assert await kilo.rest.resume_interrupted(session, model=SLOW)
    await kilo.until(session, "session.turn.open", times=2)
    await kilo.rest.abort(session)


async def test_a_prompt_that_lost_its_turn_is_taken_up_and_stored_once(kilo: Talk) -> None:
    session = await kilo.session()
    await kilo.prompt(session, SLOW)
    await kilo.until(session, "message.part.delta")
    await kilo.rest.prompt(session, "and then?", model=TALKS)
    await kilo.until(session, "session.queue.changed")
    await kilo.rest.abort(session)
    await kilo.until(session, "session.turn.close")
    kilo.choose(TALKS)
    assert await kilo.rest.resume_interrupted(session, model=TALKS)
    assert (await kilo.until(session, "session.turn.close", times=2))["reason"] == "completed"
    said = await kilo.client.call("GET", f"/session/{session}/message")
    assert [message["info"]["role"] for message in said] == ["user", "assistant"] * 2
    assert not await kilo.rest.resume_interrupted(session, model=TALKS)


@pytest.mark.parametrize("which", ["fake", pytest.param("real", marks=pytest.mark.kilo)])
async def test_an_offline_session_waits_until_it_is_told_to_try_again(which: str, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    async with AsyncExitStack() as stack:
        if which == "fake":
            query = await stack.enter_async_context(open_fake(tmp_path))
            query.choose("offline")
            query.choose = lambda _: None
        else:
            server = await stack.enter_async_context(launch(spec_for(tmp_path, nobody)))
            client = await stack.enter_async_context(http_client())
            query = await stack.enter_async_context(
                talking(server.endpoint, client, str(tmp_path), lambda _: None)
            )
        session = await query.session()
        await query.prompt(session, TALKS)
        asked = await query.until(session, "session.network.asked")
        status = await query.rest.status(session, query.directory)
        assert (status.type, status.request_id) == ("offline", asked["id"])
        await query.rest.retry_network(asked["id"], query.directory)
        again = await query.until(session, "session.network.asked", times=2)
        assert again["id"] != asked["id"]
        await query.rest.abort(session)


async def test_aborting_what_does_nothing_is_fine(kilo: Talk) -> None:
    await kilo.rest.abort(await kilo.session())
    await kilo.rest.abort("ses_nope")


async def test_a_prompt_to_a_busy_session_waits_and_supersedes_the_turn(kilo: Talk) -> None:
    session = await kilo.session()
    await kilo.prompt(session, STEADY)
    await kilo.until(session, "message.part.delta")
    await kilo.rest.prompt(session, "and then?", model=TALKS)
    queued = (await kilo.until(session, "session.queue.changed"))["queued"]
    assert (await kilo.until(session, "session.turn.close"))["reason"] == "superseded"
    await kilo.until(session, "session.turn.open", times=2)
    assert (await kilo.until(session, "session.turn.close", times=2))["reason"] == "completed"
    assert len(queued) == 1


async def test_a_prompt_without_a_model_takes_the_last_ones_and_not_the_sessions(kilo: Talk) -> None:
    """Hence every prompt of ours names its model: setting it for the session is not enough (kilo 7.7.7)."""
    session = await kilo.session()
    await kilo.prompt(session, TALKS)
    await kilo.until(session, "session.turn.close")
    await kilo.rest.set_model(session, SLOW)
    await kilo.rest.prompt(session, "again")
    await kilo.until(session, "session.turn.close", times=2)
    users = [
        p["info"]
        for kind, p in kilo.said(session)
        if kind == "message.updated" and p["info"]["role"] == "assistant"
    ]
    assert {info["modelID"] for info in users} == {TALKS}


@pytest.mark.kilo
async def test_a_permission_is_asked_for_and_answered_under_one_id(
    real_endpoint: Endpoint, tmp_path: Path
) -> None:
    """What `Progress` takes for a condition: the fake only ever says these two events as it is told to."""
    async with (
        http_client() as client,
        talking(real_endpoint, client, str(tmp_path), lambda _: None) as query,
    ):
        ask = [{"permission": "bash", "pattern": "*", "action": "ask"}]
        made = await query.client.call("POST", "/session", {"permission": ask}, {"directory": query.directory})
        session = made["id"]
        await query.prompt(session, ACTS)
        asked = await query.until(session, "permission.asked")
        assert (await query.rest.status(session, query.directory)).type == "busy"
        where = {"directory": query.directory}
        await query.client.call("POST", f"/permission/{asked['id']}/reply", {"reply": "once"}, where)
        replied = await query.until(session, "permission.replied")
        assert replied["requestID"] == asked["id"]
        assert (await query.until(session, "session.turn.close"))["reason"] == "completed"
