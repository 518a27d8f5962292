"""What a kilo server asks a person for is answered by rule: the fake asks, and waits for ever."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher

pytestmark = pytest.mark.virtual_time

LONG = partial(FakeLauncher, script=Script(turn_seconds=3600))


async def answers(town: Any, agent_id: str = "pole-1") -> list[tuple[str, str]]:
    events = await town.events(agent_id)
    return [(e["data"]["kind"], e["data"]["reply"]) for e in events if e["event"] == "agent.ask_answered"]


@pytest.mark.parametrize(
    ("kind", "more", "route", "reply"),
    [
        ("permission", {"permission": "edit", "patterns": ["AGENTS.md"]}, "reply", "allowed"),
        ("permission", {"permission": "skill", "metadata": {"skillShell": True}}, "reply", "refused"),
        ("permission", {"permission": "bash", "metadata": {"sandboxEscalation": True}}, "reply", "refused"),
        ("question", {"questions": []}, "reject", "refused"),
        ("suggestion", {"actions": []}, "dismiss", "refused"),
    ],
)
async def test_whatever_a_server_asks_for_is_answered_at_once(
    town_on_fakes, kind: str, more: dict[str, Any], route: str, reply: str
) -> None:
    """A permission is given for once, unless kilo takes it from a person alone; all else is refused."""
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        asked = kilo.wait_for(kind, kilo.home.sessions[kilo.prompts[0]["session"]], 1, **more)
        await trio.sleep(1)
        [told] = [one for one in kilo.asked if one.path.startswith(f"/{kind}/")]
        assert (told.path, told.query["directory"]) == (
            f"/{kind}/{asked}/{route}",
            town.opened.town.roster.get("pole-1").workdir,
        )
        if kind == "permission":
            assert told.json() == {"reply": "once" if reply == "allowed" else "reject"}
        assert await answers(town) == [(kind, reply)]
        assert await town.condition("pole-1") == "busy"


async def test_what_was_asked_while_the_stream_was_away_is_answered(town_on_fakes) -> None:
    """kilo repeats nothing on a new stream."""
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        kilo.end_streams()
        kilo.wait_for("permission", kilo.home.sessions[kilo.prompts[0]["session"]], 1, permission="edit")
        await trio.sleep(5)
        assert await answers(town) == [("permission", "allowed")]


async def test_an_answer_that_fails_is_given_again(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        kilo.script.broken = frozenset({"POST /permission/per_1/reply"})
        kilo.wait_for("permission", kilo.home.sessions[kilo.prompts[0]["session"]], 1, permission="edit")
        await trio.sleep(3)
        assert await answers(town) == []
        assert await town.condition("pole-1") == "waiting"
        kilo.script.broken = frozenset()
        await trio.sleep(60)
        assert await answers(town) == [("permission", "allowed")]


async def test_an_ask_that_cannot_be_answered_keeps_no_other_waiting(town_on_fakes) -> None:
    """It is tried less and less often, which is no reason for a later one to wait."""
    script = Script(turn_seconds=3600, broken=frozenset({"POST /permission/per_1/reply"}))
    async with town_on_fakes(kilo=partial(FakeLauncher, script=script)) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        session = kilo.home.sessions[kilo.prompts[0]["session"]]
        kilo.wait_for("permission", session, 1, permission="edit")
        await trio.sleep(150)
        kilo.wait_for("permission", session, 2, permission="edit")
        await trio.sleep(1)
        assert await answers(town) == [("permission", "allowed")]


async def test_one_entry_of_no_kilo_keeps_no_other_from_its_answer(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        kilo.asks["permission"].append({"id": 5})
        kilo.wait_for("permission", kilo.home.sessions[kilo.prompts[0]["session"]], 1, permission="edit")
        await trio.sleep(1)
        assert await answers(town) == [("permission", "allowed")]
