"""What `gastown up` says and shows from a started container to the end of the first turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.hall.cli import first_turn as module
from gastown.hall.cli.boot import DEFAULT_MESSAGE, Boot, UpFailed, UpOptions
from gastown.hall.cli.first_turn import first_turn
from gastown.hall.cli.rigs import watch_rigs
from gastown.hall.cli.screen import Screen
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from tests.http.scripted_container import MOMENT, PUBLIC, STATUS, ScriptedContainer, controlled

GATEWAY = "http://gateway.test"
HEALTH = {
    "status": "ok",
    "agents": 0,
    "servers": 0,
    "uptime": 1,
    "startedAt": MOMENT,
    "hydration": {"state": "complete", "gate": "open"},
}


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    rigs = [RigRecord(rig_id=name, git_url=f"https://x.test/{name}", default_branch="main") for name in ("a", "b")]
    options = HallOptions(data_dir=tmp_path, kilocode_token=Secret("real"), rigs=rigs)
    async with open_hall(options) as hall:
        yield hall


@pytest.fixture
async def mayor(hall: Hall) -> str:
    mayor = (await hall.town()).mayor_agent_id
    assert mayor is not None
    return mayor


@pytest.fixture
def container(mayor: str) -> ScriptedContainer:
    agent = f"/agents/{mayor}"
    return ScriptedContainer(
        {
            "/health": [(200, HEALTH)],
            f"{agent}/events": [(200, {"events": []})],
            "/agents/start": [(201, PUBLIC | {"agentId": mayor})],
            f"{agent}/message": [(200, {"sent": True})],
            f"{agent}/stream-ticket": [(200, {"ticket": "once", "expiresAt": MOMENT})],
        }
    )


def running(container: ScriptedContainer, mayor: str, **changes: Any) -> None:
    container.answers[f"/agents/{mayor}/status"] = [(200, STATUS | {"agentId": mayor} | changes)]


def said(event: str, **data: Any) -> dict[str, Any]:
    return {"id": 8, "event": event, "data": {"sessionID": "ses_1"} | data, "timestamp": MOMENT}


CLOSED = said("session.turn.close", reason="completed")
REFUSED = said(
    "session.error", error={"name": "APIError", "data": {"message": "User not found", "statusCode": 401}}
)


@asynccontextmanager
async def booting(
    hall: Hall, container: ScriptedContainer, **options: Any
) -> AsyncIterator[tuple[Boot, StringIO]]:
    out = StringIO()
    told = UpOptions(hall=HallOptions(data_dir=Path("/unused")), environment={"KILO_API_URL": GATEWAY}, **options)
    async with controlled(container) as control:
        yield Boot(told, Screen(out), hall, control, trio.current_time(), datetime.now(UTC)), out


def prompts(container: ScriptedContainer) -> list[str]:
    return [
        body["prompt"]
        for path, body, _ in container.asked
        if path == "POST /agents/start" or path.endswith("/message")
    ]


async def test_a_new_town_is_greeted(hall: Hall, container: ScriptedContainer) -> None:
    container.streams = [[CLOSED]]
    async with booting(hall, container) as (boot, _):
        assert await first_turn(boot) is not None
    assert prompts(container) == [DEFAULT_MESSAGE]


async def test_a_resumed_town_is_told_nothing_unless_there_is_a_message(
    hall: Hall, container: ScriptedContainer, mayor: str, tmp_path: Path
) -> None:
    """A greeting is a paid turn. The report is written all the same."""
    await hall.remember_session("ses_1")
    running(container, mayor)
    async with booting(hall, container, report=tmp_path / "report.json") as (boot, out):
        assert await first_turn(boot) is None
    assert prompts(container) == []
    assert "ses_1 (resumed" in out.getvalue()
    assert '"toldBy": null' in await trio.Path(tmp_path / "report.json").read_text()
    container.streams = [[said("message.updated", info={"role": "user", "time": {"created": 4e12}}), CLOSED]]
    async with booting(hall, container, message="And now?") as (boot, _):
        assert await first_turn(boot) is not None
    assert prompts(container) == ["And now?"]


async def test_a_town_that_never_got_an_answer_is_greeted_again(hall: Hall, container: ScriptedContainer) -> None:
    for _ in range(2):
        container.streams = [[REFUSED, said("session.turn.close", reason="error")]]
        async with booting(hall, container) as (boot, _):
            await first_turn(boot)
    assert prompts(container) == [DEFAULT_MESSAGE] * 2


async def test_a_gateway_that_refuses_is_told_with_the_tokens_name_its_address_and_the_status(
    hall: Hall, container: ScriptedContainer
) -> None:
    container.streams = [[REFUSED, said("session.turn.close", reason="error")]]
    async with booting(hall, container) as (boot, out):
        await first_turn(boot)
    assert (
        f"did not complete: the gateway {GATEWAY} refuses KILOCODE_TOKEN (HTTP 401): APIError: User not found"
        in out.getvalue()
    )


async def test_a_gateway_that_sends_no_words_has_not_answered(hall: Hall, container: ScriptedContainer) -> None:
    """A captive portal or a wrong address answers 200 with a page, and kilo calls the turn completed."""
    container.streams = [[CLOSED]]
    async with booting(hall, container) as (boot, out):
        turn = await first_turn(boot)
    assert turn is not None
    assert not turn.answered
    assert f"did not complete: the gateway {GATEWAY} sent no words" in out.getvalue()
    assert (await hall.town()).mayor_session_id is None  # the next `up` greets again


async def test_a_gateway_that_refuses_before_the_start_has_answered_is_told_in_the_same_words(
    hall: Hall, container: ScriptedContainer
) -> None:
    refused = {"error": "The first prompt failed: User not found", "phase": "initial_prompt", "status": 401}
    container.answers["/agents/start"] = [(500, refused)]
    async with booting(hall, container) as (boot, _):
        with pytest.raises(
            UpFailed, match=rf"the gateway {GATEWAY} refuses KILOCODE_TOKEN \(HTTP 401\): .*User not"
        ):
            await first_turn(boot)
    assert (await hall.town()).mayor_session_id is None


@pytest.mark.parametrize("kind", ["offline", "retrying", "waiting", "idle"])
async def test_an_answer_that_cannot_come_is_not_waited_for(
    hall: Hall, container: ScriptedContainer, mayor: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With --exit-after-first-answer; kilo says again and again that it is offline."""
    monkeypatch.setattr(module, "_HELD_UP_SECONDS", 0.3)
    monkeypatch.setattr("gastown.hall.cli.mayor._SILENCE_SECONDS", 0.1)
    running(container, mayor, condition={"type": kind, "reason": "cannot connect"})
    container.answers[f"/agents/{mayor}/status"].insert(0, (404, {}))
    container.streams = [[said("session.status", status={"type": "offline"})] * 3]
    async with booting(hall, container, exit_after_first_answer=True) as (boot, out):
        with trio.fail_after(20), pytest.raises(UpFailed, match=f"is {kind}: cannot connect"):
            await first_turn(boot)
    assert (GATEWAY in out.getvalue()) is (kind in ("offline", "retrying"))


async def test_what_is_wrong_with_a_repository_is_on_the_screen_once(
    hall: Hall, container: ScriptedContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gastown.hall.cli.rigs._LOOK_SECONDS", 0.01)
    working = {"rigId": "a", "state": "working", "doing": "clone"}
    failed = {"rigId": "a", "state": "failed", "error": "fetch: the remote has no branch main"}
    ready = {"rigId": "b", "state": "ready", "browse": "/w/b", "notice": "HEAD is used"}
    rigs = [None, [working], [failed], [failed, {"rigId": "b", "state": "ready"}], [failed, ready]]
    container.answers["/health"] = [(200, HEALTH | {"rigs": one}) for one in rigs]
    async with booting(hall, container) as (boot, out):
        with trio.fail_after(20):
            await watch_rigs(boot, trio.Event())
    assert out.getvalue() == "rig a cannot be used: fetch: the remote has no branch main\nrig b: HEAD is used\n"
