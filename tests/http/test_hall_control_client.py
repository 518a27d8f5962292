"""The hall's calls to a container, against an application that answers as one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from quart import request
from quart_trio import QuartTrio

from gastown.contract.agents import AgentState, Condition
from gastown.contract.secret import Secret
from gastown.contract.town import TownConfig
from gastown.hall.cli import arguments
from gastown.hall.cli.mayor import MayorLost, Told, follow, tell
from gastown.hall.cli.turn import Turn
from gastown.hall.control_client import ControlCallFailed, ControlClient, open_control_client
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.server import serving
from tests.http.scripted_container import MOMENT, PUBLIC, STATUS, ScriptedContainer, controlled


@pytest.fixture
def container() -> ScriptedContainer:
    return ScriptedContainer()


@pytest.fixture
async def control(container: ScriptedContainer) -> AsyncIterator[ControlClient]:
    async with controlled(container) as control:
        yield control


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    async with open_hall(HallOptions(data_dir=tmp_path / "oak", town_id="oak")) as hall:
        yield hall


async def test_a_start_brings_the_mayor_context_and_the_town_config(
    container: ScriptedContainer, control: ControlClient, hall: Hall
) -> None:
    container.answers["/agents/start"] = [(201, PUBLIC)]
    agent = await hall.start_mayor(control, "hello")
    assert (agent.session_id, agent.status) == ("ses_1", AgentState.RUNNING)
    [(_, body, config)] = container.asked
    assert (body["role"], body["prompt"], body["organizationId"]) == ("mayor", "hello", None)
    assert body["envVars"]["KILOCODE_TOKEN"] == config["kilocode_token"] == "stand-in"
    assert (config["town_id"], config["gastown_api_url"]) == ("oak", hall.url)


async def test_the_repositories_that_a_hall_is_opened_with_are_the_towns_from_then_on(
    container: ScriptedContainer, control: ControlClient, tmp_path: Path
) -> None:
    container.answers["/agents/start"] = [(201, PUBLIC)]
    told = []
    for given in (("r=https://x.test/r.git", "s=git@x.test:s#trunk"), ("r=https://y.test/r.git",), ()):
        rigs = [arguments._rig(text) for text in given]
        async with open_hall(HallOptions(data_dir=tmp_path, rigs=rigs)) as hall:
            await hall.start_mayor(control, "hello")
            told.append([(rig["gitUrl"], rig["defaultBranch"]) for rig in container.asked[-1][1]["rigs"]])
    second = ("git@x.test:s", "trunk")
    assert told == [[("https://x.test/r.git", "main"), second]] + [[("https://y.test/r.git", "main"), second]] * 2


async def test_every_call_shows_the_token_of_the_control_port(tmp_path: Path) -> None:
    shown: list[str | None] = []
    app = QuartTrio("container")

    @app.route("/<path:_>", methods=["GET", "POST"])
    async def refuse(_: str) -> tuple[dict[str, str], int]:
        shown.append(request.headers.get("Authorization"))
        return {"error": "A token of this container is needed"}, 401

    async with serving(lambda _: app, host="127.0.0.1", port=0, logger=logging.getLogger("test")) as url:
        for token in (Secret("canary"), None):
            async with open_control_client(url, token) as control:
                calls = (
                    control.health,
                    lambda d=control: d.message("a", "hi", TownConfig()),
                    lambda d=control: d.events("a"),
                )
                for call in calls:
                    with pytest.raises(ControlCallFailed) as caught:
                        await call()
                    assert (caught.value.status, "canary" in f"{caught.value!r}{control!r}") == (401, False)
    assert shown == ["Bearer canary"] * 3 + [None] * 3


async def test_a_refusal_carries_its_status_body_and_phase(
    container: ScriptedContainer, control: ControlClient
) -> None:
    container.answers["/agents/a/message"] = [(500, {"error": "the turn failed", "phase": "initial_prompt"})]
    with pytest.raises(ControlCallFailed) as caught:
        await control.message("a", "hi", TownConfig())
    assert (caught.value.status, caught.value.body["phase"]) == (500, "initial_prompt")
    assert str(caught.value) == "POST /agents/a/message: the turn failed (HTTP 500, phase initial_prompt)"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff", b"[" * 100_000, b""])
async def test_an_answer_that_is_not_of_the_contract_is_a_dispatch_error(
    container: ScriptedContainer, control: ControlClient, body: bytes
) -> None:
    container.answers["/health"] = [(200, body), (502, body)]
    for status in (200, 502):
        with pytest.raises(ControlCallFailed) as caught:
            await control.health()
        assert caught.value.status == status


@pytest.mark.parametrize("status", [200, 502])
async def test_an_answer_is_not_read_beyond_its_bound(
    container: ScriptedContainer, control: ControlClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Agents work in a container, and one may answer for it: an endless answer would fill the hall's memory."""
    monkeypatch.setattr("gastown.hall.control_client._MOST_BYTES", 1000)
    container.answers["/health"] = [(status, b'{"error": "' + b"x" * 5000 + b'"}')]
    with pytest.raises(ControlCallFailed, match="the answer has more than 1000 bytes") as caught:
        await control.health()
    assert caught.value.status == status


async def test_nobody_at_the_address_is_a_dispatch_error_without_a_status() -> None:
    async with open_control_client("http://127.0.0.1:9") as control:
        with pytest.raises(ControlCallFailed) as caught:
            await control.health()
    assert caught.value.status is None


async def test_a_call_is_aborted_at_its_deadline(
    container: ScriptedContainer, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gastown.hall.control_client.REFRESH_SECONDS", 0.05)
    container.answers["/refresh-token"] = [(200, None)]
    with pytest.raises(ControlCallFailed, match=r"no answer within 0\.05 s"):
        await control.refresh_token("token", "oak")


async def test_a_refresh_says_how_each_agent_fared(container: ScriptedContainer, control: ControlClient) -> None:
    result = {"agentId": "a", "success": True, "durationMs": 3}
    answer = {"refreshed": True, "agentsRestarted": 1, "agentsFailed": 0, "results": [result]}
    container.answers["/refresh-token"] = [(200, answer)]
    refreshed = await control.refresh_token("token", "oak")
    assert refreshed.results[0].agent_id == "a"
    assert container.asked[0][1] == {"token": "token", "townId": "oak"}


async def test_a_proxy_of_the_environment_is_not_used(
    container: ScriptedContainer, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container is on this machine, and reached directly."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    container.answers["/agents/mayor-1/status"] = [(200, STATUS)]
    async with open_control_client(str(control._client.base_url)) as fresh:
        assert await fresh.status("mayor-1") is not None


async def test_a_failed_question_for_a_status_is_an_error(
    container: ScriptedContainer, control: ControlClient
) -> None:
    """Only a 404 says that the container does not know the agent."""
    container.answers["/agents/mayor-1/status"] = [(500, {"error": "broken"})]
    with pytest.raises(ControlCallFailed, match="broken"):
        await control.status("mayor-1")


async def test_an_unknown_agent_has_no_status(control: ControlClient) -> None:
    assert await control.status("mayor-1") is None


async def test_a_configuration_comes_as_it_is_with_a_message(
    container: ScriptedContainer, control: ControlClient
) -> None:
    container.answers["/agents/a/message"] = [(200, {"sent": True})]
    await control.message("a", "hi", TownConfig(town_id="oak", git_author_name="Ü\n"))
    assert container.asked[0][2]["git_author_name"] == "Ü\n"


async def test_a_running_mayor_is_told_by_a_message(
    container: ScriptedContainer, control: ControlClient, hall: Hall
) -> None:
    event = {"id": 41, "event": "x", "data": {}, "timestamp": MOMENT}
    container.answers = {
        "/agents/mayor-1/status": [(200, STATUS | {"status": "starting"}), (200, STATUS)],
        "/agents/mayor-1/events": [(200, {"events": [event]})],
        "/agents/mayor-1/message": [(200, {"sent": True})],
    }
    told = await tell(hall, control, "mayor-1", "hello")
    assert (told.by, told.session_id, told.after) == ("message", "ses_1", 41)
    assert container.paths().count("GET /agents/mayor-1/status") == 2


async def test_a_mayor_that_ends_under_the_message_is_started(
    container: ScriptedContainer, control: ControlClient, hall: Hall
) -> None:
    container.answers = {
        "/agents/mayor-1/status": [(200, STATUS), (200, STATUS | {"status": "exited"})],
        "/agents/mayor-1/events": [(200, {"events": []})],
        "/agents/mayor-1/message": [(409, {"error": "Agent mayor-1 is exited", "status": "exited"})],
        "/agents/start": [(201, PUBLIC)],
    }
    assert (await tell(hall, control, "mayor-1", "hello")).by == "start"


async def test_an_unknown_mayor_is_started(
    container: ScriptedContainer, control: ControlClient, hall: Hall
) -> None:
    container.answers = {
        "/agents/mayor-1/events": [(200, {"events": []})],
        "/agents/start": [(201, PUBLIC)],
    }
    told = await tell(hall, control, "mayor-1", "hello")
    assert (told.by, told.session_id, told.after) == ("start", "ses_1", 0)


def said(number: int, event: str, **data: Any) -> dict[str, Any]:
    return {"agentId": "mayor-1", "id": number, "event": event, "data": {"sessionID": "ses_1"} | data,
            "timestamp": MOMENT}  # fmt: skip


async def followed(control: ControlClient, notes: list[Condition] | None = None) -> Turn:
    told = Told(
        by="start", session_id="ses_1", after=7, told_at=datetime.fromisoformat(MOMENT),
        waited_from=0, sent_at=0, accepted_at=0,
    )  # fmt: skip
    with trio.fail_after(20):
        return await follow(control, "mayor-1", told, lambda _: None, (notes if notes is not None else []).append)


DELTA = {"partID": "p", "field": "text"}
TICKET = {"ticket": "once", "expiresAt": MOMENT}


async def test_a_turn_is_followed_on_the_stream_without_asking_again(
    container: ScriptedContainer, control: ControlClient
) -> None:
    """One ticket and one websocket, however long the turn takes; messages about the connection are left out."""
    container.answers["/agents/mayor-1/stream-ticket"] = [(200, TICKET)]
    container.streams = [
        [
            said(8, "message.part.delta", delta="Good ", **DELTA),
            {"agentId": None, "id": None, "event": "stream.error", "data": {}, "timestamp": MOMENT},
            said(9, "message.part.delta", delta="morning.", **DELTA),
            said(10, "session.turn.close", reason="completed"),
        ]
    ]
    turn = await followed(control)
    assert (turn.text, turn.answered) == ("Good morning.", True)
    assert (container.paths(), container.opened) == (
        ["POST /agents/mayor-1/stream-ticket"], [{"after": "7", "ticket": "once"}],
    )  # fmt: skip


async def test_a_stream_that_ends_is_opened_again_where_it_ended(
    container: ScriptedContainer, control: ControlClient
) -> None:
    """No event is lost or read twice."""
    container.answers = {
        "/agents/mayor-1/stream-ticket": [(200, TICKET)],
        "/agents/mayor-1/status": [(200, STATUS)],
    }
    container.streams = [
        [said(8, "message.part.delta", delta="Good ", **DELTA)],
        [said(9, "message.part.delta", delta="day.", **DELTA), said(10, "session.turn.close", reason="completed")],
    ]
    assert (await followed(control)).text == "Good day."
    assert [query["after"] for query in container.opened] == ["7", "8"]


async def test_a_mayor_that_has_ended_is_told_of(container: ScriptedContainer, control: ControlClient) -> None:
    """The stream ends, and the status says why."""
    gone = STATUS | {"status": "exited", "exitReason": "stopped"}
    container.answers = {
        "/agents/mayor-1/stream-ticket": [(200, TICKET)],
        "/agents/mayor-1/status": [(200, gone)],
    }
    container.streams = [[], []]
    with pytest.raises(MayorLost, match="stopped"):
        await followed(control)


async def test_a_silent_mayor_is_asked_for_the_reason(
    container: ScriptedContainer, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds it up is said once; it goes on when the turn does."""
    monkeypatch.setattr("gastown.hall.cli.mayor._SILENCE_SECONDS", 0.05)
    held = STATUS | {"condition": {"type": "retry", "reason": "no credit"}}
    container.answers = {
        "/agents/mayor-1/stream-ticket": [(200, TICKET)],
        "/agents/mayor-1/status": [(200, held)] * 3 + [(200, STATUS | {"status": "failed"})],
    }
    container.streams = [[]]
    notes: list[Condition] = []
    with pytest.RaisesGroup(MayorLost, flatten_subgroups=True):
        await followed(control, notes)
    assert [(note.type, note.reason) for note in notes] == [("retry", "no credit")]
