"""What becomes of a running agent that gets on badly: told in its condition, and helped where it can be."""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio

from gastown.agents.lifecycle import watchdog
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher

pytestmark = pytest.mark.virtual_time

LIGHT = {"role": "triage", "gitUrl": "", "branch": "", "defaultBranch": ""}
LONG = partial(FakeLauncher, script=Script(turn_seconds=3000))


async def test_a_turn_that_ended_while_nobody_listened_is_known_to_have_ended(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=20))) as town:
        await town.start("pole-1")
        port = town.kilo.server("pole-1").port
        town.network.unplug("127.0.0.1", port)
        await trio.sleep(25)
        town.network.plug("127.0.0.1", port)
        await trio.sleep(10)
        closes = [e["data"]["reason"] for e in await town.events("pole-1") if e["event"] == "session.turn.close"]
        assert (await town.condition("pole-1"), closes) == ("idle", ["completed"])


async def test_messages_that_were_missed_come_after_the_reconnection(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=20))) as town:
        await town.start("pole-1")
        server = town.kilo.server("pole-1")
        town.network.unplug("127.0.0.1", server.port)
        await trio.sleep(19)
        town.network.plug("127.0.0.1", server.port)
        await trio.sleep(10)
        stored = server.kilo.home.sessions[server.kilo.prompts[0]["session"]].messages
        heard = [e["data"]["info"] for e in await town.events("pole-1") if e["event"] == "message.updated"]
        assert [info["id"] for info in heard if "completed" in info["time"]][-1] == stored[-1]["id"]


async def test_an_end_of_turn_that_never_came_is_found_by_asking(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=8))) as town:
        await town.start("pole-1")
        town.kilo.server("pole-1").kilo.silent = True
        await trio.sleep(25)
        assert await town.condition("pole-1") == "idle"


async def test_a_silent_agent_is_stalled_and_left_alone(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG, gastown_stalled_seconds=60) as town:
        await town.start("pole-1")
        await trio.sleep(50)
        assert await town.condition("pole-1") == "busy"
        await trio.sleep(20)
        condition = (await town.status("pole-1"))["condition"]
        assert (condition["type"], condition["ageMs"] > 60_000) == ("stalled", True)
        assert "the server answers" in condition["reason"]
        await trio.sleep(1000)
        assert len(town.kilo.spawns) == 1


async def test_a_wedged_server_is_replaced_at_once_and_the_session_goes_on(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        old = town.kilo.server("pole-1")
        session = (await town.status("pole-1"))["sessionId"]
        old.kilo.script = Script(hangs=frozenset({"GET /session/status"}))
        await trio.sleep(20)
        assert await town.condition("pole-1") == "wedged"
        await trio.sleep(45)
        after = await town.status("pole-1")
        assert (after["status"], after["sessionId"], after["condition"]["type"]) == ("running", session, "busy")
        assert after["serverPort"] != old.port
        assert old.ended.is_set()


async def test_a_server_that_is_slow_to_answer_once_is_not_replaced(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        kilo.script = Script(hangs=frozenset({"GET /session/status"}))
        await trio.sleep(22)
        kilo.script = Script()
        await trio.sleep(100)
        assert (await town.condition("pole-1"), len(town.kilo.spawns)) == ("busy", 1)


async def test_a_server_that_answers_a_probe_with_an_error_is_not_wedged(town_on_fakes) -> None:
    """A 500 is an answer: the server is not replaced, and the condition is that of its turn."""
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        town.kilo.server("pole-1").kilo.script = Script(broken=frozenset({"GET /session/status"}))
        await trio.sleep(100)
        assert (await town.condition("pole-1"), len(town.kilo.spawns)) == ("busy", 1)


async def test_a_probe_of_the_server_before_says_nothing_about_its_successor(town_on_fakes) -> None:
    """A probe that was sent to the old server, and was not answered, does not make the new one wedged."""
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(9)
        old = town.kilo.server("pole-1")
        old.kilo.script = Script(hangs=frozenset({"GET /session/status"}))
        header = {"X-Town-Config": json.dumps({"git_author_name": "Ada"})}
        assert (await town.client.post("/sync-config", headers=header)).status_code == 200
        await trio.sleep(2)
        assert any(asked.path == "/session/status" for asked in old.kilo.asked)
        assert not old.ended.is_set()
        await trio.sleep(5)
        assert old.ended.is_set()
        assert await town.condition("pole-1") == "idle"


async def test_an_offline_session_is_told_to_try_again_with_growing_pauses(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(offline=True))) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        await trio.sleep(600)
        told = [asked for asked in kilo.asked if asked.path.startswith("/network/")]
        assert 10 <= len(told) <= 30
        assert await town.condition("pole-1") == "offline"
        kilo.script = Script()
        await trio.sleep(70)
        assert await town.condition("pole-1") == "idle"


async def test_an_offline_session_that_could_not_be_told_is_told_again(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(offline=True))) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        [request] = kilo.offline_requests
        kilo.script = Script(offline=True, broken=frozenset({f"POST /network/{request}/reply"}))
        await trio.sleep(10)
        assert len(town.logged("offline.not_retried")) >= 1
        kilo.script = Script()
        await trio.sleep(70)
        assert await town.condition("pole-1") == "idle"


@pytest.mark.parametrize(
    ("asked", "answered", "reason"),
    [
        ("permission.asked", "permission.replied", "The agent asks for a permission"),
        ("question.asked", "question.rejected", "The agent asks for an answer to its question"),
    ],
)
async def test_an_open_question_is_a_condition_until_it_is_answered(
    town_on_fakes, asked: str, answered: str, reason: str
) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        session = kilo.home.sessions[kilo.prompts[0]["session"]]
        kilo.emit(asked, session, id="per_1")
        await trio.sleep(1)
        condition = (await town.status("pole-1"))["condition"]
        assert (condition["type"], condition["reason"], condition["ageMs"]) == ("waiting", reason, 1000)
        kilo.emit(answered, session, requestID="per_1")
        await trio.sleep(1)
        assert await town.condition("pole-1") == "busy"


async def test_a_server_above_its_memory_is_replaced_at_the_end_of_the_turn(town_on_fakes, monkeypatch) -> None:
    monkeypatch.setattr(watchdog, "resident_mb", lambda pid: 900 if pid == 1000 else 500)
    script = partial(FakeLauncher, script=Script(turn_seconds=100))
    async with town_on_fakes(kilo=script, gastown_server_rss_mb=800) as town:
        await town.start("pole-1")
        before = await town.status("pole-1")
        await trio.sleep(90)
        assert len(town.kilo.spawns) == 1
        await trio.sleep(20)
        after = await town.status("pole-1")
        assert len(town.kilo.spawns) == 2
        assert (after["sessionId"], after["status"]) == (before["sessionId"], "running")
        assert after["serverPort"] != before["serverPort"]
        await trio.sleep(60)
        assert len(town.kilo.spawns) == 2


async def test_a_turn_that_opens_while_the_new_server_starts_puts_the_change_off(
    town_on_fakes, monkeypatch
) -> None:
    monkeypatch.setattr(watchdog, "resident_mb", lambda _: 900)
    script = partial(FakeLauncher, script=Script(turn_seconds=10))
    async with town_on_fakes(kilo=script, gastown_server_rss_mb=800) as town:
        await town.start("pole-1")
        old = town.kilo.server("pole-1")
        await trio.sleep(10.5)
        assert len(town.kilo.spawns) == 2
        await town.client.post("/agents/pole-1/message", json={"prompt": "and then?"})
        await trio.sleep(5)
        assert (await town.status("pole-1"))["serverPort"] == old.port
        await trio.sleep(20)
        closes = [e["data"]["reason"] for e in await town.events("pole-1") if e["event"] == "session.turn.close"]
        assert (closes, len(town.kilo.spawns)) == (["completed", "completed"], 3)
        assert (await town.status("pole-1"))["serverPort"] != old.port
